"""The working loop of a source: pull from the author's generator, number the events, send batches at the right moment."""

import asyncio
import threading
import time
from collections.abc import AsyncIterable, Iterable
from typing import Any, Final

import msgspec

from flowctl_sdk.acks import AckLog
from flowctl_sdk.author import Source
from flowctl_sdk.batching import BATCH_BYTES, GATHER_EVENTS, Pace
from flowctl_sdk.columns import Columns, Names
from flowctl_sdk.context import Context
from flowctl_sdk.event import UNSET_POSITION, Event, check, encode
from flowctl_sdk.faults import EventFailedError
from flowctl_sdk.routing import Router
from flowctl_sdk.signals import Bell, Signal

FIRST_GATHER_EVENTS: Final = 16
MAX_CURSOR_BYTES: Final = 64 * 1024


class Mark(msgspec.Struct, frozen=True):
    """Where a batch of a source ends: its last position, and the last cursor that the source gave."""

    position: int
    cursor: bytes


class Numbering:
    """Gives each value its position and makes columns of them."""

    def __init__(self, origin: str, first_position: int) -> None:
        self._origin = Names([origin])
        self._name = origin
        self.next = first_position
        self._cursor = b""

    def columns(self, values: list[Any], now_ns: int) -> tuple[Columns, Mark]:
        """The next batch, of at least one value; events without a time of their own get ``now_ns``.

        Raises:
            EventFailedError: if a value is no event, or its position does not grow.
        """
        first, count = self.next, len(values)
        if set(map(type, values)) == {bytes}:
            self.next = first + count
            columns = Columns(values, [now_ns] * count, range(first, first + count), self._origin, Names(), Names(), {})
            return columns, Mark(self.next - 1, self._cursor)
        payloads: list[bytes] = []
        times: list[int] = []
        positions: list[int] = []
        types: list[str] = []
        metadata: dict[int, dict[str, str]] = {}
        for value in values:
            position, time_ns, name = self.next, now_ns, ""
            if isinstance(value, Event):
                self._check(value)
                if value.position != UNSET_POSITION:
                    position = self._checked(value.position)
                time_ns = value.time_ns or now_ns
                name = value.type
                if value.metadata:
                    metadata[len(payloads)] = value.metadata
                if value.cursor is not None:
                    if len(value.cursor) > MAX_CURSOR_BYTES:
                        raise EventFailedError(
                            f"event {self._name}:{position}: its cursor has {len(value.cursor):,} bytes, not at most 65,536"
                        )
                    self._cursor = value.cursor
                payloads.append(value.payload)
            else:
                payloads.append(self._payload(value))
            times.append(time_ns)
            positions.append(position)
            types.append(name)
            self.next = position + 1
        return Columns(payloads, times, positions, self._origin, Names(), Names.of(types), metadata), Mark(
            self.next - 1, self._cursor
        )

    def _checked(self, position: int) -> int:
        if position < self.next:
            raise EventFailedError(f"the source gave position {position} after {self.next - 1}: positions must grow")
        if position >= 2**63:
            raise EventFailedError(f"the source gave position {position}: positions are below 2^63")
        return position

    def _payload(self, value: object) -> bytes:
        try:
            return encode(value)
        except (TypeError, ValueError) as error:
            raise self._no_event(error) from error

    def _check(self, event: Event) -> None:
        try:
            check(event)
        except (TypeError, ValueError) as error:
            raise self._no_event(error) from error

    def _no_event(self, error: Exception) -> EventFailedError:
        return EventFailedError(f"event {self._name}:{self.next}: the source yielded something that is no event: {error}")


