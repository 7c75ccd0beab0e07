"""How many heartbeats one registry appends to JetStream, through gRPC, and how much of a core that costs it.

A NATS server and a ``flowctl-registry`` of their own; ``--instances`` components register, then one client keeps ``--in-flight``
Heartbeat calls open for ``--seconds``. Counted is what the stream holds, not what the client sent. The client shares the
machine with the registry.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc.aio

from flowctl.control.v1 import control_pb2, control_pb2_grpc
from flowctl.journal.embedded import EmbeddedNats
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.jetstream.streams import stream_info
from flowctl.journal.subjects import HEARTBEAT_STREAM
from harness import cpu_s, free_port
from report import parser, progress, publish


def instance(number: int) -> control_pb2.Instance:
    """One of many."""
    return control_pb2.Instance(pipeline="fleet", component=f"c{number // 100}", index=number % 100, incarnation=1)


async def register(address: str, count: int) -> None:
    """Register everybody, a hundred at a time."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = control_pb2_grpc.ComponentRegistryStub(channel)
        for first in range(0, count, 100):
            await asyncio.gather(
                *(
                    stub.RegisterComponent(
                        control_pb2.RegisterComponentRequest(
                            instance=instance(number), kind=control_pb2.KIND_SINK, boot_id=f"boot-{number}"
                        ),
                        timeout=30,
                    )
                    for number in range(first, min(first + 100, count))
                )
            )


async def beat(address: str, count: int, in_flight: int, seconds: float) -> int:
    """Send heartbeats as fast as they are answered; how many were."""
    requests = [
        control_pb2.HeartbeatRequest(instance=instance(n), metrics={"events_in_total": n}).SerializeToString()
        for n in range(count)
    ]
    answered = 0
    async with grpc.aio.insecure_channel(address) as channel:
        method = "/flowctl.control.v1.ComponentRegistry/Heartbeat"
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method, lambda data: data, lambda data: data)
        end = time.monotonic() + seconds

        async def sender(first: int) -> None:
            nonlocal answered
            at = first
            while time.monotonic() < end:
                await call(requests[at % count], timeout=30)
                answered += 1
                at += in_flight

        await asyncio.gather(*(sender(first) for first in range(in_flight)))
    return answered


async def measure(instances: int, in_flight: int, seconds: float) -> dict[str, float]:
    """Run it."""
    with tempfile.TemporaryDirectory(prefix="flowctl-bench-") as directory:
        nats = EmbeddedNats(Path(directory) / "nats")
        await nats.start()
        address = f"127.0.0.1:{free_port()}"
        registry = subprocess.Popen(
            [sys.executable, "-m", "flowctl_registry", "--registry-listen", address],
            env={**os.environ, "FLOWCTL_STATE_DIR": directory, "FLOWCTL_LOG_LEVEL": "warning"},
        )
        try:
            async with asyncio.timeout(30), grpc.aio.insecure_channel(address) as channel:
                await channel.channel_ready()
            await register(address, instances)
            progress(f"{instances} instances registered; sending for {seconds:g} s")
            store = await JetStreamStore.connect(nats.url, name="bench", assume_synced=True, create=False)
            before, used, begun = await last_heartbeat(store), cpu_s(registry.pid), time.monotonic()
            answered = await beat(address, instances, in_flight, seconds)
            elapsed, used = time.monotonic() - begun, cpu_s(registry.pid) - used
            appended = await last_heartbeat(store) - before
            await store.close()
        finally:
            registry.terminate()
            registry.wait(10)
            await nats.stop()
    if appended < answered:
        raise SystemExit(f"{answered} heartbeats were answered and only {appended} are stored")
    return {
        "appended_per_s": appended / elapsed,
        "core_share": used / elapsed,
        "appended_per_core_s": appended / used,
        "instances": instances,
    }


async def last_heartbeat(store: JetStreamStore) -> int:
    """The last sequence of the heartbeat stream."""
    return (await stream_info(store.connection, HEARTBEAT_STREAM)).state.last_seq


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--instances", type=int, default=2000)
    options.add_argument("--in-flight", type=int, default=200)
    options.add_argument("--seconds", type=float, default=15.0)
    chosen = options.parse_args()
    figures = asyncio.run(measure(chosen.instances, chosen.in_flight, chosen.seconds))
    publish("heartbeats", figures, as_json=chosen.json, targets={"appended_per_s": "≥ 2,000"})


if __name__ == "__main__":
    main()
