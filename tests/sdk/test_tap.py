"""A tap sees a sample, bounded in rate and memory, and costs the sender nothing that could be felt."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl.data.v1.data_pb2 import Peer, TapBatch, TapRequest
from flowctl.ids import InstanceId
from flowctl_sdk.acks import AckLog
from flowctl_sdk.columns import Columns, Names
from flowctl_sdk.onlookers import MAX_TAPS
from flowctl_sdk.routing import GroupSpec, Router
from flowctl_sdk.signals import Bell
from flowctl_sdk.tap import RING_BYTES, Tap
from flowctl_sdk.upstream import EventStream
from flowctl_sdk.wire import CHANNEL_OPTIONS, SERVER_OPTIONS
from support.polling import eventually

TAP = "/flowctl.data.v1.EventStream/Tap"
ME = InstanceId("test", "numbers", 0)


def columns(first: int, count: int, size: int = 8) -> Columns:
    payloads = [b"%0*d" % (size, n) for n in range(first, first + count)]
    return Columns(payloads, [1] * count, range(first, first + count), Names(["numbers.0"]), Names(), Names(), {})


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


@given(
    st.integers(1, 10_000),
    st.lists(st.tuples(st.integers(1, 600), st.integers(0, 50_000_000), st.booleans()), max_size=60),
)
def test_every_event_is_shown_or_counted(rate: int, offers: list[tuple[int, int, bool]]):
    """Whatever is offered and taken when: shown and skipped add up, the rate holds in every stretch of time, order stays."""
    clock = Clock()
    tap = Tap(rate, clock, lambda: None)
    offered = skipped = 0
    shown: list[int] = []
    for count, later_ns, taken in offers:
        clock.now_ns += later_ns
        tap.offer(count, columns(offered, count).encoded())
        offered += count
        if taken:
            samples, missed = tap.take()
            skipped += missed
            shown += [position for sample in samples for position in Columns.decoded(sample).positions]
    samples, missed = tap.take()
    skipped += missed
    shown += [position for sample in samples for position in Columns.decoded(sample).positions]
    assert len(shown) + skipped == offered
    assert shown == sorted(set(shown))
    assert len(shown) <= rate + clock.now_ns * rate / 1e9 + 1


def test_a_tap_that_nobody_reads_keeps_little():
    """What waits to be taken is bounded in bytes, whatever goes by; one event larger than that may still be seen."""
    clock = Clock()
    tap = Tap(10_000, clock, lambda: None)
    for n in range(5_000):
        clock.now_ns += 1_000_000
        tap.offer(10, columns(n * 10, 10, size=2_000).encoded())
    samples, skipped = tap.take()
    assert sum(map(len, samples)) <= RING_BYTES
    assert skipped + sum(len(Columns.decoded(sample)) for sample in samples) == 50_000
    tap.offer(1, columns(0, 1, size=2 * RING_BYTES).encoded())
    assert len(tap) == 1


def test_a_quiet_stream_is_shown_whole():
    """Below the rate nothing is missing."""
    clock = Clock()
    tap = Tap(100, clock, lambda: None)
    for n in range(1_000):
        clock.now_ns += 20_000_000
        tap.offer(1, columns(n, 1).encoded())
        assert tap.take()[1] == 0


class Upstream:
    """An instance without downstreams: what it dispatches is done at once."""

    def __init__(self, router: Router, stream: EventStream, address: str) -> None:
        self.router = router
        self.stream = stream
        self.address = address
        self.sent = 0

    def dispatch(self, count: int, size: int = 8) -> None:
        pending = AckLog[int](lambda _: None).open(0)
        self.router.dispatch(columns(self.sent, count, size), [pending])
        self.sent += count


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    router = Router()
    empty: list[GroupSpec] = []
    router.apply(empty)
    stream = EventStream(ME, 5, router, Bell(), Bell())
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers((stream.handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield Upstream(router, stream, f"127.0.0.1:{port}")
    await server.stop(None)


@asynccontextmanager
async def tapping(address: str, request: bytes) -> AsyncGenerator[Any]:
    async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        call = cast("Any", channel).unary_stream(TAP)(request)
        yield call
        call.cancel()


def request(component: str = "numbers", *, incarnation: int = 0, rate: int = 10_000) -> bytes:
    peer = Peer(pipeline="test", component=component, index=0, incarnation=incarnation)
    return TapRequest(upstream=peer, events_per_s=rate).SerializeToString()


async def test_an_onlooker_sees_what_leaves(upstream: Upstream):
    """Events come in order with all their columns; when the instance ends, so does the stream, with OK."""
    async with tapping(upstream.address, request()) as call:
        await eventually(lambda: bool(upstream.router.taps), "the tap to be open")
        for _ in range(4):
            upstream.dispatch(5)
        seen: list[int] = []
        while len(seen) < 20:
            batch = TapBatch.FromString(await call.read())
            seen += [position for sample in batch.batches for position in Columns.read(sample).positions]
            assert batch.skipped == 0
        assert seen == list(range(20))
        upstream.stream.close()
        assert not isinstance(await call.read(), bytes)
        assert await call.code() == grpc.StatusCode.OK
    await eventually(lambda: not upstream.router.taps, "the tap to be gone")


async def test_who_does_not_read_holds_nobody_up(upstream: Upstream):
    """With an onlooker that never reads, the writing to them stops, every batch still goes at once, and little is kept."""
    async with tapping(upstream.address, request()):
        await eventually(lambda: bool(upstream.router.taps), "the tap to be open")
        tap = upstream.router.taps[0]
        waited = 0
        while waited < 200:
            upstream.dispatch(100, size=1_000)
            waited = waited + 1 if len(tap) else 0
            await asyncio.sleep(0.002)
            assert upstream.sent < 1_000_000, "the transport takes everything"
        sent = upstream.sent
        for _ in range(1_000):
            upstream.dispatch(100, size=1_000)
        assert upstream.sent == sent + 100_000
        samples, skipped = tap.take()
        assert sum(map(len, samples)) <= 2 * RING_BYTES
        assert skipped > 90_000
    await eventually(lambda: not upstream.router.taps, "a tap whose onlooker has gone to be gone")


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [
        (request("other"), grpc.StatusCode.FAILED_PRECONDITION, "this is test.numbers.0, not test.other.0"),
        (request(incarnation=4), grpc.StatusCode.FAILED_PRECONDITION, "this is incarnation 5 of test.numbers.0, not 4"),
        (b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, "not a TapRequest"),
    ],
)
async def test_a_wrong_request_is_refused(upstream: Upstream, sent: bytes, code: grpc.StatusCode, said: str):
    """With a status that says what is wrong."""
    async with tapping(upstream.address, sent) as call:
        assert await call.code() == code
        assert said in await call.details()


async def test_there_are_not_too_many(upstream: Upstream):
    """The ninth onlooker is refused, and the others go on."""
    for _ in range(MAX_TAPS):
        upstream.router.taps.append(Tap(1, lambda: 0, lambda: None))
    async with tapping(upstream.address, request()) as call:
        assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "8 times already" in await call.details()
