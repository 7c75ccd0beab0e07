"""Is anything lost? Checks that the counters of a pipeline's instances add up, exactly; docs/data-plane.md explains it. Pure.

Three balances hold within one heartbeat at every moment, because a component takes a heartbeat's counters all at once:

1. an instance:  in = processed + filtered + dead-lettered + in hand
2. a downstream group of an instance:  out - skipped = offered = acknowledged + in flight + dropped
3. one end of an edge:  events = acknowledged + in flight + superseded (receiving end)

Between the two ends of an edge, within one sequence of offsets:

4. sender's done <= receiver's done <= receiver's next <= sender's next. When both have ended and the sender has nothing in
   flight, its first and last are equal, so that all four are. While they run, their heartbeats are of different moments: a
   comparison is made only where it holds whichever moments these were.
5. A completed instance has nothing in flight.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from flowctl.api import EdgeView, LiveView

SKEW_S: Final = 5.0
"""A heartbeat's counters are at most this much older than its arrival: a component gives the call no longer."""

Balance = Literal["balanced", "violated", "open", "unknown"]


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """Counters that do not add up. ``edge`` is ``(sender, receiver)``, ``<component>.<index>`` each; None if an instance is."""

    instance: str
    rule: str
    detail: str
    edge: tuple[str, str] | None = None


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """An edge between two instances (``<component>.<index>``) with what each end says of it.

    ``balance`` is ``balanced`` (both ends have ended, nothing is in flight, and they agree exactly), ``open`` (what can be
    compared is right; the rest is in flight), ``violated``, or ``unknown`` where an end says nothing.
    """

    sender: str
    receiver: str
    sent: EdgeView | None = None
    received: EdgeView | None = None
    balance: Balance = "unknown"
    violations: Sequence[Violation] = ()


def violations(views: Sequence[LiveView]) -> list[Violation]:
    """Everything that does not add up among the instances of one pipeline."""
    found = [each for view in views for each in _instance(view)]
    return found + [each for edge in edges(views) for each in edge.violations]


def edges(views: Sequence[LiveView]) -> list[Edge]:
    """The edges of one pipeline, in order of sender and receiver, each checked."""
    by_name = {_short(view): view for view in views}
    sent = {(name, edge.peer): edge for name, view in by_name.items() for edge in view.edges if edge.direction == "out"}
    received = {(edge.peer, name): edge for name, view in by_name.items() for edge in view.edges if edge.direction == "in"}
    return [_edge(pair, by_name, sent.get(pair), received.get(pair)) for pair in sorted({*sent, *received})]


def _short(view: LiveView) -> str:
    return view.instance.partition(".")[2]


def _instance(view: LiveView) -> list[Violation]:
    found: list[Violation] = []

    def check(rule: str, left: float, right: float, words: str) -> None:
        if left != right:
            found.append(Violation(instance=view.instance, rule=rule, detail=words))

    metrics = view.metrics
    if "processed_total" in metrics:
        into = metrics.get("events_in_total", 0)
        parts = [metrics.get(name, 0) for name in ("processed_total", "filtered_total", "dead_lettered_total", "in_hand")]
        words = " + ".join(
            f"{part:.0f} {name}" for part, name in zip(parts, ("processed", "filtered", "dead-lettered", "in hand"), strict=True)
        )
        check("instance", into, sum(parts), f"{into:.0f} in, but {words}")
        if view.ending == "completed":
            check("completed", parts[-1], 0, f"completed with {parts[-1]:.0f} in hand")
    out = metrics.get("events_out_total", 0)
    for group in view.groups:
        offered, parts = group.offered_total, (group.acked_total, group.in_flight, group.dropped_total)
        check("group", out - group.skipped_total, offered, f"{out:.0f} out, but {offered} offered to {group.component}")
        words = f"{parts[0]} acknowledged + {parts[1]} in flight + {parts[2]} dropped"
        check("group", offered, sum(parts), f"{offered} offered to {group.component}, but {words}")
        if view.ending == "completed":
            check("completed", group.in_flight, 0, f"completed with {group.in_flight} in flight to {group.component}")
    return found


def _edge(pair: tuple[str, str], views: Mapping[str, LiveView], sent: EdgeView | None, received: EdgeView | None) -> Edge:
    sender, receiver = pair
    found: list[Violation] = []
    for name, end in ((sender, sent), (receiver, received)):
        if end is not None and end.sender_incarnation:
            found += _end(views[name], pair, end)
    balance: Balance = "unknown"
    if sent is not None and received is not None and sent.sender_incarnation:
        found += _ends(views[sender], views[receiver], pair, sent, received)
        ended = bool(views[sender].ending and views[receiver].ending)
        balance = "balanced" if ended and not sent.in_flight else "open"
    if found:
        balance = "violated"
    return Edge(sender=sender, receiver=receiver, sent=sent, received=received, balance=balance, violations=found)


def _end(view: LiveView, pair: tuple[str, str], end: EdgeView) -> list[Violation]:
    parts = end.acked_total + end.in_flight + end.superseded_total
    if end.events_total == parts:
        return []
    verb = "given" if end.direction == "out" else "received"
    words = f"{end.acked_total} acknowledged + {end.in_flight} in flight + {end.superseded_total} superseded"
    return [Violation(instance=view.instance, edge=pair, rule="end", detail=f"{end.events_total} {verb}, but {words}")]


def _ends(sender: LiveView, receiver: LiveView, pair: tuple[str, str], sent: EdgeView, received: EdgeView) -> list[Violation]:
    """Whether what the two ends say is in order: each number here is at most the next one."""
    chain = [("acknowledged to the sender", sent.done_offset, sender), ("sent", sent.next_offset, sender)]
    if (sent.sender_incarnation, sent.epoch) == (received.sender_incarnation, received.epoch):
        chain[1:1] = [("done by the receiver", received.done_offset, receiver), ("received", received.next_offset, receiver)]
    return [
        Violation(instance=receiver.instance, edge=pair, rule="ends", detail=f"{low} {less}, but {high} {more}")
        for at, (less, low, view) in enumerate(chain)
        for more, high, other in chain[at + 1 :]
        if low > high and _at_once_or_later(view, other)
    ]


def _at_once_or_later(view: LiveView, other: LiveView) -> bool:
    """Whether the other's counters are certainly not older: numbers that only grow prove nothing against a later look."""
    return view is other or bool(other.ending) or view.heartbeat_age_s >= other.heartbeat_age_s + SKEW_S
