"""Which events a sink has stored already: what makes at least once into once.

An event is one ``stream`` (its origin and path) and one position. Where the order is kept, which is so unless several
replicas of a processor share the work, a stream's positions only grow, and a lower one is a repetition. Where it is not
kept, the positions of the last ``window`` events are known one by one.
"""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

WINDOW_EVENTS: Final = 131_072

Stream = tuple[str, str]
"""Origin and path of an event."""


class _Stream:
    __slots__ = ("floor", "mark", "mixed", "recent")

    def __init__(self) -> None:
        self.mark = -1
        """The highest position stored."""
        self.floor = -1
        """The highest position that is no longer in ``recent``."""
        self.recent: set[int] = set()
        self.mixed = False
        """Whether an event was ever overtaken by a later one."""


class Seen:
    """The events stored so far."""

    def __init__(self, window_events: int = WINDOW_EVENTS) -> None:
        self._streams: dict[Stream, _Stream] = {}
        self._chunks: deque[tuple[Stream, Sequence[int]]] = deque()
        self._window_events = window_events
        self._recent_events = 0
        self.uncertain = 0
        """How many events were taken as new that may have been repetitions: older than the window in a stream without order."""

    def new(self, stream: Stream, positions: Sequence[int]) -> list[int]:
        """The indexes of those positions that are not stored yet; a position that stands there twice counts once."""
        known = self._streams.get(stream) or _Stream()
        if positions[0] > known.mark and all(low < high for low, high in pairwise(positions)):
            return list(range(len(positions)))
        fresh: list[int] = []
        here: set[int] = set()
        for index, position in enumerate(positions):
            if position in here or position in known.recent:
                continue
            if position <= known.floor:
                if not known.mixed:
                    continue
                self.uncertain += 1
            here.add(position)
            fresh.append(index)
        return fresh

    def add(self, stream: Stream, positions: Sequence[int]) -> None:
        """These positions, all new and at least one, are stored now."""
        known = self._streams.setdefault(stream, _Stream())
        if positions[0] < known.mark or any(low > high for low, high in pairwise(positions)):
            known.mixed = True
        highest = max(positions)
        known.mark = max(known.mark, highest)
        known.recent.update(positions)
        self._chunks.append((stream, positions))
        self._recent_events += len(positions)
        while self._recent_events > self._window_events and len(self._chunks) > 1:
            oldest, gone = self._chunks.popleft()
            state = self._streams[oldest]
            state.recent.difference_update(gone)
            highest = max(gone)
            state.floor = max(state.floor, highest)
            self._recent_events -= len(gone)

    def recent(self) -> list[tuple[Stream, Sequence[int]]]:
        """The stored events of the window, oldest first, as they were added."""
        return list(self._chunks)

    def floors(self) -> dict[Stream, tuple[int, bool]]:
        """For each stream, up to where its events are not known one by one, and whether it was ever out of order."""
        return {stream: (state.floor, state.mixed) for stream, state in self._streams.items()}

    def restore(self, stream: Stream, floor: int, *, mixed: bool) -> None:
        """What ``floors`` said of a stream."""
        known = self._streams.setdefault(stream, _Stream())
        known.floor = floor
        known.mark = max(known.mark, floor)
        known.mixed = mixed
