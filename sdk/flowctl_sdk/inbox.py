"""What has arrived and waits for the author's code. Bounded by the credit that was granted."""

from collections import deque
from collections.abc import Callable
from typing import cast

import msgspec

from flowctl_sdk.acks import Held, Pending
from flowctl_sdk.columns import Columns
from flowctl_sdk.signals import Signal


class Arrival(msgspec.Struct, frozen=True):
    """A batch from one upstream instance; ``pending`` is released when everything that came of it is done."""

    columns: Columns
    pending: Held

    def split(self, count: int) -> "tuple[Arrival, Arrival]":
        """The first ``count`` events and the rest, each done by itself."""
        columns, total = self.columns, len(self.columns)
        pending = self.pending
        first = pending
        if isinstance(pending, Pending):
            first = cast("Pending[int]", pending).split(total - count)
        else:
            # Nobody counts its parts: it is done when both are.
            pending.hold()
        return Arrival(columns.select(range(count)), first), Arrival(columns.select(range(count, total)), self.pending)


class Inbox:
    """Arrivals of all inputs in the order in which they came. ``rested`` is called when all of them have been worked on."""

    def __init__(self, rested: Callable[[], None] | None = None) -> None:
        self._rested = rested
        self._arrivals: deque[Arrival] = deque()
        self._signal = Signal()
        self.busy = False
        self.events_total = 0
        # Events taken out whose outcome is not counted yet.
        self._taken = 0

    def __len__(self) -> int:
        return len(self._arrivals)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is being worked on."""
        return not self._arrivals and not self.busy

    @property
    def in_hand(self) -> int:
        """Events that wait or are being worked on."""
        return self._taken + sum(len(arrival.columns) for arrival in self._arrivals)

    def finish(self, events: int) -> None:
        """The outcome of so many events that were taken out is counted."""
        self._taken -= events

    def put(self, arrival: Arrival) -> None:
        """A batch has arrived."""
        self._arrivals.append(arrival)
        self.events_total += len(arrival.columns)
        self._signal.set()

    def wake(self) -> None:
        """Let ``wait`` return."""
        self._signal.set()

    async def wait(self) -> None:
        """Until something may have arrived, or ``wake`` was called; busy meanwhile."""
        await self._signal.wait()

    async def get(self) -> Arrival:
        """The oldest arrival; waits for one. Until the next call, or ``busy = False``, the inbox is busy."""
        self.busy = False
        if not self._arrivals:
            if self._rested is not None:
                self._rested()
            await self._signal.until(lambda: bool(self._arrivals))
        self.busy = True
        return self._take()

    def get_nowait(self) -> Arrival | None:
        """The oldest arrival, if there is one."""
        return self._take() if self._arrivals else None

    def _take(self) -> Arrival:
        arrival = self._arrivals.popleft()
        self._taken += len(arrival.columns)
        return arrival
