"""What has arrived and waits for the author's code. Bounded by the credit that was granted."""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, cast

import msgspec

from flowctl_sdk.acks import Held, Pending
from flowctl_sdk.columns import Columns
from flowctl_sdk.signals import Begun, Place, Signal

AT_ONCE_NS: Final = 500_000
"""After so long without work an arrival is worked on at once."""

Handle = Callable[["Arrival"], Coroutine[Any, Any, None]]


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


class _Resting(NamedTuple):
    """A worker that waits, and since when."""

    handle: Handle
    place: Place
    since_ns: int


class Inbox:
    """Arrivals of all inputs in the order in which they came. ``rested`` is called when all of them have been worked on."""

    def __init__(self, rested: Callable[[], None] | None = None) -> None:
        self._rested = rested
        self._arrivals: deque[Arrival] = deque()
        self._signal = Signal()
        self._resting: _Resting | None = None
        self._begun: Begun | None = None
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
        resting = self._resting
        if resting is None or time.monotonic_ns() - resting.since_ns < AT_ONCE_NS:
            self._signal.set()
            return
        self._resting = None
        self.busy = True
        begun = Begun(resting.handle(self._take()), resting.place)
        if begun.done and not begun.failed and not self._arrivals:
            self._rest(resting.handle, resting.place)
        else:
            self._begun = begun
            self._signal.set()

    async def serve(self, handle: Handle) -> None:
        """Have the arrivals worked on, one after the other, until cancelled.

        One that finds the worker resting for a while is worked on at once, by whoever brings it, as far as that goes without
        waiting. When they follow each other closely they pile up here instead, and the worker may take several together.

        Raises:
            Exception: what ``handle`` raises.
        """
        context = contextvars.copy_context()
        await asyncio.create_task(self._serve(handle, context), context=context)

    async def _serve(self, handle: Handle, context: contextvars.Context) -> None:
        place = Place(cast("asyncio.Task[Any]", asyncio.current_task()), context)
        while True:
            begun, self._begun = self._begun, None
            if begun is not None:
                await begun
            while self._arrivals:
                self.busy = True
                await handle(self._take())
            self._rest(handle, place)
            await self._signal.wait()
            self._resting = None

    def _rest(self, handle: Handle, place: Place) -> None:
        self.busy = False
        self._resting = _Resting(handle, place, time.monotonic_ns())
        if self._rested is not None:
            self._rested()

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
