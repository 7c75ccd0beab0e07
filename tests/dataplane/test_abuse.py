"""Peers that break the protocol: their stream ends with a status that names the fault, and nobody else notices."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import grpc.aio
import pytest

from flowctl.data.v1.data_pb2 import Ack, Credit, FromDownstream, FromUpstream, Hello, Peer
from flowctl.ids import InstanceId
from flowctl_sdk.acks import AckLog
from flowctl_sdk.columns import Columns, Names
from flowctl_sdk.outbox import Outbox
from flowctl_sdk.routing import GroupSpec, Router
from flowctl_sdk.signals import Bell
from flowctl_sdk.upstream import EventStream, Link
from flowctl_sdk.wire import CHANNEL_OPTIONS, METHOD, SERVER_OPTIONS
from support.polling import eventually

ME = InstanceId("test", "numbers", 0)


class Upstream:
    """An instance that serves two downstream groups and has ten events for each."""

    def __init__(self, address: str, router: Router, acked: list[int], stream: EventStream) -> None:
        self.address = address
        self.router = router
        self.acked = acked
        self.stream = stream

    def outbox(self, component: str) -> Outbox:
        outbox = self.router.outbox(component, 0)
        assert outbox is not None
        return outbox


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    acked: list[int] = []
    acks: AckLog[int] = AckLog(acked.append)
    router = Router()
    stream = EventStream(ME, 5, router, Bell(), Bell())
    router.apply([GroupSpec("store", (0,)), GroupSpec("other", (0,))])
    pending = acks.open(9)
    payloads = [b"%d" % n for n in range(10)]
    router.dispatch(Columns(payloads, [1] * 10, list(range(10)), Names(["numbers.0"]), Names(), Names(), {}), [pending])
    pending.release()
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((stream.handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield Upstream(f"127.0.0.1:{port}", router, acked, stream)
    await server.stop(None)


@asynccontextmanager
async def call(address: str) -> AsyncGenerator[Any]:
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        stream = cast("Any", channel).stream_stream(METHOD)()
        yield stream
        stream.cancel()


def hello(component: str = "store", incarnation: int = 1, events: int = 100, **changes: Any) -> FromDownstream:
    message = Hello(
        protocol=1,
        downstream=Peer(pipeline="test", component=component, index=0, incarnation=incarnation),
        upstream=Peer(pipeline="test", component="numbers", index=0, incarnation=5),
        credit=Credit(events=events, bytes=1_000_000),
    )
    for name, value in changes.items():
        if isinstance(value, Peer):
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    return FromDownstream(hello=message)


async def send(stream: Any, *messages: FromDownstream) -> None:
    for message in messages:
        await stream.write(message.SerializeToString())


async def receive(stream: Any) -> FromUpstream:
    return FromUpstream.FromString(await asyncio.wait_for(stream.read(), 5))


async def ends(stream: Any) -> tuple[grpc.StatusCode, str]:
    """How the stream ends."""
    try:
        while isinstance(await asyncio.wait_for(stream.read(), 5), bytes):
            pass
    except grpc.aio.AioRpcError:
        pass
    return await stream.code(), await stream.details()


async def test_a_good_peer(upstream: Upstream):
    """Welcome, events within the credit, acks; the input is done when every group has acknowledged it."""
    async with call(upstream.address) as store, call(upstream.address) as other:
        await send(store, hello(events=4))
        welcome = (await receive(store)).welcome
        assert (welcome.first_offset, welcome.upstream.component, welcome.upstream.incarnation) == (0, "numbers", 5)
        assert list((await receive(store)).batch.payloads) == [b"0", b"1", b"2", b"3"]
        await send(store, FromDownstream(credit=Credit(events=6, bytes=100)))
        batch = (await receive(store)).batch
        assert (batch.first_offset, len(batch.payloads)) == (4, 6)
        await send(store, FromDownstream(ack=Ack(up_to=9)))
        await send(other, hello("other"))
        await receive(other)
        await receive(other)
        assert not upstream.acked
        await send(other, FromDownstream(ack=Ack(up_to=9)))
        upstream.router.finish()
        assert (await receive(other)).end_of_stream.next_offset == 10
        async with asyncio.timeout(5):
            while not upstream.acked:
                await asyncio.sleep(0.001)


REFUSED = grpc.StatusCode.FAILED_PRECONDITION
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("message", "code", "detail"),
    [
        (
            hello(upstream=Peer(pipeline="test", component="letters", index=0)),
            REFUSED,
            "this is test.numbers.0, not test.letters.0",
        ),
        (
            hello(upstream=Peer(pipeline="test", component="numbers", index=1)),
            REFUSED,
            "this is test.numbers.0, not test.numbers.1",
        ),
        (hello(upstream=Peer(pipeline="prod", component="numbers", index=0)), REFUSED, "not prod.numbers.0"),
        (
            hello(upstream=Peer(pipeline="test", component="numbers", incarnation=4)),
            REFUSED,
            "incarnation 5 of test.numbers.0, not 4",
        ),
        (hello(downstream=Peer(pipeline="prod", component="store", incarnation=1)), REFUSED, "'prod' is another pipeline"),
        (hello(protocol=2), REFUSED, "protocol 2 is not spoken here"),
        (hello(events=0), INVALID, "at least 1 event"),
        (FromDownstream(ack=Ack(up_to=0)), INVALID, "the first message must be a hello"),
        (FromDownstream(), INVALID, "the first message must be a hello"),
    ],
)
async def test_bad_hello(upstream: Upstream, message: FromDownstream, code: grpc.StatusCode, detail: str):
    """A hello to somebody else, of an old protocol or without credit is refused by name."""
    async with call(upstream.address) as stream:
        await send(stream, message)
        found, details = await ends(stream)
    assert found == code
    assert detail in details


@pytest.mark.parametrize(
    ("messages", "detail"),
    [
        ([FromDownstream(ack=Ack(up_to=10))], "acknowledged offset 10, but only offsets below 10 were sent"),
        ([FromDownstream(ack=Ack(up_to=2**64 - 1))], "but only offsets below 10 were sent"),
        ([FromDownstream(ack=Ack(up_to=3)), FromDownstream(ack=Ack(up_to=3))], "everything below 4 was acknowledged before"),
        ([FromDownstream(ack=Ack(up_to=3)), FromDownstream(ack=Ack(up_to=1))], "everything below 4 was acknowledged before"),
        ([FromDownstream(credit=Credit(events=0, bytes=10))], "at least 1 event"),
        ([FromDownstream(credit=Credit(events=2**63, bytes=0))], "the credit overflows"),
        ([FromDownstream(credit=Credit(events=1, bytes=2**64 - 1))], "the credit overflows"),
        ([hello()], "only acks and credits may follow the hello"),
        ([FromDownstream()], "only acks and credits may follow the hello"),
    ],
)
async def test_abuse_ends_that_stream_only(upstream: Upstream, messages: list[FromDownstream], detail: str):
    """Acks of the unsent and the past, and credit of nothing or too much, end the stream; the other one goes on."""
    async with call(upstream.address) as other, call(upstream.address) as stream:
        await send(other, hello("other"))
        await receive(other)
        await send(stream, hello())
        await receive(stream)
        await receive(stream)
        await send(stream, *messages)
        code, details = await ends(stream)
        assert code == INVALID
        assert detail in details
        assert len((await receive(other)).batch.payloads) == 10
        await send(other, FromDownstream(ack=Ack(up_to=9)))
        async with asyncio.timeout(5):
            while upstream.outbox("other").events:
                await asyncio.sleep(0.001)
    assert upstream.outbox("store").events in {6, 10}


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x0a\xff", b"\x12\x02\x08"])
async def test_garbage(upstream: Upstream, garbage: bytes):
    """Bytes that are no message end the stream, as the first message and later."""
    async with call(upstream.address) as stream:
        await stream.write(garbage)
        assert await ends(stream) == (INVALID, "a message is not a FromDownstream")
    async with call(upstream.address) as stream:
        await send(stream, hello())
        await receive(stream)
        await stream.write(garbage)
        assert await ends(stream) == (INVALID, "a message is not a FromDownstream")


async def test_a_message_that_is_too_large(upstream: Upstream):
    """More than the limit ends the stream with RESOURCE_EXHAUSTED."""
    async with call(upstream.address) as stream:
        await stream.write(b"\x00" * (4 * 1024 * 1024 + 60_000))
        assert (await ends(stream))[0] in {INVALID, grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_a_thousand_connections_that_say_nothing(upstream: Upstream, monkeypatch: pytest.MonkeyPatch):
    """A thousand connections that never speak and as many streams without a hello hold nobody up; the streams end, by name."""
    monkeypatch.setattr("flowctl_sdk.upstream.HELLO_TIMEOUT_S", 1.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8_192), hard))
    host, port = upstream.address.split(":")
    try:
        with contextlib.ExitStack() as silent:
            for _ in range(1_000):
                silent.enter_context(socket.create_connection((host, int(port)), timeout=10))
            async with contextlib.AsyncExitStack() as channels:
                streams: list[Any] = []
                for _ in range(20):
                    channel = await channels.enter_async_context(
                        grpc.aio.insecure_channel(upstream.address, options=CHANNEL_OPTIONS)
                    )
                    streams += [cast("Any", channel).stream_stream(METHOD)() for _ in range(50)]
                async with asyncio.timeout(20), call(upstream.address) as stream:
                    await send(stream, hello())
                    await receive(stream)
                    assert len((await receive(stream)).batch.payloads) == 10
                    await send(stream, FromDownstream(ack=Ack(up_to=9)))
                    await eventually(lambda: not upstream.outbox("store").events, "the acknowledgement")
                found = await asyncio.gather(*map(ends, streams))
        assert {code for code, _ in found} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        assert {detail for _, detail in found} == {"no hello within 1 s"}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_stranger_is_turned_away(upstream: Upstream, monkeypatch: pytest.MonkeyPatch):
    """A component of the pipeline that is no downstream here may try again later."""
    monkeypatch.setattr("flowctl_sdk.upstream.MEMBER_TIMEOUT_S", 0.05)
    async with call(upstream.address) as stream:
        await send(stream, hello("stranger"))
        assert await ends(stream) == (grpc.StatusCode.UNAVAILABLE, "stranger.0 is not a downstream of test.numbers.0")


async def test_a_late_topology_is_waited_for(upstream: Upstream):
    """A downstream that dials before our topology knows it is served as soon as it does."""
    async with call(upstream.address) as stream:
        await send(stream, hello("late"))
        upstream.router.apply([GroupSpec("store", (0,)), GroupSpec("other", (0,)), GroupSpec("late", (0,))])
        upstream.stream.members_changed()
        assert (await receive(stream)).WhichOneof("message") == "welcome"


async def test_a_newer_incarnation_takes_over(upstream: Upstream):
    """It gets everything unacknowledged; the older stream ends, and the older incarnation is not let in again."""
    async with call(upstream.address) as older, call(upstream.address) as newer, call(upstream.address) as zombie:
        await send(older, hello())
        await receive(older)
        await receive(older)
        await send(older, FromDownstream(ack=Ack(up_to=3)))
        async with asyncio.timeout(5):
            while upstream.outbox("store").lowest != 4:
                await asyncio.sleep(0.001)
        await send(newer, hello(incarnation=2))
        assert (await receive(newer)).welcome.first_offset == 4
        assert list((await receive(newer)).batch.payloads) == [b"4", b"5", b"6", b"7", b"8", b"9"]
        assert (await ends(older))[0] == grpc.StatusCode.ABORTED
        await send(zombie, hello(incarnation=1))
        assert await ends(zombie) == (REFUSED, "incarnation 1 of store.0 is superseded by 2")


async def test_a_zombie_is_cut_off_as_soon_as_the_topology_names_its_successor(upstream: Upstream):
    """Its open stream ends before the successor dials; what it still acknowledges does not count, nor does its leaving."""
    async with call(upstream.address) as zombie:
        await send(zombie, hello())
        await receive(zombie)
        await receive(zombie)
        upstream.stream.expect("store", 0, 1)
        await send(zombie, FromDownstream(ack=Ack(up_to=3)))
        await eventually(lambda: upstream.outbox("store").lowest == 4, "the acknowledgement of the incarnation that is named")
        upstream.stream.expect("store", 0, 2)
        await send(zombie, FromDownstream(ack=Ack(up_to=9)))
        with contextlib.suppress(asyncio.InvalidStateError):
            await zombie.done_writing()
        assert await ends(zombie) == (REFUSED, "incarnation 1 of store.0 is superseded by 2")
    assert upstream.outbox("store").events == 6
    assert not upstream.outbox("store").left


async def test_the_last_words_of_a_zombie_do_not_count(upstream: Upstream, monkeypatch: pytest.MonkeyPatch):
    """What is read between the topology that names the successor and the end of the zombie's stream is passed over."""
    async with call(upstream.address) as zombie:
        await send(zombie, hello())
        await receive(zombie)
        await receive(zombie)
        ended: list[str] = []

        def end(_link: Link, _code: grpc.StatusCode, detail: str) -> None:
            ended.append(detail)

        monkeypatch.setattr(Link, "end", end)
        upstream.stream.expect("store", 0, 2)
        await send(zombie, FromDownstream(ack=Ack(up_to=9)))
        await zombie.done_writing()
        assert (await ends(zombie))[0] == grpc.StatusCode.OK
    assert ended == ["incarnation 1 of store.0 is superseded by 2"]
    assert upstream.outbox("store").events == 10
    assert not upstream.outbox("store").left


