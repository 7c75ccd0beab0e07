"""What can happen to a part of the cluster or to a host, what must hold meanwhile, and a schedule of such things from a seed."""

import os
import random
import signal
import time
from pathlib import Path
from typing import Final, Literal

import msgspec

from cluster.parts import HOST_SILENCE_S, PARTS, Cluster, Part, arrived, missing
from cluster.places import pids_in
from support.flowctl import until
from support.pipelines import component, pipeline

Kind = Literal["kill", "pause", "restart", "cut", "power"]
KINDS: Final[tuple[Kind, ...]] = ("kill", "pause", "restart", "cut", "power")
"""SIGKILL and a new start; SIGSTOP and SIGCONT; SIGTERM and a new start; the cable pulled; everything on the host killed."""

LEADER: Final = "leader"
"""In place of a host: whichever leads the journal's stream when it happens."""

BLINK_S: Final = (0.2, 3.0)
LONG_S: Final = (HOST_SILENCE_S + 0.5, HOST_SILENCE_S + 4.0)
"""So long lasts a fault that nobody may miss, and one for which a host is missed."""


class Fault(msgspec.Struct, frozen=True):
    """One thing that happens: to a part of a host, or to the whole host, for so many seconds."""

    kind: Kind
    host: str
    part: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind} {self.whom()} for {self.seconds:.1f} s"

    def whom(self) -> str:
        """What it happens to."""
        if self.kind in ("cut", "power"):
            return self.host
        return "the journal's leader" if self.host == LEADER else f"the {self.part} of {self.host}"


class Schedule(msgspec.Struct, frozen=True):
    """What happens, one after the other with a heal after each, or all together with one heal in the end."""

    seed: int
    faults: list[Fault]
    together: bool

    def __str__(self) -> str:
        return (" and " if self.together else "; ").join(str(fault) for fault in self.faults)


def schedule(seed: int, hosts: list[str], *, count: int, long: bool = True) -> Schedule:
    """The schedule of a seed, of ``count`` faults; without ``long`` no host is away for so long that it is missed."""
    chance = random.Random(seed)
    faults: list[Fault] = []
    for _ in range(count):
        kind, part = chance.choice(KINDS), chance.choice(PARTS)
        leader = part == "nats" and kind in ("kill", "pause") and chance.random() < 0.5
        seconds = chance.uniform(*(LONG_S if long and chance.random() < 0.3 else BLINK_S))
        faults.append(Fault(kind, LEADER if leader else chance.choice(hosts), part, seconds))
    return Schedule(seed, faults, together=count > 1 and chance.random() < 0.5)


class Load:
    """A pipeline under way: numbers on their way over all hosts, and what has arrived of them."""

    def __init__(self, cluster: Cluster, *, rate: int = 300, name: str = "orders") -> None:
        self.cluster = cluster
        self.name = name
        self.rate = rate
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
        """The incarnation of each instance, as soon as somebody answers."""
        instances = until(lambda: self.cluster.instances(self.name), "the status")
        return {name: each["incarnation"] for name, each in instances.items()}


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def inflict(cluster: Cluster, *faults: Fault) -> None:
    """Let them happen together, wait as long as the longest of them lasts, and undo them."""
    happening = [met(cluster, fault) for fault in faults]
    for fault in happening:
        begin(cluster, fault)
    sit(max(fault.seconds for fault in faults))
    for fault in happening:
        undo(cluster, fault)


def met(cluster: Cluster, fault: Fault) -> Fault:
    """The same fault with the host that it meets now."""
    if fault.host != LEADER:
        return fault
    return msgspec.structs.replace(fault, host=until(cluster.nats_leader, "a leader of the journal"))


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


def sit(seconds: float) -> None:
    """A fault lasts as long as the schedule says; this waits for nothing else."""
    time.sleep(seconds)
