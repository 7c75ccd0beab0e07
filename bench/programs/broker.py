"""Three processes with JetStream in the middle, as one writes it with nats-py: ``broker.py ROLE --url URL …``.

Each hop is a work-queue stream; publishes are pipelined, a message is acknowledged when what came of it is stored. The sink tells
the source how far it is, so that the streams hold at most ``DEPTH`` messages. The same columns of ``--events`` events, the same
function and the same event objects as in flowctl's chain.
"""

# pyright: reportUnknownMemberType=false
import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import PubAck, RetentionPolicy, StorageType, StreamConfig
from tally import Tally

from flowctl.data.v1.data_pb2 import Batch
from flowctl_sdk import Event

DEPTH = 256
IN_FLIGHT = 16
TOLD_EVERY = 16


class Publisher:
    """Publishes to one hop, a bounded number at a time."""

    def __init__(self, js: JetStreamContext, subject: str) -> None:
        self._js = js
        self._subject = subject
        self._room = asyncio.Semaphore(IN_FLIGHT)
        self._tasks: set[asyncio.Task[None]] = set()

    async def put(self, data: bytes, origin: Msg | None = None) -> None:
        """Have a message stored; ``origin`` is acknowledged afterwards."""
        await self._room.acquire()
        stored = await self._js.publish_async(self._subject, data)
        task = asyncio.create_task(self._follow(stored, origin))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _follow(self, stored: "asyncio.Future[PubAck]", origin: Msg | None) -> None:
        await stored
        if origin is not None:
            await origin.ack()
        self._room.release()


async def payloads(size: int) -> AsyncGenerator[bytes]:
    """The same generator that flowctl's source has."""
    payload = b"0;".ljust(size, b"x")
    while True:
        yield payload


def same(event: Event) -> bytes:
    """The same function that flowctl's processor has."""
    return event.payload


async def produce(connection: Client, size: int, events: int) -> None:
    """The source."""
    hop = Publisher(connection.jetstream(), "bench.first")
    room = asyncio.Semaphore(DEPTH)

    async def taken(_message: Msg) -> None:
        for _ in range(TOLD_EVERY):
            room.release()

    await connection.subscribe("told", cb=taken)
    position = 0
    gathered: list[bytes] = []
    async for payload in payloads(size):
        gathered.append(payload)
        if len(gathered) == events:
            times = [time.time_ns()] * events
            batch = Batch(payloads=gathered, times=times, positions=range(position, position + events), origins=["source.0"])
            await room.acquire()
            await hop.put(batch.SerializeToString())
            position += events
            gathered = []


async def process(js: JetStreamContext) -> None:
    """The processor."""
    hop = Publisher(js, "bench.second")
    async for message in received(js, "bench.first"):
        batch = Batch.FromString(message.data)
        events = map(Event, batch.payloads, batch.times, batch.positions)
        output = Batch(payloads=list(map(same, events)), origins=batch.origins, paths=["/same.0"])
        output.times.MergeFrom(batch.times)
        output.positions.MergeFrom(batch.positions)
        await hop.put(output.SerializeToString(), message)


async def count(connection: Client, path: Path) -> None:
    """The sink."""
    tally, messages = Tally(path), 0
    async for message in received(connection.jetstream(), "bench.second"):
        batch = Batch.FromString(message.data)
        events = list(map(Event, batch.payloads, batch.times, batch.positions))
        tally.add(len(events), sum(len(event.payload) for event in events))
        await message.ack()
        messages += 1
        if messages % TOLD_EVERY == 0:
            await connection.publish("told", b"")


async def received(js: JetStreamContext, subject: str) -> AsyncGenerator[Msg]:
    """The messages of a hop; the next are asked for while these are worked on."""
    subscription = await js.pull_subscribe(subject, durable=subject.replace(".", "-"))
    fetching = asyncio.create_task(subscription.fetch(IN_FLIGHT, timeout=1))
    while True:
        messages: list[Msg] = []
        with contextlib.suppress(NatsTimeoutError):
            messages = await fetching
        fetching = asyncio.create_task(subscription.fetch(IN_FLIGHT, timeout=1))
        for message in messages:
            yield message


async def streams(js: JetStreamContext, storage: str) -> None:
    """Make the two hops."""
    for hop in ("first", "second"):
        await js.add_stream(
            StreamConfig(
                name=hop,
                subjects=[f"bench.{hop}"],
                storage=StorageType(storage),
                retention=RetentionPolicy.WORK_QUEUE,
            )
        )


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["streams", "source", "processor", "sink"])
    parser.add_argument("--url", required=True)
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--events", type=int, default=512)
    parser.add_argument("--storage", default="file", choices=["file", "memory"])
    parser.add_argument("--tally", type=Path)
    chosen = parser.parse_args()
    connection = await nats.connect(chosen.url)
    js = connection.jetstream()
    match chosen.role:
        case "streams":
            await streams(js, chosen.storage)
            await connection.close()
        case "source":
            await produce(connection, chosen.size, chosen.events)
        case "processor":
            await process(js)
        case _:
            await count(connection, chosen.tally)


asyncio.run(main())
