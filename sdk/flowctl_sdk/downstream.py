"""The dialling end of an edge: subscribes to one upstream instance, again and again, and acknowledges what is done."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any, Final, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from flowctl.data.v1.data_pb2 import Ack, Batch, Credit, FromDownstream, FromUpstream, Hello, Peer, Welcome
from flowctl_sdk.acks import AckLog
from flowctl_sdk.batching import Pace
from flowctl_sdk.columns import Columns
from flowctl_sdk.credit import WINDOW_BYTES, WINDOW_EVENTS, Window
from flowctl_sdk.faults import ProtocolError
from flowctl_sdk.inbox import Arrival, Inbox
from flowctl_sdk.signals import Bell, Signal
from flowctl_sdk.wire import CHANNEL_OPTIONS, METHOD, PROTOCOL

WELCOME_TIMEOUT_S: Final = 5.0
FIRST_BACKOFF_S: Final = 0.02
MAX_BACKOFF_S: Final = 0.5
LEAVE_TIMEOUT_S: Final = 1.0

_log = logging.getLogger("flowctl.stream")

# gRPC's stubs type a call per message class, and these streams carry plain bytes.
Call = Any


class Edge:
    """The connection to one upstream instance, over all its streams and incarnations.

    ``settled`` is rung whenever something was acknowledged to us as done.
    """

    def __init__(self, me: Peer, upstream: Peer, inbox: Inbox, settled: Bell) -> None:
        self.name = f"{upstream.component}.{upstream.index}"
        self._me = me
        self._upstream = upstream
        self._inbox = inbox
        self._settled = settled
        self._address = ""
        self._moved = Signal()
        self._wake = Signal()
        self._acks: AckLog[int] = AckLog(_nobody)
        # Incarnation and epoch of the upstream's offsets, and how many such sequences there were.
        self._sequence = (-1, -1)
        self._numbered = 0
        self._next_offset = 0
        self._done_up_to = -1
        self._told_up_to = -1
        self._closing = False
        self._leaving = False
        self.task: asyncio.Task[None] | None = None
        self.connected = False
        self.ended = False
        self.events_total = 0
        self.bytes_total = 0
        self.acked_total = 0
        self.superseded_total = 0
        # How old the newest event was when it arrived, by its own time.
        self.source_lag_ns = 0
        self.window: Window | None = None

    @property
    def sequence(self) -> tuple[int, int]:
        """Incarnation and epoch of the upstream's offsets; (-1, -1) before the first stream."""
        return self._sequence

    @property
    def next_offset(self) -> int:
        """One past the last offset received."""
        return self._next_offset

    @property
    def done_offset(self) -> int:
        """The lowest offset that is not done."""
        return self._done_up_to + 1

    @property
    def in_flight(self) -> int:
        """Events received and not yet acknowledged."""
        return self._next_offset - 1 - self._done_up_to

    @property
    def told(self) -> bool:
        """Whether the upstream was told of everything that is done, or cannot be."""
        return self._told_up_to >= self._done_up_to or not self.connected

    def move(self, address: str, incarnation: int) -> None:
        """The topology says where the upstream is now; an empty address is not up yet."""
        if (address, incarnation) == (self._address, self._upstream.incarnation):
            return
        self._address = address
        self._upstream.incarnation = incarnation
        self._moved.set()

    def close_intake(self) -> None:
        """Take nothing more in; go on acknowledging."""
        self._closing = True

    async def leave(self) -> None:
        """End the connection in good order: say what is done, end our side, and let the upstream end the stream.

        A stream that is cut takes with it what is under way; one that the upstream ends was read to its last acknowledgement.
        Returns when that is so, or after a second at most.
        """
        self._closing = self._leaving = True
        (self._wake if self.connected else self._moved).set()
        if self.task is not None:
            await asyncio.wait((self.task,), timeout=LEAVE_TIMEOUT_S)
            self.task.cancel()

    async def run(self) -> None:
        """Stay connected until cancelled, or left."""
        failures = 0
        while not self._leaving:
            if not self._address:
                await self._moved.wait()
                failures = 0
                continue
            self._moved.clear()
            session = asyncio.create_task(self._session(self._address))
            moved = asyncio.create_task(self._moved.wait())
            try:
                await asyncio.wait((session, moved), return_when=asyncio.FIRST_COMPLETED)
                was_connected = self.connected
            finally:
                session.cancel()
                moved.cancel()
                await asyncio.gather(session, moved, return_exceptions=True)
                self._disconnected()
            if moved.done() and not moved.cancelled():
                failures = 0
                continue
            failures = 0 if was_connected else failures + 1
            delay = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(failures, 10)) * (0.5 + random.random() / 2)  # noqa: S311
            timer = asyncio.get_running_loop().call_later(delay, self._moved.set)
            await self._moved.wait()
            timer.cancel()

    def _disconnected(self) -> None:
        """Whoever waits for the last acknowledgement to be said need not wait for it any more: see ``told``."""
        self.connected = False
        self._settled.ring()

    async def _session(self, address: str) -> None:
        """One stream, from dialling to its end."""
        try:
            async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
                call: Call = cast("Any", channel).stream_stream(METHOD)()
                try:
                    await self._stream(call)
                except asyncio.InvalidStateError:
                    # Written to a stream that was over already: its status says why.
                    pass
                finally:
                    self._disconnected()
                    call.cancel()
                if call.done() and not call.cancelled():
                    self._explain(await call.code(), await call.details())
        except grpc.aio.AioRpcError as error:
            self._explain(error.code(), error.details())
        except ProtocolError as error:
            _log.error("closed the stream to %s at %s: %s", self.name, address, error.message)
        except TimeoutError:
            _log.warning("%s at %s does not answer", self.name, address)

    def _explain(self, code: grpc.StatusCode, details: str | None) -> None:
        quiet = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.OK}
        level = logging.DEBUG if code in quiet else logging.WARNING
        _log.log(level, "stream to %s ended: %s: %s", self.name, code.name, details)

    async def _stream(self, call: Call) -> None:
        credit = Credit(events=WINDOW_EVENTS, bytes=WINDOW_BYTES)
        hello = Hello(protocol=PROTOCOL, downstream=self._me, upstream=self._upstream, credit=credit)
        # Not wait_for: in Python 3.11 that loses a cancellation which comes together with the result.
        async with asyncio.timeout(WELCOME_TIMEOUT_S):
            await call.write(FromDownstream(hello=hello).SerializeToString())
            raw = await call.read()
        if not isinstance(raw, bytes):
            return
        message = _parse(raw)
        if message.WhichOneof("message") != "welcome":
            raise ProtocolError("the first message is not a welcome")
        self._resume(message.welcome)
        self.connected = True
        self.window = window = Window()
        teller = asyncio.create_task(self._tell(call, window))
        try:
            await self._receive(call, window, message.welcome.first_offset)
        finally:
            teller.cancel()
            await asyncio.gather(teller, return_exceptions=True)

    def _resume(self, welcome: Welcome) -> None:
        """Go on where an earlier stream of the same sequence of offsets stopped, or start afresh."""
        if welcome.protocol != PROTOCOL:
            raise ProtocolError(f"it speaks protocol {welcome.protocol}, not {PROTOCOL}")
        sequence = (welcome.upstream.incarnation, welcome.epoch)
        first = welcome.first_offset
        if sequence[0] < self._sequence[0]:
            raise ProtocolError(f"it is incarnation {sequence[0]}, superseded by {self._sequence[0]}")
        if sequence != self._sequence or first > self._next_offset:
            # What is still being worked on belongs to an earlier sequence: nobody there waits for its acks any more.
            self.superseded_total += self.in_flight
            self._sequence = sequence
            self._numbered += 1
            self._acks = AckLog(self._advanced_in(self._numbered))
            self._next_offset = first
            self._done_up_to = first - 1
        self._told_up_to = first - 1
        self.ended = False
        if self._done_up_to > self._told_up_to:
            self._wake.set()
        _log.debug("upstream connected: %s (incarnation %d), first offset %d", self.name, sequence[0], first)

    def _advanced_in(self, numbered: int) -> Callable[[int], None]:
        def advanced(up_to: int) -> None:
            if numbered == self._numbered:
                self.acked_total += up_to - self._done_up_to
                self._done_up_to = up_to
                self._wake.set()
                self._settled.ring()

        return advanced

    async def _receive(self, call: Call, window: Window, expected: int) -> None:
        while True:
            raw = await call.read()
            if not isinstance(raw, bytes):
                return
            if self._closing:
                # Not taken in, and so sent again to whoever comes after; but read, so that the end behind it is.
                continue
            message = _parse(raw)
            match message.WhichOneof("message"):
                case "batch":
                    self.ended = False
                    expected = self._take(message.batch, window, expected)
                case "end_of_stream":
                    self.ended = True
                    self._settled.ring()
                case _:
                    raise ProtocolError("a second welcome")

    def _take(self, batch: Batch, window: Window, expected: int) -> int:
        first = batch.first_offset
        if first != expected:
            raise ProtocolError(f"expected offset {expected}, found {first}")
        columns = Columns.read(batch)
        size = columns.size_bytes
        end = first + len(columns)
        window.receive(end - 1, len(columns), size)
        if end <= self._next_offset:
            # Received on an earlier stream; it may even be done.
            self._wake.set()
            return end
        if first < self._next_offset:
            columns = columns.select(range(self._next_offset - first, len(columns)))
        self._next_offset = end
        self.events_total += len(columns)
        self.bytes_total += size
        if sent_ns := columns.times[-1]:
            self.source_lag_ns = max(0, time.time_ns() - sent_ns)
        self._inbox.put(Arrival(columns, self._acks.open(end - 1)))
        return end

    async def _tell(self, call: Call, window: Window) -> None:
        """Acknowledge what is done and grant new credit, at most about once a millisecond; end our side when we leave."""
        pace = Pace()
        if self._leaving:
            self._wake.set()
        while True:
            await self._wake.wait()
            wait_ns = pace.wait_ns(time.monotonic_ns(), 0)
            if wait_ns:
                await asyncio.sleep(wait_ns / 1e9)
            up_to = self._done_up_to
            window.acknowledge(up_to)
            grant = window.grant()
            if up_to > self._told_up_to:
                await call.write(FromDownstream(ack=Ack(up_to=up_to)).SerializeToString())
                self._told_up_to = up_to
                self._settled.ring()
            if grant is not None:
                await call.write(FromDownstream(credit=Credit(events=grant[0], bytes=grant[1])).SerializeToString())
            if self._leaving and self._told_up_to >= self._done_up_to:
                await call.done_writing()
                return
            pace.sent(time.monotonic_ns())


def _parse(raw: bytes) -> FromUpstream:
    try:
        return FromUpstream.FromString(raw)
    except DecodeError as error:
        raise ProtocolError("a message is not a FromUpstream") from error


def _nobody(up_to: int) -> None:
    """No stream has been opened yet."""
    del up_to
