"""Three processes over plain gRPC, with no bookkeeping: what flowctl's streams are compared with. ``plain.py ROLE --events N …``.

The same columns, the same author's function for each event and the same direction of dialling as flowctl's, and nothing else:
no acks, no credit, no resending, no registry. ``source`` and ``processor`` print the port that they serve. ``--events`` is the
number of events in a message. With ``--every-ms`` the source is idle between single events that begin with the moment at which
they were made (CLOCK_MONOTONIC), and the sink writes how old each is (four bytes of microseconds) to ``--ages``: what two hops
over gRPC take at least.
"""

import argparse
import asyncio
import time
from array import array
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import uvloop
from tally import Tally

from flowctl.data.v1.data_pb2 import Batch
from flowctl_sdk import Event

METHOD = "/bench.Chain/Subscribe"
Handler = Callable[[bytes, Any], AsyncGenerator[bytes]]


async def payloads(size: int) -> AsyncGenerator[bytes]:
    """The same generator that flowctl's source has."""
    payload = b"0;".ljust(size, b"x")
    while True:
        yield payload


def same(event: Event) -> bytes:
    """The same function that flowctl's processor has."""
    return event.payload


async def batches(size: int, events: int) -> AsyncGenerator[bytes]:
    """Events in messages of so many."""
    position = 0
    gathered: list[bytes] = []
    async for payload in payloads(size):
        gathered.append(payload)
        if len(gathered) == events:
            times = [time.time_ns()] * events
            batch = Batch(payloads=gathered, times=times, positions=range(position, position + events), origins=["source.0"])
            yield batch.SerializeToString()
            position += events
            gathered = []


async def singles(size: int, every_ms: float) -> AsyncGenerator[bytes]:
    """One event a message, now and then."""
    position = 0
    while True:
        await asyncio.sleep(every_ms / 1_000)
        payload = time.monotonic_ns().to_bytes(8, "little").ljust(size, b"x")
        yield Batch(payloads=[payload], times=[time.time_ns()], positions=[position], origins=["source.0"]).SerializeToString()
        position += 1


async def processed(address: str) -> AsyncGenerator[bytes]:
    """What comes from the source, after the function."""
    async for raw in received(address):
        batch = Batch.FromString(raw)
        events = map(Event, batch.payloads, batch.times, batch.positions)
        output = Batch(payloads=list(map(same, events)), origins=batch.origins, paths=["/same.0"])
        output.times.MergeFrom(batch.times)
        output.positions.MergeFrom(batch.positions)
        yield output.SerializeToString()


async def received(address: str) -> AsyncGenerator[bytes]:
    """The messages of the process upstream."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = cast("Any", channel).unary_stream(METHOD)(b"")
        async for raw in call:
            yield raw


async def serve(produce: Callable[[], AsyncGenerator[bytes]]) -> None:
    """Serve what is produced to whoever dials."""

    async def subscribe(_request: bytes, context: Any) -> None:  # noqa: ANN401
        async for raw in produce():
            await context.write(raw)

    server = grpc.aio.server()
    handler = cast("Any", grpc.unary_stream_rpc_method_handler)(subscribe)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Chain", {"Subscribe": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


async def count(address: str, path: Path) -> None:
    """The sink: an object for each event, and a tally."""
    tally = Tally(path)
    async for raw in received(address):
        batch = Batch.FromString(raw)
        events = list(map(Event, batch.payloads, batch.times, batch.positions))
        tally.add(len(events), sum(len(event.payload) for event in events))


async def age(address: str, path: Path) -> None:
    """The sink that writes how old each event is."""
    with path.open("ab", buffering=0) as file:
        async for raw in received(address):
            now = time.monotonic_ns()
            events = map(Event, (batch := Batch.FromString(raw)).payloads, batch.times, batch.positions)
            file.write(array("I", ((now - int.from_bytes(event.payload[:8], "little")) // 1_000 for event in events)).tobytes())


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["source", "processor", "sink"])
    parser.add_argument("--upstream")
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--events", type=int, default=512)
    parser.add_argument("--every-ms", type=float)
    parser.add_argument("--tally", type=Path)
    parser.add_argument("--ages", type=Path)
    chosen = parser.parse_args()
    match chosen.role:
        case "source":
            size, every_ms = chosen.size, chosen.every_ms
            await serve(lambda: singles(size, every_ms) if every_ms else batches(size, chosen.events))
        case "processor":
            await serve(lambda: processed(chosen.upstream))
        case _:
            await (age(chosen.upstream, chosen.ages) if chosen.ages else count(chosen.upstream, chosen.tally))


uvloop.run(main())
