"""What a sink has stored: nothing new is ever taken for a repetition, and a repetition never for something new."""

from hypothesis import given
from hypothesis import strategies as st

from flowctl_components.seen import Seen

STREAM = ("numbers.0", "")


def store(seen: Seen, positions: list[int]) -> list[int]:
    """What a sink does with a batch; the positions that it stores."""
    stored = [positions[index] for index in seen.new(STREAM, positions)]
    if stored:
        seen.add(STREAM, stored)
    return stored


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.lists(st.integers(0, 200), max_size=20))
def test_replays_of_an_ordered_stream_are_recognised_however_old(steps: list[int], replays: list[int]):
    """A source that goes back to any earlier position, as often as it likes: each event is stored once, with a tiny window."""
    positions = [sum(steps[: n + 1]) + n for n in range(len(steps))]
    seen = Seen(window_events=4)
    stored: list[int] = []
    for back in [*replays, 200]:
        start = max(0, len(stored) - back)
        for first in range(start, min(len(positions), start + back + 10), 5):
            stored += store(seen, positions[first : first + 5])
    start = len(stored)
    stored += store(seen, positions[start:]) if positions[start:] else []
    assert stored == positions


@given(st.permutations(range(40)), st.lists(st.integers(0, 39), max_size=60))
def test_events_out_of_order_are_stored_once(order: list[int], replays: list[int]):
    """Within the window any order will do, with repetitions anywhere."""
    seen = Seen()
    stored = [position for start in range(0, 40, 7) for position in store(seen, order[start : start + 7])]
    assert stored == list(order)
    assert not [position for position in replays if store(seen, [position])]
    assert seen.uncertain == 0


def test_the_same_event_twice_in_a_batch_counts_once():
    """A reconnect can bring an event and its repetition together."""
    assert store(Seen(), [3, 4, 4, 3, 5]) == [3, 4, 5]


def test_what_may_be_new_is_kept():
    """In a stream without order, an event older than the window may be new: it is stored, and counted as uncertain."""
    seen = Seen(window_events=4)
    for batch in ([0, 2], [1, 3], [4, 5], [6, 7], [8, 9]):
        store(seen, batch)
    assert store(seen, [1]) == [1]
    assert seen.uncertain == 1


def test_streams_do_not_mix():
    """The same position of another source, or by another way, is another event."""
    seen = Seen()
    for stream in (("a.0", ""), ("b.0", ""), ("a.0", "/x.0"), ("a.0", "/x.1")):
        assert seen.new(stream, [7]) == [0]
        seen.add(stream, [7])
        assert seen.new(stream, [7]) == []
