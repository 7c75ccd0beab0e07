"""Ten thousand components that send heartbeats through one registry and flap at random: is every status true, and soon?

A NATS server that fsyncs, a ``flowctl-registry`` and a ``flowctl-health`` of their own; ``--components`` register and send a
heartbeat every ``--interval`` seconds through gRPC, from one client that shares the machine. ``--flapping`` of them fall silent
at moments drawn from ``--seed``: half for longer than ``--silence``, and then they come back; half for less, which must not be
noticed. Judged afterwards from the two streams and their server times alone:

- ``status_lag``: from when a status is due (``--silence`` seconds after the last heartbeat, or the next one) to its entry,
- ``detection``: from the last heartbeat stored to *unhealthy*; early is below ``--silence``; missed has no entry at all.
"""

import asyncio
import bisect
import contextlib
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio

from flowctl.control.v1 import control_pb2
from flowctl.ids import InstanceId
from flowctl.journal.embedded import EmbeddedNats
from flowctl.journal.events import ComponentStatusChanged
from flowctl.journal.heartbeats import Heartbeat
from flowctl.journal.jetstream import JetStreamStore
from harness import cpu_s, free_port, pss_mb
from heartbeats import instance, last_heartbeat, register
from report import Figures, parser, percentile, progress, publish

Send = Callable[..., Awaitable[bytes]]

METHOD = "/flowctl.control.v1.ComponentRegistry/Heartbeat"
MARGIN_S = 2.5
LATEST_NS = 1_500_000_000


@dataclass
class Plan:
    """Who is silent when, in seconds since the begin; at most once each."""

    seed: int
    components: int
    flapping: float
    silence_s: float
    interval_s: float
    seconds: float
    silent: dict[int, tuple[float, float]] = field(default_factory=dict[int, tuple[float, float]])

    def draw(self) -> None:
        """Choose them. The long silences end after they must have been noticed, and before the end of the run."""
        rng = random.Random(self.seed)
        latest = self.seconds - self.silence_s - self.interval_s - 2 * MARGIN_S
        for number in rng.sample(range(self.components), round(self.components * self.flapping)):
            begin = rng.uniform(self.interval_s, max(self.interval_s, latest))
            if rng.random() < 0.5:
                lasts = self.silence_s + self.interval_s + rng.uniform(0, MARGIN_S)
            else:
                lasts = rng.uniform(0, max(0.0, self.silence_s - self.interval_s - 1.0))
            self.silent[number] = (begin, begin + lasts)


@dataclass
class Client:
    """What the client saw: how late it sent (s), how long each call took (s), how many failed."""

    late: list[float] = field(default_factory=list[float])
    took: list[float] = field(default_factory=list[float])
    failed: int = 0


async def live(plan: Plan, number: int, call: Send, begun: float, seen: Client) -> None:
    """One component's life: a heartbeat at every interval, except while it is silent; one at once when it comes back."""
    request = control_pb2.HeartbeatRequest(instance=instance(number), metrics={"events_in_total": number}).SerializeToString()
    silent_from, silent_to = plan.silent.get(number, (plan.seconds, plan.seconds))
    due = (number * 0.618033988749895) % 1 * plan.interval_s
    while due < plan.seconds:
        if silent_from <= due < silent_to:
            due = silent_to
            continue
        await asyncio.sleep(begun + due - time.monotonic())
        sent = time.monotonic()
        seen.late.append(sent - begun - due)
        try:
            await call(request, timeout=10)
        except grpc.aio.AioRpcError as error:
            seen.failed += 1
            if seen.failed == 1:
                progress(f"the first refusal: {error.code().name}: {error.details()}")
        seen.took.append(time.monotonic() - sent)
        due += plan.interval_s


@contextlib.asynccontextmanager
async def services(silence_s: float) -> AsyncGenerator[tuple[EmbeddedNats, dict[str, int], str]]:
    """NATS, a registry and a health monitor: the server, pids by name, and where the registry listens."""
    with tempfile.TemporaryDirectory(prefix="flowctl-bench-") as directory:
        nats = EmbeddedNats(Path(directory) / "nats")
        await nats.start()
        address = f"127.0.0.1:{free_port()}"
        environment = {**os.environ, "FLOWCTL_STATE_DIR": directory, "FLOWCTL_LOG_LEVEL": "error"}
        environment |= {"FLOWCTL_SILENCE_S": str(silence_s), "FLOWCTL_REGISTRY_LISTEN": address}
        started = [
            subprocess.Popen([sys.executable, "-m", f"flowctl_{name}"], env=environment) for name in ("registry", "health")
        ]
        try:
            async with asyncio.timeout(30), grpc.aio.insecure_channel(address) as channel:
                await channel.channel_ready()
            yield nats, {"registry": started[0].pid, "health": started[1].pid, "nats": nats.pid}, address
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(20)
            await nats.stop()


