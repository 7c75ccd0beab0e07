"""The upstream's bookkeeping against a model: whatever happens, nothing is lost, and inputs are done exactly when they may be."""

import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl_sdk.acks import SPARE, AckLog, Pending
from flowctl_sdk.columns import Columns, Names
from flowctl_sdk.credit import OUTBOX_EVENTS, Allowance, Window
from flowctl_sdk.faults import ProtocolError
from flowctl_sdk.outbox import Outbox
from flowctl_sdk.routing import GroupSpec, Router


def batch(first: int, count: int) -> Columns:
    """Events whose payload is their position and whose key is position mod 7."""
    return Columns(
        [b'{"n":%d,"key":%d}' % (n, n % 7) for n in range(first, first + count)],
        [1] * count,
        list(range(first, first + count)),
        Names(["source.0"]),
        Names(),
        Names(),
        {},
    )


class Receiver:
    """The model of one downstream instance: takes what is sent on the present stream, and acknowledges it as it likes."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.incarnation = 0
        self.arrived: list[tuple[int, int]] = []
        self.next_expected = 0
        self.connect()

    def connect(self) -> None:
        self.incarnation += 1
        self.outbox.connected = True
        self.next_expected = self.outbox.rewind(self.incarnation)
        self.allowance = Allowance(20, 2_000)
        self.arrived = []

    def receive(self, log: list[int]) -> None:
        entry = self.outbox.take(self.allowance)
        if entry is None:
            return
        assert entry.first == self.next_expected, "offsets are contiguous"
        self.next_expected = entry.end
        assert self.allowance.events >= 0
        for offset, position in zip(range(entry.first, entry.end), entry.columns().positions, strict=True):
            self.arrived.append((offset, position))
            log.append(position)

    def acknowledge(self, share: float) -> set[int]:
        """Acknowledge that share of what has arrived; returns the positions."""
        count = round(len(self.arrived) * share)
        if not count:
            return set()
        done, self.arrived = self.arrived[:count], self.arrived[count:]
        self.outbox.acknowledge(done[-1][0])
        self.allowance.add(count, 100 * count)
        return {position for _, position in done}


@given(st.integers(0, 2**32), st.sampled_from(["", "payload.key", "payload", "id"]))
def test_nothing_is_lost(seed: int, partition_by: str):
    """Under any schedule of sends, acks, reconnects, restarts and membership changes every group gets every event.

    And the checkpoint never passes an event that a group has not acknowledged; with a key the order per key is kept by a
    schedule without restarts of receivers.
    """
    chance = random.Random(seed)
    marks = [-1]
    acks: AckLog[int] = AckLog(marks.append)
    router = Router()
    specs = {"a": GroupSpec("a", (0, 1, 2), partition_by), "b": GroupSpec("b", (0,))}
    router.apply(list(specs.values()))
    receivers: dict[tuple[str, int], Receiver] = {}
    acknowledged: dict[str, set[int]] = defaultdict(set)
    seen: dict[str, list[int]] = defaultdict(list)
    position = 0

    def step(action: str) -> None:
        nonlocal position
        for key, outbox in router.outboxes():
            if key not in receivers or receivers[key].outbox is not outbox:
                receivers[key] = Receiver(outbox)
        present = [receivers[key] for key, _ in router.outboxes()]
        names = {id(receivers[key]): key[0] for key, _ in router.outboxes()}
        places = {id(receivers[key]): key for key, _ in router.outboxes()}
        match action:
            case "emit" if router.ready and position < 600:
                count = chance.randint(1, 40)
                pending = acks.open(position + count - 1)
                router.dispatch(batch(position, count), [pending])
                pending.release()
                position += count
            case "receive":
                receiver = chance.choice(present)
                receiver.receive(seen[names[id(receiver)]])
            case "ack":
                receiver = chance.choice(present)
                acknowledged[names[id(receiver)]] |= receiver.acknowledge(chance.choice([0.3, 1.0]))
                if receiver.outbox.leaving and not receiver.outbox.events:
                    router.retire(*places[id(receiver)])
            case "restart":
                receiver = chance.choice(present)
                if receiver.outbox.leaving:
                    router.retire(*places[id(receiver)])
                else:
                    receiver.connect()
            case "members":
                members = tuple(sorted(chance.sample(range(4), chance.randint(1, 4))))
                specs["a"] = GroupSpec("a", members, partition_by)
                router.apply(list(specs.values()))
            case _:
                pass
        for mark in range(marks[-1] + 1):
            assert all(mark in acknowledged[name] for name in specs), f"{mark} is checkpointed and not acknowledged"

    for _ in range(chance.randint(0, 150)):
        step(chance.choices(["emit", "receive", "ack", "restart", "members"], [3, 8, 5, 0.3, 0.3])[0])
    for _ in range(3_000):
        if not len(acks):
            break
        step(chance.choice(["receive", "ack"]))
    assert not len(acks)
    assert router.outstanding == 0
    assert marks[-1] == position - 1
    for name in specs:
        assert acknowledged[name] == set(range(position))


@given(st.integers(0, 2**32))
def test_order_per_key_survives_a_change_of_members(seed: int):
    """With a key, events of one key arrive at the group in order, however its members change, and each of them once.

    Whoever leaves works off what it was given; only who leaves and comes back at once is cut off from that.
    """
    chance = random.Random(seed)
    acks: AckLog[int] = AckLog(lambda _: None)
    router = Router()
    router.apply([GroupSpec("a", (0, 1), "payload.key")])
    receivers: dict[int, Receiver] = {}
    arrived: list[int] = []
    position = 0
    for _ in range(200):
        for (_, index), outbox in router.outboxes():
            if index not in receivers or receivers[index].outbox is not outbox:
                receivers[index] = Receiver(outbox)
        present = [receivers[index] for (_, index), _ in router.outboxes()]
        action = chance.choices(["emit", "receive", "members"], [3, 6, 0.5])[0]
        if action == "emit" and router.ready:
            pending = acks.open(position)
            router.dispatch(batch(position, 5), [pending])
            pending.release()
            position += 5
        elif action == "receive":
            receiver = chance.choice(present)
            receiver.receive(arrived)
            receiver.acknowledge(1.0)
            if receiver.outbox.leaving and not receiver.outbox.events:
                router.retire(*next(name for name, outbox in router.outboxes() if outbox is receiver.outbox))
        elif action == "members":
            router.apply([GroupSpec("a", tuple(sorted(chance.sample(range(4), chance.randint(1, 4)))), "payload.key")])
    for key in range(7):
        of_key = [n for n in arrived if n % 7 == key]
        assert of_key == sorted(set(of_key))


def test_an_input_is_done_when_every_group_has_acknowledged_it():
    """Two groups: one ack is not enough; a group that is removed does not hold anything up."""
    done: list[int] = []
    acks: AckLog[int] = AckLog(done.append)
    router = Router()
    router.apply([GroupSpec("a", (0,)), GroupSpec("b", (0,))])
    a, b = Receiver(router.groups["a"].members[0]), Receiver(router.groups["b"].members[0])
    for first in (0, 10):
        pending = acks.open(first + 9)
        router.dispatch(batch(first, 10), [pending])
        pending.release()
        if not first:
            a.receive([])
            b.receive([])
    a.acknowledge(1.0)
    assert done == []
    b.acknowledge(1.0)
    assert done == [9]
    router.apply([GroupSpec("a", (0,))])
    a.receive([])
    a.acknowledge(1.0)
    assert done == [9, 19]


def test_a_component_that_takes_anothers_place_gets_what_it_had_not_done():
    """A file that has b in place of a: what a had not acknowledged goes to b, and the inputs stay open until b has it."""
    done: list[int] = []
    acks: AckLog[int] = AckLog(done.append)
    router = Router()
    router.apply([GroupSpec("a", (0,)), GroupSpec("c", (0,))])
    a, c = Receiver(router.groups["a"].members[0]), Receiver(router.groups["c"].members[0])
    for first in (0, 10):
        pending = acks.open(first + 9)
        router.dispatch(batch(first, 10), [pending])
        pending.release()
        a.receive([])
        c.receive([])
    a.outbox.acknowledge(9)
    c.acknowledge(1.0)
    assert done == [9]
    router.apply([GroupSpec("b", (0,)), GroupSpec("c", (0,))])
    assert done == [9], "what a had not acknowledged is not done"
    group = router.groups["b"]
    assert router.dispatched_total - group.skipped_total == group.offered_total == 10
    b, arrived = Receiver(group.members[0]), list[int]()
    b.receive(arrived)
    b.acknowledge(1.0)
    assert arrived == list(range(10, 20))
    assert done == [9, 19]
    router.apply([GroupSpec("b", (0,))])
    assert router.outstanding == 0


def test_who_has_nobody_downstream_any_more_lets_go_of_nothing():
    """The file has this component no longer: its inputs are not done, and it takes none, until somebody is below it again."""
    done: list[int] = []
    acks: AckLog[int] = AckLog(done.append)
    router = Router()
    router.apply([GroupSpec("a", (0,)), GroupSpec("b", (0,), "", drops=True)])
    pending = acks.open(9)
    router.dispatch(batch(0, 10), [pending])
    pending.release()
    for _ in range(2):
        router.apply([])
        assert done == []
        assert router.cut_off
        assert not router.ready
        assert router.outstanding == router.awaited == 0
    router.apply([GroupSpec("c", (0,))])
    assert router.ready
    assert not router.cut_off
    c, arrived = Receiver(router.groups["c"].members[0]), list[int]()
    while c.outbox.waiting:
        c.receive(arrived)
        c.acknowledge(1.0)
    assert set(arrived) == set(range(10))
    assert done == [9]


def test_inputs_are_reported_in_order():
    """A later batch that is done first waits for the earlier one."""
    done: list[int] = []
    acks: AckLog[int] = AckLog(done.append)
    first, second = acks.open(1), acks.open(2)
    second.release()
    assert done == []
    first.release()
    assert done == [2]


@given(st.integers(0, 2**32))
def test_the_log_of_inputs_is_as_long_as_what_is_open(seed: int):
    """In whatever order inputs are done and parted, the reports are those of a log that keeps everything; and it stays short."""
    chance = random.Random(seed)
    done = [0]
    acks: AckLog[int] = AckLog(done.append)
    still_open: dict[int, Pending[int]] = {}
    tokens: list[int] = []
    parted: set[int] = set()
    away = 4 * chance.randint(1, 5)
    for _ in range(800):
        action = chance.choices(["open", "release", "oldest", "part"], [10, 10, 0.05, 1])[0]
        # The first ones went to a replica that is away.
        of_others = [token for token in still_open if token > away]
        if action == "open":
            tokens.append(4 * len(tokens) + 4)
            still_open[tokens[-1]] = acks.open(tokens[-1])
        elif action == "release" and of_others:
            still_open.pop(chance.choice(of_others)).release()
        elif action == "oldest" and still_open:
            still_open.pop(min(still_open)).release()
        elif action == "part" and (whole := [token for token in still_open if not token % 4 and token - 2 not in parted]):
            token = chance.choice(whole)
            parted.add(token - 2)
            still_open[token - 2] = still_open[token].split(2)
        oldest = min(still_open, default=tokens[-1] + 1 if tokens else 1)
        assert done[-1] == max(token for token in (0, *tokens, *parted) if token < oldest)
        assert len(acks) <= 3 * len(still_open) + SPARE
    for pending in list(still_open.values()):
        pending.release()
    assert not len(acks)
    assert done[-1] == tokens[-1]
    assert done == sorted(set(done))


def test_a_full_outbox_blocks_or_drops():
    """A group that blocks is not ready when full; one that drops takes the batch, counts it, and lets the input go."""
    for drops in (False, True):
        acks: AckLog[int] = AckLog(lambda _: None)
        router = Router()
        router.apply([GroupSpec("a", (0,), "", drops)])
        for first in range(0, OUTBOX_EVENTS, 512):
            router.dispatch(batch(first, 512), [])
        assert router.ready is drops
        if drops:
            pending = acks.open(0)
            router.dispatch(batch(0, 5), [pending])
            pending.release()
            assert not len(acks)
            assert router.groups["a"].members[0].dropped_total == 5


def test_not_ready_before_the_first_topology_or_without_members():
    """Nothing is emitted to nobody knows whom."""
    router = Router()
    assert not router.ready
    router.apply([GroupSpec("a", ())])
    assert not router.ready
    router.apply([GroupSpec("a", (0,))])
    assert router.ready


def test_what_had_to_leave_waits_for_a_home():
    """Events of the only instance wait while the group is empty, and go to the next that joins."""
    router = Router()
    router.apply([GroupSpec("a", (0,))])
    router.dispatch(batch(0, 10), [])
    router.apply([GroupSpec("a", ())])
    assert router.outstanding == 10
    router.apply([GroupSpec("a", (3,))])
    arrived: list[int] = []
    Receiver(router.groups["a"].members[3]).receive(arrived)
    assert arrived == list(range(10))


def test_a_single_large_event_passes_a_small_credit():
    """An event larger than all the bytes allowed goes alone when nothing is under way, and not before."""
    router = Router()
    router.apply([GroupSpec("a", (0,))])
    outbox = router.groups["a"].members[0]
    router.dispatch(batch(0, 3), [])
    allowance = Allowance(10, 5)
    first = outbox.take(allowance)
    assert first is not None
    assert first.count == 1
    assert outbox.take(allowance) is None
    outbox.acknowledge(0)
    assert outbox.take(allowance) is not None


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 3)), max_size=60))
def test_window_and_allowance_agree(schedule: list[tuple[int, int]]):
    """A sender that keeps to its allowance never exceeds the receiver's window, and gets everything back when all is done."""
    window, allowance = Window(100, 10_000), Allowance(100, 10_000)
    offset, done = 0, -1
    for count, acknowledged in schedule:
        if count <= allowance.events and count * 10 <= allowance.size:
            allowance.spend(count, count * 10)
            offset += count
            window.receive(offset - 1, count, count * 10)
        done = min(offset - 1, done + acknowledged * 20)
        window.acknowledge(done)
        grant = window.grant()
        if grant is not None:
            allowance.add(*grant)
    window.acknowledge(offset - 1)
    grant = window.grant()
    if grant is not None:
        allowance.add(*grant)
    assert (allowance.events, allowance.size) == (100, 10_000)
    with pytest.raises(ProtocolError, match="exceed the credit"):
        window.receive(offset + 100, 101, 0)
