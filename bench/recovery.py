"""How fast a crash is seen and mended, and how exactly silence is found.

``crash_seen_s``: from ``kill -9`` of a processor to the server's time of the journal entry that says so. ``relinked_s``: to the
first event that came through the restarted processor into the sink. ``silence_*``: from the server's time of the last heartbeat
of a stopped (SIGSTOP) component to the server's time of the entry that calls it unhealthy.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import harness
from flowctl.journal.events import ComponentExited, ComponentStatusChanged
from flowctl.journal.heartbeats import Heartbeat
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.log import Entry
from report import median, parser, percentile, progress, publish

PIPELINE = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata: {{name: recovery}}
spec:
  sources:
    - {{id: numbers, type: generator, config: {{rate: 200}}}}
  processors:
    - id: relay
      command: ["{python}", "{relay}"]
      inputs: [numbers]
      restart: {{max_attempts: 1000, backoff: {{initial_s: 0.05, max_s: 0.05}}}}
  sinks:
    - id: stamp
      command: ["{python}", "{stamp}"]
      inputs: [relay]
      config: {{path: "{path}"}}
"""
SILENT = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata: {{name: silent}}
spec:
  sources:
    - {{id: numbers, type: generator, replicas: {count}, config: {{rate: 1}}}}
  sinks:
    - {{id: out, type: console, inputs: [numbers]}}
"""


async def crashes(directory: Path, count: int) -> tuple[list[float], list[float]]:
    """Kill the processor ``count`` times; seconds until seen, and until events flow through its successor."""
    path, file = directory / "stamp.txt", directory / "pipeline.yaml"
    programs = harness.PROGRAMS
    file.write_text(PIPELINE.format(python=sys.executable, relay=programs / "relay.py", stamp=programs / "stamp.py", path=path))
    harness.flowctl(directory, "up", "--detach", str(file))
    await harness.until_running(directory, "recovery")
    harness.wait_for_file(path, 30)
    seen: list[float] = []
    relinked: list[float] = []
    async with harness.store(directory) as store:
        for number in range(count):
            found = (await asyncio.to_thread(harness.instances, directory))["recovery.relay.0"]
            last = await store.journal.last_sequence()
            offset = path.stat().st_size
            incarnation = int(found["incarnation"])
            killed_ns, killed = time.time_ns(), time.monotonic_ns()
            os.kill(int(found["handle"]), signal.SIGKILL)
            entry = await next_entry(store.journal.follow(after=last), ComponentExited)
            seen.append((entry.time_ns - killed_ns) / 1e9)
            relinked.append((await arrival(path, offset, incarnation + 1) - killed) / 1e9)
            progress(f"crash {number + 1}/{count}: seen after {seen[-1]:.3f} s, flowing after {relinked[-1]:.3f} s")
            await harness.until_running(directory, "recovery")
    harness.flowctl(directory, "down", "recovery")
    return seen, relinked


async def next_entry(entries: AsyncIterator[Entry], kind: type) -> Entry:
    """The next entry of that kind."""
    async with asyncio.timeout(60):
        async for entry in entries:
            if isinstance(entry.event, kind):
                return entry
    raise SystemExit("the journal ended")


async def arrival(path: Path, offset: int, incarnation: int) -> int:
    """When the first event of that incarnation arrived, monotonic nanoseconds."""
    wanted = f'"incarnation":{incarnation}'.encode()
    async with asyncio.timeout(60):
        while True:
            with path.open("rb") as file:
                file.seek(offset)
                for line in file:
                    if wanted in line.replace(b": ", b":"):
                        return int(line.split()[0])
            await asyncio.sleep(0.01)


async def silences(directory: Path, count: int) -> list[float]:
    """Stop ``count`` components, a second apart; how long each was silent when it was called unhealthy, seconds.

    The last sign of life is looked up in the stored heartbeats (or the registration), not taken from the monitor's own word.
    """
    file = directory / "silent.yaml"
    file.write_text(SILENT.format(count=count))
    harness.flowctl(directory, "up", "--detach", str(file))
    await harness.until_running(directory, "silent")
    found = await asyncio.to_thread(harness.instances, directory)
    victims = {name: int(each["handle"]) for name, each in found.items() if name.startswith("silent.numbers.")}
    alive_ns: dict[str, int] = {}
    silent: dict[str, float] = {}
    async with harness.store(directory) as store:
        last = await store.journal.last_sequence()
        async for entry in store.journal.read(subject="flowctl.journal.component.silent.*.*.registered"):
            if entry.aggregate is not None:
                alive_ns[str(entry.aggregate.instance)] = entry.time_ns
        listening = asyncio.create_task(listen(store, alive_ns))
        for number, pid in enumerate(victims.values()):
            await asyncio.sleep(1.0 if number else 0)
            os.kill(pid, signal.SIGSTOP)
        progress(f"{count} components stopped; waiting for the health monitor")
        try:
            async with asyncio.timeout(90):
                async for entry in store.journal.follow(after=last):
                    event = entry.event
                    if isinstance(event, ComponentStatusChanged) and event.status == "unhealthy" and entry.aggregate is not None:
                        name = str(entry.aggregate.instance)
                        silent[name] = (entry.time_ns - alive_ns[name]) / 1e9
                        if set(silent) >= set(victims):
                            break
        finally:
            listening.cancel()
            for pid in victims.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
    return list(silent.values())


async def listen(store: JetStreamStore, alive_ns: dict[str, int]) -> None:
    """Note the server's time of everybody's newest heartbeat."""
    async for stored in store.heartbeats.follow():
        if isinstance(stored.beat, Heartbeat):
            name = str(stored.beat.instance)
            alive_ns[name] = max(alive_ns.get(name, 0), stored.time_ns)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--crashes", type=int, default=30)
    options.add_argument("--stopped", type=int, default=6)
    chosen = options.parse_args()
    with harness.state() as directory:
        seen, relinked = asyncio.run(crashes(directory, chosen.crashes))
        silent = asyncio.run(silences(directory, chosen.stopped))
    figures = {
        "crash_seen_s": percentile(seen, 0.99),
        "crash_seen_p50_s": median(seen),
        "relinked_p99_s": percentile(relinked, 0.99),
        "relinked_p50_s": median(relinked),
        "silence_min_s": min(silent),
        "silence_max_s": max(silent),
    }
    targets = {"crash_seen_s": "≤ 1 (p99)", "relinked_p99_s": "≤ 3", "silence_min_s": "≥ 30.0", "silence_max_s": "≤ 31.5"}
    publish("recovery", figures, as_json=chosen.json, targets=targets)


if __name__ == "__main__":
    main()
