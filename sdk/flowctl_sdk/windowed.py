"""The working loop of a processor with windows: gather a window, call the author's code, pass on, let go."""

import asyncio
import time
from collections.abc import Callable
from typing import cast

from flowctl_sdk.author import Processor
from flowctl_sdk.calls import BatchCall, Failures
from flowctl_sdk.columns import Columns
from flowctl_sdk.derive import derive
from flowctl_sdk.faults import EventFailedError
from flowctl_sdk.inbox import Arrival, Inbox
from flowctl_sdk.passing import pass_on
from flowctl_sdk.routing import Router
from flowctl_sdk.signals import Bell
from flowctl_sdk.windows import Gathering, Window


class WindowTransform:
    """An author's processor as a function of a window's columns.

    Outputs derive from the last event of the window: they have its origin, position, time and type unless they say otherwise,
    and an ordinal.
    """

    def __init__(self, processor: Processor, window: Window, component: str, failures: Failures) -> None:
        """Prepare the calls.

        Raises:
            InvalidSettingError: if the window cannot be kept.
        """
        window.check()
        self.window = window
        self._suffix = f"/{component}"
        self._failures = failures
        self._call = BatchCall(processor.process, failures, blocking=processor.blocking, whole=True)
        self.put_aside = 0

    async def __call__(self, columns: Columns) -> tuple[Columns | None, int]:
        """The outputs, and how many inputs gave none by themselves. ``put_aside`` is how many became dead letters instead.

        Raises:
            EventFailedError: if the author's code raised for good, or returned what no event can be made of.
        """
        events = columns.events()
        before = self._failures.put_aside_total
        # A window is one piece of work: which event is at fault cannot be found out by calling with fewer.
        result = await self._call(events)
        self.put_aside = self._failures.put_aside_total - before
        if self.put_aside:
            return None, len(events) - self.put_aside
        last = columns.select([len(columns) - 1])
        results: list[object] = cast("list[object]", list(result)) if isinstance(result, list | tuple) else [result]  # pyright: ignore[reportUnknownArgumentType]
        try:
            outputs, none = derive(last, [results], self._suffix)
        except (TypeError, ValueError) as error:
            what = f"process() returned something that is no event: {error}"
            if self._failures.puts_aside:
                for event in events:
                    await self._failures.put_aside(event, f"its window failed: {what}", 1)
                self.put_aside = len(events)
                return None, 0
            raise EventFailedError(f"the window from {events[0].id} to {events[-1].id}: {what}") from error
        return outputs, len(events) - 1 + none


class WindowWork:
    """Runs a processor with windows. ``over`` says that nothing more comes; ``settled`` is rung when that may have changed."""

    def __init__(
        self, transform: WindowTransform, inbox: Inbox, router: Router, room: Bell, *, settled: Bell, over: Callable[[], bool]
    ) -> None:
        self._transform = transform
        self._inbox = inbox
        self._router = router
        self._room = room
        self._settled = settled
        self._over = over
        self._gathering = Gathering(transform.window)
        self.filtered_total = 0
        self.dead_lettered_total = 0
        self.processed_total = 0

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            EventFailedError: see ``WindowTransform``.
            EventTooLargeError: if an output does not fit into a message.
        """
        ends = asyncio.create_task(self._watch_for_the_end())
        try:
            while True:
                rest: Arrival | None = await self._inbox.get()
                # Windows follow each other without a rest for as long as events are in hand: the inbox stays busy.
                while rest is not None or len(self._gathering):
                    if rest is not None:
                        rest = self._gathering.add(rest, time.monotonic_ns())
                    if not self._gathering.full and not await self._ended():
                        rest = self._inbox.get_nowait()
                        continue
                    await self._close()
        finally:
            ends.cancel()

    async def _ended(self) -> bool:
        """Whether the open window ends now; otherwise something has arrived."""
        while not len(self._inbox):
            left_s = (self._gathering.deadline_ns - time.monotonic_ns()) / 1e9
            if left_s <= 0 or self._over():
                return True
            timer = asyncio.get_running_loop().call_later(left_s, self._inbox.wake)
            await self._inbox.wait()
            timer.cancel()
        return time.monotonic_ns() >= self._gathering.deadline_ns

    async def _watch_for_the_end(self) -> None:
        while True:
            await self._settled.until(self._over)
            self._inbox.wake()
            # An input that was started anew takes the end back.
            await self._settled.until(lambda: not self._over())

    async def _close(self) -> None:
        columns, pendings = self._gathering.close()
        count = len(columns)
        outputs, filtered = await self._transform(columns)
        self.filtered_total += filtered
        self.dead_lettered_total += self._transform.put_aside
        self.processed_total += count - filtered - self._transform.put_aside
        self._inbox.finish(count)
        if outputs is not None:
            await pass_on(self._router, self._room, outputs, pendings)
        for pending in pendings:
            pending.release()
