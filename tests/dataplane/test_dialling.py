"""The dialling end: survives its upstream's restarts, takes no event twice after a mere cut, trusts no upstream blindly."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import grpc.aio
import pytest

from flowctl.data.v1.data_pb2 import Batch, EndOfStream, FromDownstream, FromUpstream, Peer, Welcome
from flowctl.ids import InstanceId
from flowctl_sdk.downstream import Edge
from flowctl_sdk.inbox import Arrival, Inbox
from flowctl_sdk.signals import Bell
from flowctl_sdk.wire import SERVER_OPTIONS, SERVICE, peer
from support.polling import eventually


class Script:
    """An upstream that says what the test tells it to, on whichever stream is open."""

    def __init__(self) -> None:
        self.streams: list[Any] = []
        self.received: list[FromDownstream] = []
        self.cut = asyncio.Event()
        # Cleared, what the downstream says is not heard for now.
        self.listening = asyncio.Event()
        self.listening.set()
        self.heard_out = 0
        self.address = ""
        self.server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self.server = grpc.aio.server(options=SERVER_OPTIONS)
        method = cast("Any", grpc.stream_stream_rpc_method_handler)(self.subscribe)
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Subscribe": method}),))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        await self.server.start()

    async def subscribe(self, _requests: object, context: Any) -> None:
        cut, self.cut = asyncio.Event(), asyncio.Event()
        self.cut = cut
        self.streams.append(context)

        async def read() -> None:
            while isinstance(raw := await context.read(), bytes):
                await self.listening.wait()
                self.received.append(FromDownstream.FromString(raw))
            self.heard_out += 1
            cut.set()

        reader = asyncio.create_task(read())
        try:
            await cut.wait()
        finally:
            reader.cancel()

    async def say(self, message: FromUpstream | bytes) -> None:
        raw = message if isinstance(message, bytes) else message.SerializeToString()
        await self.streams[-1].write(raw)

    async def welcome(self, first: int = 0, incarnation: int = 1, epoch: int = 1) -> None:
        upstream = Peer(pipeline="test", component="numbers", index=0, incarnation=incarnation)
        await self.say(FromUpstream(welcome=Welcome(protocol=1, upstream=upstream, first_offset=first, epoch=epoch)))

    async def batch(self, first: int, count: int) -> None:
        payloads = [b"%d" % n for n in range(first, first + count)]
        await self.say(FromUpstream(batch=Batch(first_offset=first, payloads=payloads)))

    def acks(self) -> list[int]:
        return [message.ack.up_to for message in self.received if message.HasField("ack")]


class Line:
    """An edge, its inbox and the upstream at the other end."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.inbox = Inbox()
        self.arrived: list[Arrival] = []
        me = peer(InstanceId("test", "store", 0), 1)
        self.edge = Edge(me, peer(InstanceId("test", "numbers", 0), 1), self.inbox, Bell())

    async def open(self, count: int = 1) -> None:
        """Wait for stream number ``count``."""
        await eventually(lambda: len(self.script.streams) >= count, f"stream {count}")

    async def payloads(self, count: int) -> list[bytes]:
        """All payloads so far, once there are ``count``."""

        def enough() -> bool:
            while (arrival := self.inbox.get_nowait()) is not None:
                self.arrived.append(arrival)
            return sum(len(arrival.columns) for arrival in self.arrived) >= count

        await eventually(enough, f"{count} events")
        return [payload for arrival in self.arrived for payload in arrival.columns.payloads]


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    script = Script()
    await script.start()
    line = Line(script)
    running = line.edge.task = asyncio.create_task(line.edge.run())
    line.edge.move(script.address, 1)
    yield line
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert script.server is not None
    await script.server.stop(None)


async def test_acks_follow_what_is_done(line: Line):
    """Nothing is acknowledged before it is done, and then cumulatively, with credit to go on."""
    await line.open()
    await line.script.welcome()
    await line.script.batch(0, 5)
    await line.script.batch(5, 5)
    assert await line.payloads(10) == [b"%d" % n for n in range(10)]
    line.arrived[1].pending.release()
    assert line.edge.in_flight == 10
    line.arrived[0].pending.release()
    await eventually(lambda: line.script.acks() == [9], "one ack for both")
    await eventually(lambda: line.script.received[-1].credit.events == 10, "the credit back")
    assert line.edge.in_flight == 0


async def test_a_cut_does_not_double_events(line: Line):
    """After a reconnect to the same incarnation, events that were received are skipped and acknowledged when done."""
    await line.open()
    await line.script.welcome()
    await line.script.batch(0, 5)
    await line.payloads(5)
    line.script.cut.set()
    await line.open(2)
    await line.script.welcome(0)
    await line.script.batch(0, 3)
    await line.script.batch(3, 4)
    assert await line.payloads(7) == [b"%d" % n for n in range(7)]
    for arrival in line.arrived:
        arrival.pending.release()
    await eventually(lambda: line.script.acks()[-1:] == [6], "everything acknowledged")


async def test_a_lost_ack_is_said_again(line: Line):
    """An upstream that resends what is done long since hears the ack again."""
    await line.open()
    await line.script.welcome()
    await line.script.batch(0, 5)
    await line.payloads(5)
    line.arrived[0].pending.release()
    await eventually(lambda: line.script.acks() == [4], "the ack")
    line.script.cut.set()
    await line.open(2)
    await line.script.welcome(0)
    await line.script.batch(0, 5)
    await eventually(lambda: line.script.acks() == [4, 4], "the ack again")