async def test_a_newer_incarnation_must_be_sent_before_it_acknowledges(upstream: Upstream):
    """What an earlier incarnation was sent, the newer one cannot acknowledge before it was sent again."""
    async with call(upstream.address) as older, call(upstream.address) as newer:
        await send(older, hello())
        await receive(older)
        await receive(older)
        await send(newer, hello(incarnation=2, events=1), FromDownstream(ack=Ack(up_to=5)))
        code, details = await ends(newer)
    assert code == INVALID
    assert "acknowledged offset 5, but only offsets below" in details
    assert upstream.outbox("store").events == 10


async def test_half_close(upstream: Upstream):
    """A downstream that ends its side ends the stream, in order: what it acknowledged counts, the rest waits for the next."""
    async with call(upstream.address) as stream:
        await send(stream, hello())
        await receive(stream)
        await receive(stream)
        await send(stream, FromDownstream(ack=Ack(up_to=3)))
        await stream.done_writing()
        assert (await ends(stream))[0] == grpc.StatusCode.OK
    assert upstream.outbox("store").events == 6
    assert upstream.outbox("store").left
    assert upstream.router.awaited == 10
    async with call(upstream.address) as stream:
        await send(stream, hello())
        assert (await receive(stream)).welcome.first_offset == 4
        assert len((await receive(stream)).batch.payloads) == 6
        assert upstream.router.awaited == 16


