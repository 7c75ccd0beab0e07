"""When somebody's silence will have lasted too long, for tens of thousands: a heap whose entries are looked at when due. Pure.

A heartbeat does not touch the heap. A deadline that has passed only says: look now.
"""

import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Deadlines(Generic[Key]):
    """Keys with the earliest time at which to look at each, Unix nanoseconds."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Key]] = []
        self._ties = itertools.count()
        self._times: dict[Key, int] = {}

    def __len__(self) -> int:
        return len(self._times)

    def set(self, key: Key, time_ns: int) -> None:
        """Look at ``key`` after ``time_ns``; an earlier look that is planned already stays."""
        known = self._times.get(key)
        if known is None or time_ns < known:
            self._times[key] = time_ns
            heapq.heappush(self._heap, (time_ns, next(self._ties), key))

    def next_ns(self) -> int | None:
        """The earliest of all, None if there is none."""
        while self._heap and self._times.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def due(self, time_ns: int) -> list[Key]:
        """Take out the keys whose time lies before ``time_ns``."""
        found: list[Key] = []
        while (next_ns := self.next_ns()) is not None and next_ns < time_ns:
            _, _, key = heapq.heappop(self._heap)
            del self._times[key]
            found.append(key)
        return found
