"""The serving end of an edge: each downstream instance subscribes, gets what it has not acknowledged, and acknowledges."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final, cast

import grpc
from google.protobuf.message import DecodeError

from flowctl.data.v1.data_pb2 import Ack, Credit, FromDownstream, Hello
from flowctl.ids import InstanceId
from flowctl_sdk.batching import PartsPace
from flowctl_sdk.credit import Allowance
from flowctl_sdk.faults import ProtocolError
from flowctl_sdk.onlookers import Onlookers
from flowctl_sdk.outbox import Outbox
from flowctl_sdk.routing import Router
from flowctl_sdk.signals import Begun, Bell, Signal
from flowctl_sdk.wire import PROTOCOL, SERVICE, batch_frame, end_frame, peer, welcome_frame

HELLO_TIMEOUT_S: Final = 5.0
MEMBER_TIMEOUT_S: Final = 3.0

_log = logging.getLogger("flowctl.stream")

# Ends of streams that belong to starting, stopping and restarting.
_ORDINARY: Final = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED}

# A handler's context: gRPC's own stubs type it per message class, and these streams carry plain bytes.
ServicerContext = Any


class Refusal(Exception):  # noqa: N818 - the answer to a stream, not a fault of ours
    """Why a stream ends, with the status that the downstream gets."""

    def __init__(self, code: grpc.StatusCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Link:
    """One stream to one downstream instance."""

    def __init__(self, key: tuple[str, int], incarnation: int, outbox: Outbox, allowance: Allowance) -> None:
        self.key = key
        self.name = f"{key[0]}.{key[1]}"
        self.incarnation = incarnation
        self.outbox = outbox
        self.allowance = allowance
        self.wake = Signal()
        self.refusal: Refusal | None = None
        self.closing = False
        # The offset at which the downstream was told that nothing follows.
        self.end_told = -1
        # Whether the sender waits for something to send; and what was sent meanwhile without waking it.
        self.resting = False
        self.begun: Begun | None = None
        self.pace = PartsPace()
        self.timer: asyncio.TimerHandle | None = None

    def end(self, code: grpc.StatusCode, detail: str) -> None:
        """Have the stream closed with this status."""
        if self.refusal is None:
            self.refusal = Refusal(code, detail)
        self.wake.set()


class EventStream:
    """The ``EventStream`` service of one instance.

    ``room`` and ``settled`` are rung when an acknowledgement arrives. ``admit``, if given (standalone), makes a downstream of
    whoever subscribes: called with component and index.
    """

    def __init__(
        self,
        me: InstanceId,
        incarnation: int,
        router: Router,
        room: Bell,
        settled: Bell,
        *,
        admit: Callable[[str, int], None] | None = None,
    ) -> None:
        self._me = me
        self._incarnation = incarnation
        self._router = router
        self._room = room
        self._settled = settled
        self._admit = admit
        self._links: dict[tuple[str, int], Link] = {}
        self._seen: dict[tuple[str, int], int] = {}
        self._members = Bell()
        self._onlookers = Onlookers(me, incarnation, router)

    def handler(self) -> grpc.GenericRpcHandler:
        """To be added to a server. Messages stay bytes, so that a broken one is ours to name."""
        methods = {
            "Subscribe": cast("Any", grpc.stream_stream_rpc_method_handler)(self.subscribe),
            "Tap": cast("Any", grpc.unary_stream_rpc_method_handler)(self._onlookers.tap),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def expect(self, component: str, index: int, incarnation: int) -> None:
        """The topology names this incarnation: lower ones are zombies. The open stream of one ends."""
        key = (component, index)
        self._seen[key] = newest = max(incarnation, self._seen.get(key, 0))
        link = self._links.get(key)
        if link is not None and link.incarnation < newest:
            refusal = _superseded(link.name, link.incarnation, newest)
            link.end(refusal.code, refusal.detail)

    def close(self) -> None:
        """The instance ends: so do its streams, in order."""
        for link in self._links.values():
            link.closing = True
            link.wake.set()
        self._onlookers.close()

    def members_changed(self) -> None:
        """The router has a new topology: streams of those that left and owe nothing end; those who waited to be in it go on."""
        self._members.ring()
        for (component, index), link in list(self._links.items()):
            if self._router.outbox(component, index) is not link.outbox and not link.outbox.leaving:
                self._dismiss(link)

    def _dismiss(self, link: Link) -> None:
        link.end(grpc.StatusCode.UNAVAILABLE, f"{link.name} is no longer a downstream of {self._me}")

    @property
    def end_told(self) -> bool:
        """Whether everybody who is connected knows that nothing follows."""
        return all(link.end_told == link.outbox.next_offset for link in self._links.values())

    async def subscribe(self, _requests: object, context: ServicerContext) -> None:
        """Serve one stream until either side ends it."""
        link: Link | None = None
        reader: asyncio.Task[None] | None = None
        try:
            hello = await self._hello(context)
            self._check(hello)
            outbox = await self._outbox(hello.downstream.component, hello.downstream.index)
            # Checked again: waiting takes time, and a newer incarnation may have come meanwhile.
            self._check(hello)
            link = _link(hello, outbox)
            self._attach(link)
            first = link.outbox.rewind(link.incarnation)
            await context.write(welcome_frame(peer(self._me, self._incarnation), first, link.outbox.epoch))
            reader = asyncio.create_task(self._read(context, link))
            link.outbox.changed = lambda: self._changed(context, link)
            await self._send(context, link)
        except Refusal as refusal:
            level = logging.DEBUG if refusal.code in _ORDINARY else logging.WARNING
            _log.log(level, "closed the stream of %s: %s", link.name if link else "a downstream", refusal.detail)
            await context.abort(refusal.code, refusal.detail)
        finally:
            if reader is not None:
                reader.cancel()
            if link is not None:
                self._detach(link)

    async def _hello(self, context: ServicerContext) -> Hello:
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                raw = await context.read()
        except TimeoutError:
            raise Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, f"no hello within {HELLO_TIMEOUT_S:.0f} s") from None
        if not isinstance(raw, bytes):
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "the stream ended before its hello")
        try:
            message = _parse(raw)
        except ProtocolError as error:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, error.message) from error
        if message.WhichOneof("message") != "hello":
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "the first message must be a hello")
        return message.hello

    def _check(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL:
            raise Refusal(
                grpc.StatusCode.FAILED_PRECONDITION, f"protocol {hello.protocol} is not spoken here: {self._me} speaks {PROTOCOL}"
            )
        wanted, caller = hello.upstream, hello.downstream
        if hello.HasField("upstream") and (wanted.component or wanted.pipeline):
            if (wanted.pipeline, wanted.component, wanted.index) != (self._me.pipeline, self._me.component, self._me.index):
                name = f"{wanted.pipeline}.{wanted.component}.{wanted.index}"
                raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, f"this is {self._me}, not {name}")
            if wanted.incarnation and wanted.incarnation != self._incarnation:
                raise Refusal(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"this is incarnation {self._incarnation} of {self._me}, not {wanted.incarnation}",
                )
        if caller.pipeline != self._me.pipeline and self._admit is None:
            raise Refusal(
                grpc.StatusCode.FAILED_PRECONDITION, f"{caller.pipeline!r} is another pipeline: {self._me} serves its own only"
            )
        name = f"{caller.component}.{caller.index}"
        key = (caller.component, caller.index)
        newest = self._seen.get(key, 0)
        if caller.incarnation < newest:
            raise _superseded(name, caller.incarnation, newest)
        self._seen[key] = caller.incarnation

    async def _outbox(self, component: str, index: int) -> Outbox:
        """Of this downstream; waits a little, because our topology may come later than theirs."""
        if self._admit is not None and self._router.outbox(component, index) is None:
            self._admit(component, index)
        try:
            async with asyncio.timeout(MEMBER_TIMEOUT_S):
                await self._members.until(lambda: self._router.outbox(component, index) is not None)
        except TimeoutError:
            pass
        outbox = self._router.outbox(component, index)
        if outbox is None:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, f"{component}.{index} is not a downstream of {self._me}")
        return outbox

    def _attach(self, link: Link) -> None:
        older = self._links.get(link.key)
        if older is not None:
            older.end(grpc.StatusCode.ABORTED, f"incarnation {link.incarnation} of {link.name} has opened a newer stream")
        self._links[link.key] = link
        link.outbox.changed = link.wake.set
        link.outbox.connected = True
        link.outbox.left = False
        link.outbox.allowance = link.allowance
        _log.debug("downstream connected: %s (incarnation %d)", link.name, link.incarnation)

    def _detach(self, link: Link) -> None:
        if self._current(link):
            del self._links[link.key]
            link.outbox.connected = False
            link.outbox.allowance = None
            if link.timer is not None:
                link.timer.cancel()
            if link.outbox.leaving:
                self._router.retire(*link.key)
                self._room.ring()
            _log.debug("downstream disconnected: %s", link.name)

    async def _send(self, context: ServicerContext, link: Link) -> None:
        outbox, allowance = link.outbox, link.allowance
        while True:
            if link.begun is not None:
                begun, link.begun = link.begun, None
                await begun
            if link.refusal is not None:
                raise link.refusal
            if link.closing:
                return
            entry = None if self._gathers(link) else outbox.take(allowance)
            if entry is not None:
                link.pace.sent(time.monotonic_ns())
                await context.write(batch_frame(entry.first, entry.parts))
            elif self._router.finished and outbox.drained and link.end_told != outbox.next_offset:
                told = outbox.next_offset
                await context.write(end_frame(told))
                link.end_told = told
                self._settled.ring()
                self._room.ring()
            else:
                link.resting = True
                await link.wake.wait()
                link.resting = False

    def _gathers(self, link: Link) -> bool:
        """Whether to wait for more parts of batches; then the sender is woken when that is over."""
        outbox = link.outbox
        if not outbox.divided or outbox.drained or self._router.finished:
            return False
        wait_ns = link.pace.wait_ns(time.monotonic_ns(), outbox.waiting)
        if not wait_ns:
            return False
        if link.timer is None:
            link.timer = asyncio.get_running_loop().call_later(wait_ns / 1e9, self._gathered, link)
        return True

    def _gathered(self, link: Link) -> None:
        link.timer = None
        link.wake.set()

    def _changed(self, context: ServicerContext, link: Link) -> None:
        """Something may be sent. If the sender rests, nothing is under way: begin the write here; the sender sees to its end."""
        if self._gathers(link):
            return
        if link.resting and link.refusal is None and not link.closing:
            entry = link.outbox.take(link.allowance)
            if entry is not None:
                link.pace.sent(time.monotonic_ns())
                link.resting = False
                link.begun = Begun(context.write(batch_frame(entry.first, entry.parts)))
        link.wake.set()

    async def _read(self, context: ServicerContext, link: Link) -> None:
        try:
            while True:
                raw = await context.read()
                if not isinstance(raw, bytes):
                    return self._left(link)
                message = _parse(raw)
                match message.WhichOneof("message"):
                    case "ack":
                        self._acknowledge(link, message.ack)
                    case "credit":
                        self._grant(link, message.credit)
                    case _:
                        raise ProtocolError("only acks and credits may follow the hello")
        except ProtocolError as error:
            link.end(grpc.StatusCode.INVALID_ARGUMENT, error.message)

    def _acknowledge(self, link: Link, ack: Ack) -> None:
        if self._heard(link):
            link.outbox.acknowledge(ack.up_to)
            if link.outbox.leaving and not link.outbox.events:
                self._router.retire(*link.key)
                self._dismiss(link)
            self._room.ring()
            self._settled.ring()

    def _left(self, link: Link) -> None:
        """The downstream has ended its side: it is going, and everything that it acknowledged has been read."""
        if self._heard(link):
            link.outbox.left = True
            self._settled.ring()
        link.closing = True
        link.wake.set()

    def _grant(self, link: Link, credit: Credit) -> None:
        link.allowance.add(credit.events, credit.bytes)
        link.wake.set()

    def _current(self, link: Link) -> bool:
        """Whether no newer stream has taken the outbox over."""
        return self._links.get(link.key) is link

    def _heard(self, link: Link) -> bool:
        """Whether what comes on the stream counts: a zombie's acknowledgements are about work that its successor does again."""
        return self._current(link) and link.incarnation >= self._seen.get(link.key, 0)


def _superseded(name: str, incarnation: int, newest: int) -> Refusal:
    return Refusal(grpc.StatusCode.FAILED_PRECONDITION, f"incarnation {incarnation} of {name} is superseded by {newest}")


def _link(hello: Hello, outbox: Outbox) -> Link:
    caller = hello.downstream
    try:
        allowance = Allowance(hello.credit.events, hello.credit.bytes)
    except ProtocolError as error:
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, error.message) from error
    return Link((caller.component, caller.index), caller.incarnation, outbox, allowance)


def _parse(raw: bytes) -> FromDownstream:
    try:
        return FromDownstream.FromString(raw)
    except DecodeError as error:
        raise ProtocolError("a message is not a FromDownstream") from error