class Production:
    """Runs a source. ``acks`` holds what is out."""

    def __init__(self, source: Source, ctx: Context, router: Router, room: Bell, acks: AckLog[Mark]) -> None:
        self._source = source
        self._router = router
        self._room = room
        self._acks = acks
        self._pace = Pace()
        self._numbering = Numbering(f"{ctx.instance.component}.{ctx.instance.index}", ctx.resume_at)
        # Values gathered and not yet sent. Appended to by the puller, emptied from the front by the sender.
        self._values: list[Any] = []
        # How many to gather: fewer if they are large, going by the last batch, so that memory stays flat.
        self._limit = FIRST_GATHER_EVENTS
        self._gathered = Signal()
        self._space = Signal()
        self._stopping = False
        self._ended = False
        self._failed: Exception | None = None
        self._puller: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Emit everything; returns when the generator has ended, or was stopped, and all its events are in the outboxes.

        Raises:
            EventFailedError: if a value is no event.
            EventTooLargeError: if an event does not fit into a message.
            Exception: whatever the author's generator raises.
        """
        # Not even the author's generator starts before it is known who receives.
        await self._room.until(lambda: self._router.known or self._stopping)
        emitted = self._source.events()
        if isinstance(emitted, AsyncIterable):
            puller = asyncio.create_task(self._pull(emitted))
        else:
            puller = asyncio.create_task(self._pull_in_thread(emitted))
        self._puller = puller
        sender = asyncio.create_task(self._send())
        try:
            await asyncio.wait((puller, sender), return_when=asyncio.FIRST_EXCEPTION)
            for task in (sender, puller):
                if task.done() and not task.cancelled():
                    task.result()
            await sender
        finally:
            for task in (puller, sender):
                task.cancel()
            await asyncio.gather(puller, sender, return_exceptions=True)

    def stop(self) -> None:
        """Take nothing more from the generator; what was taken is still sent."""
        self._stopping = True
        self._room.ring()
        self._space.set()
        if self._puller is not None:
            self._puller.cancel()

    def _end(self) -> None:
        self._ended = True
        self._gathered.set()

    async def _pull(self, emitted: AsyncIterable[Any]) -> None:
        values = self._values
        try:
            if self._stopping:
                return
            async for value in emitted:
                values.append(value)
                count = len(values)
                if count == 1:
                    self._gathered.set()
                if count >= self._limit:
                    self._gathered.set()
                    await self._space.until(lambda: len(values) < self._limit or self._stopping)
                    if self._stopping:
                        return
        finally:
            self._end()
            close = getattr(emitted, "aclose", None)
            if close is not None:
                await close()

    async def _pull_in_thread(self, emitted: Iterable[Any]) -> None:
        """Run a plain generator in a daemon thread: one that hangs must not keep the process."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        space = threading.Event()
        values = self._values

        def finish(error: BaseException | None) -> None:
            if not done.done():
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

        def pull() -> None:
            try:
                for value in emitted:
                    if self._stopping:
                        break
                    values.append(value)
                    count = len(values)
                    if count == 1:
                        loop.call_soon_threadsafe(self._first)
                    if count >= self._limit:
                        space.clear()
                        if len(values) >= self._limit:
                            loop.call_soon_threadsafe(self._gathered.set)
                            space.wait()
            except BaseException as error:  # noqa: BLE001 - handed over to the loop
                loop.call_soon_threadsafe(finish, error)
            else:
                loop.call_soon_threadsafe(finish, None)

        async def pass_on_space() -> None:
            while True:
                await self._space.wait()
                space.set()

        passing = asyncio.create_task(pass_on_space())
        try:
            threading.Thread(target=pull, name="source", daemon=True).start()
            await done
        finally:
            passing.cancel()
            space.set()
            self._end()

    async def _send(self) -> None:
        values = self._values
        loop = asyncio.get_running_loop()
        while True:
            await self._gathered.until(lambda: bool(values) or self._ended or self._failed is not None)
            if self._failed is not None:
                raise self._failed
            if not values:
                return
            wait_ns = self._pace.wait_ns(time.monotonic_ns(), len(values))
            if wait_ns and not self._ended and len(values) < self._limit:
                timer = loop.call_later(wait_ns / 1e9, self._gathered.set)
                await self._gathered.wait()
                timer.cancel()
            if not self._router.ready:
                await self._room.until(lambda: self._router.ready)
            self._emit()

    def _first(self) -> None:
        """A value has come from the thread. If the sender would send it at once, do that here, without waking it."""
        if self._values and not self._failed and self._router.ready and not self._pace.wait_ns(time.monotonic_ns(), 1):
            try:
                self._emit()
            except Exception as error:  # noqa: BLE001 - raised by the sender
                self._failed = error
        if self._values or self._failed:
            self._gathered.set()

    def _emit(self) -> None:
        taken = self._values[:]
        if not taken:
            return
        del self._values[: len(taken)]
        self._space.set()
        columns, mark = self._numbering.columns(taken, time.time_ns())
        pending = self._acks.open(mark)
        self._router.dispatch(columns, [pending])
        pending.release()
        self._limit = max(1, min(GATHER_EVENTS, len(columns) * BATCH_BYTES // (columns.size_bytes + 1)))
        self._pace.sent(time.monotonic_ns())
