"""When to send, and what to send together: the pacing against its rules under any schedule, and joined batches in an outbox."""

from hypothesis import given
from hypothesis import strategies as st

from flowctl_sdk.acks import AckLog
from flowctl_sdk.batching import GATHER_EVENTS, GATHER_NS, PARTS_NS, Pace, PartsPace
from flowctl_sdk.columns import Columns, Names
from flowctl_sdk.credit import Allowance
from flowctl_sdk.outbox import Entry, Outbox

MOMENTS = st.lists(st.tuples(st.integers(0, 2 * PARTS_NS), st.integers(1, 600)), max_size=40)


@given(MOMENTS)
def test_a_source_sends_at_once_or_within_a_millisecond(moments: list[tuple[int, int]]):
    """Whoever obeys sends at least a millisecond apart, unless a batch is full, and never waits longer than that."""
    pace, now, last = Pace(), 0, -GATHER_NS
    for later_ns, gathered in moments:
        now += later_ns
        wait_ns = pace.wait_ns(now, gathered)
        assert wait_ns == (0 if gathered >= GATHER_EVENTS else max(0, last + GATHER_NS - now))
        now += wait_ns
        assert pace.wait_ns(now, gathered) == 0
        pace.sent(now)
        last = now


@given(MOMENTS)
def test_parts_wait_only_where_it_pays(moments: list[tuple[int, int]]):
    """Never longer than 4 ms after the last message, never when full, never when too little comes to fill half a batch."""
    pace, now, last = PartsPace(), 0, -PARTS_NS
    for later_ns, gathered in moments:
        now += later_ns
        wait_ns = pace.wait_ns(now, gathered)
        assert 0 <= wait_ns <= max(0, last + PARTS_NS - now)
        if gathered >= GATHER_EVENTS or now - last >= PARTS_NS:
            assert wait_ns == 0
        elif wait_ns:
            assert gathered / (now - last or 1) * PARTS_NS >= GATHER_EVENTS / 2 - 1
        now += wait_ns
        pace.sent(now)
        last = now


def test_a_quiet_edge_never_waits():
    """A few events a millisecond are sent as they come."""
    pace = PartsPace()
    for millisecond in range(1, 50):
        assert pace.wait_ns(millisecond * 1_000_000, 3) == 0
        pace.sent(millisecond * 1_000_000)


def columns(first: int, count: int, path: str) -> Columns:
    positions = range(first, first + count)
    return Columns([b"%d" % n for n in positions], [1] * count, positions, Names(["s.0"]), Names([path]), Names(), {})


@given(st.lists(st.tuples(st.integers(1, 300), st.sampled_from(["/a.0", "/b.0"]), st.booleans()), max_size=30))
def test_an_outbox_joins_what_waits(batches: list[tuple[int, str, bool]]):
    """Whatever piles up, whenever it is sent: every event once and in order, no message over 512, inputs done at their acks."""
    done: list[int] = [-1]
    acks: AckLog[int] = AckLog(done.append)
    outbox = Outbox()
    outbox.rewind(1)
    allowance = Allowance(10**9, 10**9)
    added, sent, position = 0, 0, 0

    def send() -> None:
        nonlocal sent
        while (entry := outbox.take(allowance)) is not None:
            events = entry.columns().events()
            assert entry.first == sent
            assert len(events) == entry.count <= GATHER_EVENTS
            assert [event.position for event in events] == list(range(sent, sent + entry.count))
            assert {event.path for event in events} == {paths[event.position] for event in events}
            sent += entry.count

    paths: list[str] = []
    for count, path, now in batches:
        paths += [path] * count
        pending = acks.open(position + count - 1)
        outbox.add(Entry(columns(position, count, path), [pending]))
        pending.release()
        position += count
        added += count
        assert outbox.events == added
        if now:
            send()
    send()
    assert sent == position
    if position:
        middle = position // 2
        outbox.acknowledge(middle)
        assert done[-1] <= middle
        if middle < position - 1:
            outbox.acknowledge(position - 1)
    assert done[-1] == position - 1
    assert outbox.events == 0
