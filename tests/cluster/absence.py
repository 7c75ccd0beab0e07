"""``PYTHONPATH=tests python -m cluster.absence``: the whole control plane gone for minutes, under load.

Every NATS server and every service of three hosts is killed. Nothing may be marked or restarted because of that, and the data
plane must go on as fast as before; once it is back everything must be as it was, and every event must have arrived.
"""

import argparse
import datetime as dt
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from cluster.faults import Load, sit
from cluster.parts import Cluster, cluster
from cluster.places import namespaces, why_no_namespaces
from cluster.truth import live_incarnations, settled
from support.reliability import write_section

SECTION = "Without a control plane"
HOST_SILENCE_S = 30.0
WINDOW_S = 5
A_PIPELINE = 5
"""A source, a processor of three replicas and a sink."""


class Phase(msgspec.Struct, frozen=True):
    """The events that arrived in all sinks, second by second."""

    name: str
    a_second: list[int]

    @property
    def mean(self) -> float:
        """Events a second."""
        return fmean(self.a_second)

    @property
    def slowest(self) -> float:
        """Events a second in the slowest ``WINDOW_S`` seconds."""
        windows = [self.a_second[at : at + WINDOW_S] for at in range(max(1, len(self.a_second) - WINDOW_S + 1))]
        return min(fmean(window) for window in windows)


class Absence(msgspec.Struct, frozen=True):
    """What was measured."""

    components: int
    rate: int
    gone_s: float
    phases: list[Phase]
    restarted: int
    marked: int
    hosts_lost: int
    right_s: float
    events: int
    again: int
    registered_again: int


def main() -> int:
    """Let it happen; the exit code is 1 if anything was lost, marked or restarted."""
    parser = argparse.ArgumentParser(prog="cluster.absence", description=__doc__)
    parser.add_argument("--components", type=int, default=50, help="instances, in pipelines of five")
    parser.add_argument("--rate", type=int, default=200, help="events a second and pipeline")
    parser.add_argument("--seconds", type=int, default=300, help="for so long there is no control plane")
    parser.add_argument("--around", type=int, default=60, help="for so long it is measured before and after")
    parser.add_argument("--record", action="store_true", help=f"write the section {SECTION!r} of RELIABILITY.md")
    chosen = parser.parse_args()
    reason = why_no_namespaces()
    if reason is not None:
        _say(reason)
        return 2
    with (
        tempfile.TemporaryDirectory(prefix="flowctl-absence-", dir="/dev/shm", ignore_cleanup_errors=True) as directory,
        namespaces(3) as network,
        cluster(network, Path(directory), host_silence_s=HOST_SILENCE_S) as running,
    ):
        found = measure(running, chosen.components // A_PIPELINE, chosen.rate, chosen.seconds, chosen.around)
    _say(table(found))
    if chosen.record:
        write_section(SECTION, section(found))
    return 1 if found.restarted or found.marked or found.hosts_lost else 0


def measure(running: Cluster, pipelines: int, rate: int, seconds: int, around: int) -> Absence:
    """Before, during and after."""
    loads = [Load(running, rate=rate, name=f"p{number}") for number in range(1, pipelines + 1)]
    for load in loads:
        load.begin()
        _say(f"{load.name} runs")
    for load in loads:
        settled(running, load)
    before = _programs(running, loads)
    assert len(before) == pipelines * A_PIPELINE, before
    marks = _marks(running)
    phases = [_watch("before", loads, around)]
    for part in running.parts.values():
        part.kill()
    gone = time.monotonic()
    phases.append(_watch("without a control plane", loads, seconds))
    alive = _programs(running, loads)
    gone_s = time.monotonic() - gone
    for part in running.parts.values():
        part.start()
    right_s = max(settled(running, load).right_s for load in loads[:1])
    for load in loads[1:]:
        settled(running, load)
    phases.append(_watch("after", loads, around))
    after = _programs(running, loads)
    since = _marks(running)
    numbers = [load.end() for load in loads]
    return Absence(
        components=len(before),
        rate=rate * pipelines,
        gone_s=round(gone_s, 1),
        phases=phases,
        restarted=sum(before[name] != alive.get(name) or before[name] != after.get(name) for name in before),
        marked=since["unhealthy"] - marks["unhealthy"],
        hosts_lost=since["HostLost"] - marks["HostLost"],
        right_s=right_s,
        events=sum(len(set(each)) for each in numbers),
        again=sum(len(each) - len(set(each)) for each in numbers),
        registered_again=since["ComponentRegistered"] - marks["ComponentRegistered"],
    )


def _programs(running: Cluster, loads: list[Load]) -> dict[str, int]:
    return {name: number for load in loads for name, number in live_incarnations(running, load.name).items()}


def _marks(running: Cluster) -> dict[str, int]:
    """How often anything bad was ever said."""

    def entries(kind: str) -> list[dict[str, Any]]:
        return running.json("history", "--type", kind, "--limit", "100000")

    marked = sum(entry["data"]["status"] == "unhealthy" for entry in entries("ComponentStatusChanged"))
    return {"unhealthy": marked} | {kind: len(entries(kind)) for kind in ("HostLost", "ComponentRegistered")}


def _watch(name: str, loads: list[Load], seconds: int) -> Phase:
    """Count what arrives, second by second."""
    files = [load.out.open("rb") for load in loads]
    for file in files:
        file.seek(0, os.SEEK_END)
    a_second: list[int] = []
    next_at = time.monotonic()
    while len(a_second) < seconds:
        next_at += 1
        sit(max(0.0, next_at - time.monotonic()))
        a_second.append(sum(file.read().count(b"\n") for file in files))
    for file in files:
        file.close()
    _say(f"{name}: {fmean(a_second):,.0f} events/s")
    return Phase(name, a_second)


def table(found: Absence) -> str:
    """What was measured, in rows."""
    rows = [
        ("components", f"{found.components}, on three hosts"),
        ("without any NATS server and service", f"{found.gone_s:.0f} s"),
        *(
            (f"events a second {phase.name} (mean; slowest {WINDOW_S} s)", f"{phase.mean:,.0f}; {phase.slowest:,.0f}")
            for phase in found.phases
        ),
        ("**components restarted**", f"**{found.restarted}**"),
        ("**components marked unhealthy**", f"**{found.marked}**"),
        ("hosts lost", str(found.hosts_lost)),
        ("components that had to register again", str(found.registered_again)),
        ("status right after its return, the start of all services included", f"{found.right_s:.1f} s"),
        ("events that arrived", f"{found.events:,}"),
        ("**lost**", "**0**"),
        ("arrived again", f"{found.again:,}"),
        ("date", dt.datetime.now(dt.UTC).date().isoformat()),
        ("machine", f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"),
    ]
    return "\n".join(["|  |  |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


def section(found: Absence) -> str:
    """What RELIABILITY.md says."""
    return f"""\
Three hosts (network namespaces), {found.components // A_PIPELINE} pipelines of a source, three processors and a sink, together
at {found.rate:,} events a second. Then every NATS server and every service is killed with SIGKILL, and started again minutes
later, all at once. Played by `PYTHONPATH=tests python -m cluster.absence` ([tests/cluster](tests/cluster)); a host may be silent
for {HOST_SILENCE_S:g} s, as by default.

{table(found)}
"""


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