async def test_an_instance_that_was_scaled_away_works_off_what_it_has(upstream: Upstream):
    """Its stream ends when it has acknowledged everything, and none of it goes to another as well."""
    async with call(upstream.address) as stream:
        await send(stream, hello())
        await receive(stream)
        await receive(stream)
        upstream.router.apply([GroupSpec("store", (1,)), GroupSpec("other", (0,))])
        upstream.stream.members_changed()
        await send(stream, FromDownstream(ack=Ack(up_to=9)))
        assert "is no longer a downstream" in (await ends(stream))[1]
    assert upstream.router.groups["store"].outstanding == 0
    assert upstream.router.groups["store"].acked_total == 10


async def test_an_instance_that_was_scaled_away_and_ends_leaves_the_rest_to_others(upstream: Upstream):
    """What it has not acknowledged when its stream is over is sent to those that stay."""
    async with call(upstream.address) as stream:
        await send(stream, hello())
        await receive(stream)
        await receive(stream)
        upstream.router.apply([GroupSpec("store", (1,)), GroupSpec("other", (0,))])
        upstream.stream.members_changed()
        await send(stream, FromDownstream(ack=Ack(up_to=3)))
        await stream.done_writing()
        await ends(stream)
    other = upstream.router.outbox("store", 1)
    assert other is not None
    await eventually(lambda: other.events == 6, "what is left, at the other")
