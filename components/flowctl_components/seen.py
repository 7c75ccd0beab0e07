"""Which events a sink has stored already: what makes at least once into once.

An event is one ``stream`` (its origin and path) and one position. The positions of the last ``window_events`` events are known
one by one. Of older ones the holes are known: the positions below a stream's highest that were not stored. Their events may be
filtered, with another replica, or late, so what falls into a hole is new; whatever else lies below is a repetition. When there
are too many holes the lowest are forgotten, and an event from there is taken as new, because it may be.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

WINDOW_EVENTS: Final = 131_072
MAX_HOLES: Final = 65_536

Stream = tuple[str, str]
"""Origin and path of an event."""


class Floor(msgspec.Struct, frozen=True):
    """What is known of a stream's events that are not known one by one.

    These are stored up to ``position``, except in ``holes``: their bounds in order, of each the first position that is in it and
    the first behind it. Up to ``blind`` there may be other holes.
    """

    position: int
    holes: list[int]
    blind: int = -1


class _Stream:
    __slots__ = ("blind", "floor", "holes", "mark", "recent")

    def __init__(self) -> None:
        self.mark = -1
        """The highest position stored."""
        self.floor = -1
        """The highest position that is no longer in ``recent``."""
        self.blind = -1
        """The highest position of a hole that was forgotten."""
        self.recent: set[int] = set()
        self.holes: list[int] = []
        """As in ``Floor``, up to ``mark``."""

    def in_hole(self, position: int) -> bool:
        """Whether the position is known not to be stored."""
        return bisect_right(self.holes, position) % 2 == 1

    def store(self, positions: Sequence[int]) -> None:
        """Move the mark over these positions, and keep the holes that they leave."""
        low, high = min(positions), max(positions)
        if low == self.mark + 1 and high - low == len(positions) - 1:
            self.mark = high
            return
        for position in positions:
            if position > self.mark:
                if position > self.mark + 1:
                    self.holes += (self.mark + 1, position)
                self.mark = position
            else:
                self._fill(position)

    def forget(self) -> None:
        """Give the lower half of the holes up."""
        count = (len(self.holes) // 4 or 1) * 2
        self.blind = max(self.blind, self.holes[count - 1] - 1)
        del self.holes[:count]

    def _fill(self, position: int) -> None:
        place = bisect_right(self.holes, position)
        if place % 2 == 0:
            return
        start, end = self.holes[place - 1], self.holes[place]
        before = (start, position) if start < position else ()
        behind = (position + 1, end) if position + 1 < end else ()
        self.holes[place - 1 : place + 1] = (*before, *behind)


class Seen:
    """The events stored so far."""

    def __init__(self, window_events: int = WINDOW_EVENTS, max_holes: int = MAX_HOLES) -> None:
        self._streams: dict[Stream, _Stream] = {}
        self._chunks: deque[tuple[Stream, Sequence[int]]] = deque()
        self._window_events = window_events
        self._recent_events = 0
        self._max_bounds = 2 * max_holes
        self._bounds = 0
        self.uncertain = 0
        """How many events were taken as new that may have been repetitions: from where holes were forgotten."""

    def new(self, stream: Stream, positions: Sequence[int]) -> list[int]:
        """The indexes of those positions that are not stored yet; a position that stands there twice counts once."""
        known = self._streams.get(stream) or _Stream()
        if min(positions) > known.mark and len(set(positions)) == len(positions):
            return list(range(len(positions)))
        fresh: list[int] = []
        here: set[int] = set()
        for index, position in enumerate(positions):
            if position in here or position in known.recent:
                continue
            if position <= known.floor and not known.in_hole(position):
                if position > known.blind:
                    continue
                self.uncertain += 1
            here.add(position)
            fresh.append(index)
        return fresh

    def add(self, stream: Stream, positions: Sequence[int]) -> None:
        """These positions, all new and at least one, are stored now."""
        known = self._streams.setdefault(stream, _Stream())
        bounds = len(known.holes)
        known.store(positions)
        self._bounds += len(known.holes) - bounds
        known.recent.update(positions)
        self._chunks.append((stream, positions))
        self._recent_events += len(positions)
        while self._recent_events > self._window_events and len(self._chunks) > 1:
            oldest, gone = self._chunks.popleft()
            state = self._streams[oldest]
            state.recent.difference_update(gone)
            state.floor = max(state.floor, *gone)
            self._recent_events -= len(gone)
        self._bound()

    def recent(self) -> list[tuple[Stream, Sequence[int]]]:
        """The stored events of the window, oldest first, as they were added."""
        return list(self._chunks)

    def floors(self) -> dict[Stream, Floor]:
        """For each stream, what is known of its events that are not in ``recent``."""
        return {
            stream: Floor(state.floor, _up_to(state.floor, state.holes), state.blind) for stream, state in self._streams.items()
        }

    def restore(self, stream: Stream, floor: Floor) -> None:
        """What ``floors`` said of a stream, before what ``recent`` said is added."""
        known = self._streams.setdefault(stream, _Stream())
        known.floor = known.mark = floor.position
        known.blind = floor.blind
        known.holes = list(floor.holes)
        self._bounds += len(known.holes)
        self._bound()

    def _bound(self) -> None:
        """Forget holes of the stream that has most, until there are few enough."""
        while self._bounds > self._max_bounds:
            largest = max(self._streams.values(), key=lambda state: len(state.holes))
            bounds = len(largest.holes)
            largest.forget()
            self._bounds += len(largest.holes) - bounds


def _up_to(position: int, holes: list[int]) -> list[int]:
    """The holes up to a position that is in none."""
    return holes[: bisect_right(holes, position)]