@pytest.mark.parametrize(("incarnation", "epoch"), [(2, 1), (1, 2)])
async def test_a_restarted_upstream_starts_over(line: Line, incarnation: int, epoch: int):
    """Offsets of another incarnation or epoch are other events: taken again, and old work acknowledges nothing of the new."""
    await line.open()
    await line.script.welcome()
    await line.script.batch(0, 5)
    await line.payloads(5)
    line.script.cut.set()
    await line.open(2)
    await line.script.welcome(0, incarnation, epoch)
    await line.script.batch(0, 5)
    assert len(await line.payloads(10)) == 10
    line.arrived[0].pending.release()
    line.arrived[1].pending.release()
    await eventually(lambda: line.script.acks() == [4], "an ack for the new one only")


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (FromUpstream(batch=Batch(first_offset=7, payloads=[b"x"])), "expected offset 0, found 7"),
        (FromUpstream(batch=Batch(first_offset=0)), "no events"),
        (FromUpstream(batch=Batch(first_offset=0, payloads=[b"x"], times=[1, 2])), "1 payloads and 2 times"),
        (FromUpstream(batch=Batch(first_offset=0, payloads=[b""] * 20_000)), "exceed the credit"),
        (FromUpstream(welcome=Welcome(protocol=1)), "a second welcome"),
        (b"\xff\xff", "not a FromUpstream"),
    ],
)
async def test_a_bad_upstream(line: Line, caplog: pytest.LogCaptureFixture, message: FromUpstream | bytes, complaint: str):
    """An upstream that breaks the protocol is named, left and dialled again; nothing of the bad message is taken."""
    await line.open()
    await line.script.welcome()
    await line.script.say(message)
    await line.open(2)
    assert complaint in caplog.text
    await line.script.welcome()
    await line.script.batch(0, 2)
    assert await line.payloads(2) == [b"0", b"1"]


async def test_a_zombie_upstream(line: Line, caplog: pytest.LogCaptureFixture):
    """A lower incarnation than one seen before is not listened to."""
    await line.open()
    await line.script.welcome(0, incarnation=3)
    await line.script.batch(0, 1)
    await line.payloads(1)
    line.script.cut.set()
    await line.open(2)
    await line.script.welcome(0, incarnation=2)
    await line.open(3)
    assert "incarnation 2, superseded by 3" in caplog.text


async def test_a_move_is_followed_at_once(line: Line):
    """A new address in the topology is dialled without waiting for the old stream to fail."""
    await line.open()
    await line.script.welcome()
    other = Script()
    await other.start()
    line.edge.move(other.address, 2)
    await eventually(lambda: bool(other.streams), "a stream at the new address")
    await eventually(lambda: bool(other.received), "a hello")
    assert other.received[0].hello.upstream.incarnation == 2
    assert other.server is not None
    await other.server.stop(None)


async def test_end_of_stream(line: Line):
    """The end is known, and withdrawn by a new stream."""
    await line.open()
    await line.script.welcome()
    await line.script.say(FromUpstream(end_of_stream=EndOfStream(next_offset=0)))
    await eventually(lambda: line.edge.ended, "the end")


async def test_leaving_loses_no_acknowledgement(line: Line):
    """A downstream that leaves ends its side and waits for the upstream's: what it said last is heard, however late."""
    await line.open()
    await line.script.welcome()
    line.script.listening.clear()
    await line.script.batch(0, 5)
    await line.payloads(5)
    line.edge.close_intake()
    line.arrived[0].pending.release()
    leaving = asyncio.create_task(line.edge.leave())
    await line.script.batch(5, 5)
    await eventually(lambda: line.edge.told, "the acknowledgement written")
    await asyncio.wait((leaving,), timeout=0.1)
    assert not leaving.done(), "gone before it was heard"
    line.script.listening.set()
    await eventually(lambda: line.script.heard_out == 1, "the stream read to its end")
    await leaving
    assert line.script.acks() == [4]
    assert line.edge.next_offset == 5
    assert len(line.script.streams) == 1


async def test_leaving_does_not_wait_for_a_deaf_upstream(line: Line, monkeypatch: pytest.MonkeyPatch):
    """An upstream that does not end the stream is left after a while."""
    monkeypatch.setattr("flowctl_sdk.downstream.LEAVE_TIMEOUT_S", 0.1)
    await line.open()
    await line.script.welcome()
    line.script.listening.clear()
    await eventually(lambda: line.edge.connected, "the welcome")
    async with asyncio.timeout(5):
        await line.edge.leave()


async def test_an_end_that_waits_for_a_last_word_is_told_that_there_is_nobody_to_hear_it():
    """The upstream has heard it and ended the stream before our write of it returned: nothing more is waited for."""
    over = asyncio.Event()

    class LastWordUnderWay(Edge):
        async def _session(self, address: str) -> None:
            del address
            self._next_offset, self._done_up_to, self._told_up_to, self.connected = 5, 4, 3, True
            await over.wait()

    settled = Bell()
    edge = LastWordUnderWay(peer(InstanceId("p", "k", 0), 1), peer(InstanceId("p", "s", 0), 1), Inbox(), settled)
    edge.move("127.0.0.1:1", 1)
    running = asyncio.create_task(edge.run())
    await eventually(lambda: edge.connected, "a stream")
    waiting = asyncio.create_task(settled.until(lambda: edge.told))
    await asyncio.sleep(0)
    assert not waiting.done()
    over.set()
    async with asyncio.timeout(5):
        await waiting
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
