"""Windows over a stream: which events one call of a processor gets. Pure; time is an argument, monotonic nanoseconds.

A window's events stay unacknowledged until what came of the window is acknowledged, so a window is bounded by what an upstream
may keep: in events, in bytes and in time. The bounds are half of an outbox, so that the next window fills meanwhile.
"""

from typing import Final

import msgspec

from flowctl.errors import InvalidSettingError
from flowctl_sdk.acks import Held
from flowctl_sdk.columns import Columns
from flowctl_sdk.credit import OUTBOX_BYTES, OUTBOX_EVENTS
from flowctl_sdk.inbox import Arrival

MAX_COUNT: Final = OUTBOX_EVENTS // 2
MAX_BYTES: Final = OUTBOX_BYTES // 2
MAX_SECONDS: Final = 300.0
DEFAULT_SECONDS: Final = 10.0


class Window(msgspec.Struct, frozen=True):
    """When a window ends: with ``count`` events, or ``seconds`` after its first one, whichever comes first.

    It also ends when its payloads have 4 MiB, and when nothing can follow: at the end of the stream, or when the instance stops.
    """

    count: int = MAX_COUNT
    seconds: float = DEFAULT_SECONDS

    def check(self) -> None:
        """Whether it can be kept.

        Raises:
            InvalidSettingError: naming the bound.
        """
        if not 1 <= self.count <= MAX_COUNT:
            raise InvalidSettingError(
                f"Window(count={self.count}): a window has 1 to {MAX_COUNT:,} events",
                hint="its events are kept upstream until it is done; aggregate in steps instead",
            )
        if not 0 < self.seconds <= MAX_SECONDS:
            raise InvalidSettingError(
                f"Window(seconds={self.seconds}): a window lasts more than 0 and at most {MAX_SECONDS:g} seconds",
                hint="its events are kept upstream until it is done; aggregate in steps instead",
            )


class Gathering:
    """The window that is open: pieces of arrivals, in order."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._pieces: list[Arrival] = []
        self._count = 0
        self._size = 0
        self.deadline_ns = 0

    def __len__(self) -> int:
        return self._count

    @property
    def full(self) -> bool:
        """Whether it ends, whatever the time."""
        return self._count >= self._window.count or self._size >= MAX_BYTES

    def add(self, arrival: Arrival, now_ns: int) -> Arrival | None:
        """Take as many of the events as still belong into the window; returns the rest, None if there is none. Not when full."""
        if not self._count:
            self.deadline_ns = now_ns + int(self._window.seconds * 1e9)
        columns = arrival.columns
        fitting = min(len(columns), self._window.count - self._count)
        size = columns.size_bytes
        if self._size + size >= MAX_BYTES or fitting < len(columns):
            # The event that reaches the bound is the last: a window that is cut anew after a crash is cut at the same place.
            size, taken = 0, 0
            while taken < fitting and self._size + size < MAX_BYTES:
                size += columns.event_bytes(taken)
                taken += 1
            fitting = taken
        rest = None
        if fitting < len(columns):
            arrival, rest = arrival.split(fitting)
        self._pieces.append(arrival)
        self._count += fitting
        self._size += size
        return rest

    def close(self) -> tuple[Columns, list[Held]]:
        """The window's events, at least one, and what they hold open; the next window is empty."""
        pieces, self._pieces = self._pieces, []
        self._count = self._size = 0
        return Columns.merged([piece.columns for piece in pieces]), [piece.pending for piece in pieces]
