"""What can happen to a part of the cluster or to a host, what must hold meanwhile, and a schedule of such things from a seed."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from cluster.parts import PARTS, Cluster, Part, arrived, missing
from cluster.places import pids_in
from support.flowctl import until
from support.pipelines import component, pipeline

Kind = Literal["kill", "pause", "restart", "cut", "power"]
KINDS: Final[tuple[Kind, ...]] = ("kill", "pause", "restart", "cut", "power")
"""SIGKILL and a new start; SIGSTOP and SIGCONT; SIGTERM and a new start; the cable pulled; everything on the host killed."""

WELL_S: Final = 60.0


class Fault(msgspec.Struct, frozen=True):
    """One thing that happens: to a part of a host, or to the whole host, for so many seconds."""

    kind: Kind
    host: str
    part: str
    seconds: float

    def __str__(self) -> str:
        whom = self.host if self.kind in ("cut", "power") else f"the {self.part} of {self.host}"
        return f"{self.kind} {whom} for {self.seconds:.1f} s"


def schedule(seed: int, hosts: list[str], *, can_cut: bool, count: int) -> list[Fault]:
    """The faults of a seed."""
    chance = random.Random(seed)
    kinds: tuple[Kind, ...] = KINDS if can_cut else ("kill", "pause", "restart", "power")
    return [
        Fault(chance.choice(kinds), chance.choice(hosts), chance.choice(PARTS), chance.uniform(0.2, 7.0)) for _ in range(count)
    ]


class Load:
    """A pipeline under way: numbers on their way over all hosts, and what has arrived of them."""

    def __init__(self, cluster: Cluster, *, rate: int = 300, name: str = "orders") -> None:
        self.cluster = cluster
        self.name = name
        self.out = cluster.directory / f"{name}.jsonl"
        self.file = cluster.directory / f"{name}.yaml"
        self.file.write_text(
            pipeline(
                name,
                sources=[component("numbers", "count", config={"count": 100_000_000, "rate": rate})],
                processors=[component("double", "double", "numbers", replicas=3, partition_by="payload.n")],
                sinks=[component("keep", "keep", "double", config={"path": str(self.out)})],
            )
        )

    def begin(self) -> None:
        """Submit it and wait until it runs."""
        self.cluster.run("up", "--detach", "--wait", str(self.file))

    def end(self) -> list[int]:
        """Stop it, drained; everything that arrived. Nothing below the last number may be missing."""
        self.cluster.run("down", self.name, timeout_s=120)
        numbers = arrived(self.out)
        lost = missing(numbers)
        assert not lost, f"{len(lost)} of {max(numbers)} events are lost, the first is {lost[0]}"
        return numbers

    def flows(self, *, timeout_s: float = 30.0) -> float:
        """Wait until something new arrives; how long that took."""
        begun, before = time.monotonic(), _size(self.out)
        until(lambda: _size(self.out) > before, "an event to arrive", timeout_s=timeout_s, every_s=0.02)
        return time.monotonic() - begun

    def programs(self) -> dict[str, int]:
        """The incarnation of each instance."""
        return {name: each["incarnation"] for name, each in self.cluster.instances(self.name).items()}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def inflict(cluster: Cluster, fault: Fault) -> None:
    """Let it happen, wait, and undo it."""
    begin(cluster, fault)
    _sit(fault.seconds)
    undo(cluster, fault)


def begin(cluster: Cluster, fault: Fault) -> None:
    """Let it happen."""
    part = cluster.parts[fault.host, fault.part]
    match fault.kind:
        case "kill":
            part.kill()
        case "pause":
            part.send(signal.SIGSTOP)
        case "restart":
            part.stop()
        case "cut":
            cluster.network.cut(part.place)
        case "power":
            _power_off(cluster, part)


def undo(cluster: Cluster, fault: Fault) -> None:
    """Mend it."""
    part = cluster.parts[fault.host, fault.part]
    match fault.kind:
        case "kill" | "restart":
            part.start()
        case "pause":
            part.send(signal.SIGCONT)
        case "cut":
            cluster.network.heal(part.place)
        case "power":
            for each in cluster.on(fault.host):
                each.start()


def _power_off(cluster: Cluster, part: Part) -> None:
    """Everything on the host at once, its components too."""
    for each in cluster.on(part.place.name):
        each.send(signal.SIGKILL)
    if part.place.prefix:
        for pid in pids_in(part.place.prefix[-1]):
            _kill(pid)
    for each in cluster.on(part.place.name):
        each.wait()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _sit(seconds: float) -> None:
    """A fault lasts as long as the schedule says; this waits for nothing else."""
    time.sleep(seconds)


def settled(cluster: Cluster, load: Load) -> float:
    """After a heal: wait until all hosts are up, the pipeline runs and events arrive; how long that took."""
    begun = time.monotonic()
    cluster.until_hosts("up", *(place.name for place in cluster.network.places), timeout_s=WELL_S)
    cluster.until_well(load.name, timeout_s=WELL_S)
    load.flows()
    return time.monotonic() - begun


def registrations(cluster: Cluster) -> set[tuple[str, int]]:
    """Every registration that the journal holds: instance and incarnation."""
    entries: list[dict[str, Any]] = cluster.json("history", "--type", "ComponentRegistered", "--limit", "100000")
    return {(entry["instance"], entry["data"]["incarnation"]) for entry in entries}
