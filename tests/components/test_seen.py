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


batches_of = st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=12), max_size=30)


@given(batches_of, st.integers(1, 20), st.integers(1, 60), st.data())
def test_nothing_new_is_discarded(batches: list[list[int]], window: int, holes: int, data: st.DataObject):
    """Against a model that remembers everything: in any order, with a tiny window, everything is stored.

    And once, unless holes had to be forgotten: then each event stored again is counted. What ``floors`` and ``recent`` say is
    enough to go on from at any time.
    """
    seen = Seen(window, holes)
    stored: set[int] = set()
    again = 0
    for batch in batches:
        uncertain = seen.uncertain
        taken = store(seen, batch)
        assert set(batch) - stored <= set(taken)
        assert len(set(taken)) == len(taken)
        repeated = stored & set(taken)
        assert len(repeated) <= seen.uncertain - uncertain
        again += len(repeated)
        stored |= set(taken)
        if data.draw(st.booleans()):
            seen = again_from(seen, window, holes)
    assert not again or holes < 31


def again_from(seen: Seen, window: int, holes: int) -> Seen:
    """What a sink knows after a restart."""
    fresh = Seen(window, holes)
    for stream, floor in seen.floors().items():
        fresh.restore(stream, floor)
    for stream, positions in seen.recent():
        fresh.add(stream, positions)
    return fresh


def test_what_was_away_comes_after_the_window():
    """Events of a replica that was away, in a stream that was in order so far, are new however many came in between."""
    seen = Seen(window_events=4)
    store(seen, [0, 1])
    for first in range(10, 100, 5):
        store(seen, list(range(first, first + 5)))
    assert store(seen, list(range(12))) == list(range(2, 10))
    assert store(seen, list(range(100))) == []
    assert seen.uncertain == 0


def test_what_may_be_new_is_kept():
    """Of more holes than are remembered the lowest are forgotten: an event from there is stored, and counted as uncertain."""
    seen = Seen(window_events=4, max_holes=2)
    for batch in ([0, 2], [4, 6], [8, 9], [10, 11]):
        store(seen, batch)
    assert store(seen, [0, 1, 3]) == [0, 1, 3]
    assert seen.uncertain == 3
    assert store(seen, [4, 5, 7, 8]) == [5, 7]
    assert seen.uncertain == 3


def test_streams_do_not_mix():
    """The same position of another source, or by another way, is another event."""
    seen = Seen()
    for stream in (("a.0", ""), ("b.0", ""), ("a.0", "/x.0"), ("a.0", "/x.1")):
        assert seen.new(stream, [7]) == [0]
        seen.add(stream, [7])
        assert seen.new(stream, [7]) == []