async def measure(plan: Plan) -> Figures:
    """Run it, then judge."""
    plan.draw()
    seen = Client()
    async with services(plan.silence_s) as (nats, pids, address):
        before = time.monotonic()
        await register(address, plan.components)
        progress(
            f"{plan.components} registered in {time.monotonic() - before:.1f} s; {len(plan.silent)} of them will fall silent"
        )
        store = await JetStreamStore.connect(nats.url, name="bench", assume_synced=True, create=False)
        first = await last_heartbeat(store)
        used = {name: cpu_s(pid) for name, pid in pids.items()} | {"client": cpu_s(os.getpid())}
        async with grpc.aio.insecure_channel(address) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD, bytes, bytes)
            begun = time.monotonic()
            await asyncio.gather(*(live(plan, number, call, begun, seen) for number in range(plan.components)))
            elapsed = time.monotonic() - begun
        figures: Figures = {
            "components": plan.components,
            "heartbeats_per_s": (await last_heartbeat(store) - first) / elapsed,
        }
        cores = {name: (cpu_s(pid) - used[name]) / elapsed for name, pid in (pids | {"client": os.getpid()}).items()}
        memory = {name: pss_mb(pid) for name, pid in pids.items()}
        progress("judging from the streams")
        figures |= await judged(store, plan)
        await store.close()
    figures |= {
        "refused": seen.failed,
        "sent_late_p99_s": percentile(seen.late, 0.99),
        "answered_p99_s": percentile(seen.took, 0.99),
    }
    figures |= {f"{name}_core": share for name, share in cores.items()} | {f"{name}_mb": size for name, size in memory.items()}
    return figures


async def judged(store: JetStreamStore, plan: Plan) -> Figures:
    """What the two streams say, by their server's times."""
    beats: dict[InstanceId, list[int]] = defaultdict(list)
    async for stored in store.heartbeats.read():
        if isinstance(stored.beat, Heartbeat):
            beats[stored.beat.instance].append(stored.time_ns)
    changes: dict[InstanceId, list[tuple[int, str]]] = defaultdict(list)
    async for entry in store.journal.read():
        if isinstance(entry.event, ComponentStatusChanged) and entry.aggregate is not None:
            changes[entry.aggregate.instance].append((entry.time_ns, entry.event.status))
    lags: list[float] = []
    detections: list[float] = []
    missed = 0
    for known, times in beats.items():
        found = changes.get(known, [])
        for at_ns, status in found:
            before = bisect.bisect_right(times, at_ns) - 1
            if status == "unhealthy":
                detections.append((at_ns - times[before]) / 1e9)
                lags.append(detections[-1] - plan.silence_s)
            elif status == "healthy":
                lost_ns = max((lost for lost, other in found if other == "unhealthy" and lost < at_ns), default=0)
                lags.append((at_ns - times[bisect.bisect_right(times, lost_ns)]) / 1e9)
        for last, after in itertools.pairwise(times):
            late = after - last > round(plan.silence_s * 1e9) + LATEST_NS
            missed += late and not any(last < at_ns < after for at_ns, status in found if status == "unhealthy")
    return {
        "status_changes": len(lags),
        "status_lag_p50_s": percentile(lags or [0.0], 0.5),
        "status_lag_p99_s": percentile(lags or [0.0], 0.99),
        "status_lag_max_s": max(lags, default=0.0),
        "detections": len(detections),
        "early_detections": sum(each < plan.silence_s for each in detections),
        "missed": missed,
        "detection_min_s": min(detections, default=0.0),
        "detection_max_s": max(detections, default=0.0),
    }


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--components", type=int, default=10_000)
    options.add_argument("--interval", type=float, default=10.0, help="seconds between two heartbeats of a component")
    options.add_argument("--silence", type=float, default=30.0, help="the health monitor's silence_s")
    options.add_argument("--seconds", type=float, default=65.0, help="how long heartbeats are sent")
    options.add_argument("--flapping", type=float, default=0.1, help="the share of components that fall silent once")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--quick", action="store_true", help="2,000 components, every 2 s, 6 s of silence, for 20 s")
    chosen = options.parse_args()
    if chosen.quick:
        chosen.components, chosen.interval, chosen.silence, chosen.seconds = 2_000, 2.0, 6.0, 20.0
    plan = Plan(chosen.seed, chosen.components, chosen.flapping, chosen.silence, chosen.interval, chosen.seconds)
    targets = {
        "heartbeats_per_s": f"about {plan.components / plan.interval_s:,.0f}, less what is silent",
        "status_lag_p99_s": "≤ 1",
        "early_detections": "0",
        "missed": "0",
        "detection_min_s": f"≥ {plan.silence_s:g}",
        "detection_max_s": f"≤ {plan.silence_s + 1.5:g}",
    }
    publish("fleet", asyncio.run(measure(plan)), as_json=chosen.json, targets=targets)


if __name__ == "__main__":
    main()
