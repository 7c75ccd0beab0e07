"""Do the counters add up? The judge's own sums over what instances said of themselves; none of ``flowctl.conservation``.

On every edge, in = out + filtered + dead-lettered + in flight. That is four equations for one instance, which hold in every
single heartbeat, and for two neighbours that have ended one more: what left the one is what the other has done.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec


class End(msgspec.Struct, frozen=True, kw_only=True):
    """One end of an edge: ``out`` (or in) and the other instance. ``sequence`` is the sender's incarnation and epoch."""

    peer: str
    out: bool
    events: int
    acked: int
    in_flight: int
    superseded: int
    dropped: int
    sequence: tuple[int, int]
    next: int
    done: int


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance gave to all instances of one component."""

    component: str
    offered: int
    acked: int
    in_flight: int
    dropped: int
    skipped: int


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """The counters of one incarnation of ``<component>.<index>``; ``ending`` says that they are final, and why."""

    instance: str
    incarnation: int
    ending: str
    counters: dict[str, float]
    ends: list[End]
    shares: list[Share]

    @property
    def component(self) -> str:
        """Whose instance it is."""
        return self.instance.rpartition(".")[0]

    def count(self, name: str) -> int:
        """A counter."""
        return int(self.counters.get(name, 0))

    def share(self, component: str) -> Share | None:
        """What it gave to a component."""
        return next((share for share in self.shares if share.component == component), None)

    def end(self, peer: str, *, out: bool) -> End | None:
        """Its end of an edge."""
        return next((end for end in self.ends if end.peer == peer and end.out == out), None)


def unbalanced(account: Account) -> list[str]:
    """What does not add up within one heartbeat."""
    found: list[str] = []
    count = account.count
    if "processed_total" in account.counters:
        names = ("processed_total", "filtered_total", "dead_lettered_total", "in_hand")
        found += _equal("in", count("events_in_total"), {name: count(name) for name in names})
    for share in account.shares:
        to = f" to {share.component}"
        found += _equal(f"out, not skipped,{to}", count("events_out_total") - share.skipped, {"offered": share.offered})
        parts = {"acknowledged": share.acked, "in flight": share.in_flight, "dropped": share.dropped}
        found += _equal(f"offered{to}", share.offered, parts)
    for end in account.ends:
        side = f"{'sent to' if end.out else 'received from'} {end.peer}"
        parts = {"acknowledged": end.acked, "in flight": end.in_flight, "superseded": end.superseded}
        found += _equal(side, end.events, parts)
        if end.next - end.done != end.in_flight:
            found.append(f"{side}: offsets {end.done} to {end.next}, but {end.in_flight} in flight")
    if account.ending == "completed":
        left = {"in hand": count("in_hand"), **{f"in flight {end.peer}": end.in_flight for end in account.ends}}
        found += [f"completed with {number} {what}" for what, number in left.items() if number]
        found += [
            f"completed with {share.in_flight} in flight to {share.component}" for share in account.shares if share.in_flight
        ]
    return [f"{account.instance} ({account.incarnation}): {problem}" for problem in found]


def unequal(accounts: Iterable[Account], graph: Mapping[str, tuple[Sequence[str], int]]) -> list[str]:
    """The edges of a pipeline that has completed whose two ends disagree. ``graph``: a component's inputs, and its replicas."""
    last = {account.instance: account for account in accounts}
    found: list[str] = []
    for component, (inputs, replicas) in graph.items():
        for index in range(replicas):
            receiver = last.get(f"{component}.{index}")
            for name in inputs:
                for number in range(graph[name][1]):
                    found += _edge(last.get(f"{name}.{number}"), receiver, f"{name}.{number} → {component}.{index}")
    return found


def _edge(sender: Account | None, receiver: Account | None, name: str) -> list[str]:
    if sender is None or receiver is None:
        return [f"{name}: no counters of {'the sender' if sender is None else 'the receiver'}"]
    silent = [account.instance for account in (sender, receiver) if account.ending != "completed"]
    if silent:
        return [f"{name}: no final counters of {', '.join(silent)}"]
    sent, received = sender.end(receiver.instance, out=True), receiver.end(sender.instance, out=False)
    if received is None:
        return [f"{name}: the receiver does not know the edge"]
    if sent is None:
        # It had completed before the receiver was added.
        return [f"{name}: {received.events} received, and never sent"] if received.events else []
    if sent.sequence == received.sequence:
        four = (sent.done, received.done, received.next, sent.next)
        return [] if len(set(four)) == 1 else [f"{name}: acknowledged, done, received, sent are {four}"]
    # The receiver never met this sequence of offsets: so nothing went over it, or to an earlier incarnation of the receiver.
    earlier = sent.next == 0 or receiver.incarnation > 1
    return [] if earlier else [f"{name}: {sent.next} sent in {sent.sequence}, and the receiver knows {received.sequence} only"]


def _equal(what: str, left: int, parts: Mapping[str, int]) -> list[str]:
    if left == sum(parts.values()):
        return []
    return [f"{left} {what}, but " + " + ".join(f"{number} {name}" for name, number in parts.items())]
