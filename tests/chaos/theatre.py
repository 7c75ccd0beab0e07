"""Plays a plan with real processes over real streams: starts the graph, does what the plan says, waits for the end."""

import heapq
import itertools
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from chaos.balance import Account
from chaos.plan import CUTS, KEYS, Fault, FaultKind, Part, Plan
from chaos.proxy import Gates
from chaos.registry import GatedRegistry
from flowctl.control.v1 import control_pb2 as control
from support.registry_fake import FakeRegistry, Node
from support.stream_fleet import Fleet

PROGRAMS = Path(__file__).parent / "programs.py"
START_TIMEOUT_S = 30.0
END_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 10.0
CHECK_AGAIN_S = 0.03

Key = tuple[str, int]
REGISTRY: Key = ("", 0)
QUIET = {"graceful", "delay"}
"""Where there are no other faults nothing is sent again: a stop in good order repeats no event."""
WHEN_FULL_DROP = int(control.WHEN_FULL_DROP)
ASIDE = {"action": "dead_letter", "attempts": 2, "backoff": {"initial_s": 0.001, "max_s": 0.002}}


class Void(msgspec.Struct, frozen=True):
    """What this incarnation of a sink writes from a moment on does not count: a newer one had its place."""

    component: str
    index: int
    incarnation: int
    since_ns: int


class Play(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, besides what the sinks have written.

    ``resending`` are the components whose faults may make events arrive again, one entry for each fault. ``accounts`` are the
    last counters of every incarnation, lower ones first, and ``replicas`` how many instances each component has in the end.
    ``letters`` are the dead letters: component, event, attempts. ``beats`` is how many heartbeats were checked to add up.
    """

    seconds: float
    done: dict[str, int]
    resending: list[str]
    voids: list[Void]
    accounts: list[Account]
    replicas: dict[str, int]
    letters: list[tuple[str, str, int]]
    beats: int
    problems: list[str]


def environment(plan: Plan, part: Part, sabotage: str = "") -> dict[str, str]:
    """What a program of this part finds in its environment."""
    return {
        "CHAOS_OUTBOX": str(plan.outbox),
        **({"FLOWCTL_ON_ERROR": json.dumps(ASIDE)} if part.program == "picky" else {}),
        **({"CHAOS_SABOTAGE": sabotage} if sabotage else {}),
    }


def config(plan: Plan, part: Part, *, calm: Path, out: Path) -> dict[str, object]:
    """The configuration of a part's program."""
    return {
        "count": plan.events,
        "keys": KEYS,
        "pause_s": plan.lasts_ms / 1000 / max(1, plan.events // plan.burst),
        "burst": plan.burst,
        "calm": str(calm),
        "directory": str(out),
        "pause_ms": part.pause_ms,
    }


class Theatre:
    """One performance of a plan in a directory."""

    def __init__(self, plan: Plan, directory: Path, *, sabotage: str = "") -> None:
        self._plan = plan
        self._sabotage = sabotage
        self._out = directory / "out"
        self._out.mkdir(parents=True)
        self._calm = directory / "calm"
        self._gates = Gates()
        graph = {
            part.name: Node(part.kind, part.inputs, part.replicas, part.partition_by, WHEN_FULL_DROP if part.drops else 0)
            for part in plan.parts
        }
        self._registry = GatedRegistry(graph, self._gates, fenced=sabotage != "fence-off")
        self._fleet = Fleet(self._registry, directory, programs=PROGRAMS)
        self._agenda: list[tuple[float, int, Callable[[], bool]]] = []
        self._numbers = itertools.count()
        self._down: set[Key] = set()
        self._frozen: set[Key] = set()
        self._zombies: list[tuple[Key, subprocess.Popen[bytes]]] = []
        self._leavers: list[tuple[Key, subprocess.Popen[bytes]]] = []
        self._endpoint = ""
        self._done: dict[str, int] = {}
        self._resending: list[str] = []
        self._voids: list[Void] = []
        self._problems: list[str] = []

    def play(self) -> Play:
        """Start to end; whatever goes wrong becomes a problem."""
        began = time.monotonic()
        self._endpoint = self._gates.lead(REGISTRY, self._registry.start().address)
        try:
            for part in self._plan.parts:
                for index in range(part.replicas):
                    self._start((part.name, index))
            self._await(self._flowing, START_TIMEOUT_S, "no event arrives")
            self._perform()
            self._calm.touch()
            self._await(self._over, END_TIMEOUT_S, "the pipeline does not end")
        finally:
            for _, process in [*self._zombies, *self._leavers]:
                if process.poll() is None:
                    process.kill()
                    process.wait(10)
            self._fleet.close()
            self._registry.stop()
            self._gates.close()
        registry = self._registry
        return Play(
            seconds=time.monotonic() - began,
            done=self._done,
            resending=self._resending,
            voids=self._voids,
            accounts=[registry.accounts[key] for key in sorted(registry.accounts)],
            replicas={name: node.replicas for name, node in registry.graph.items()},
            letters=registry.letters,
            beats=registry.beats,
            problems=self._problems + registry.problems,
        )

    # -- the agenda ----------------------------------------------------------------------------------------------------

    def _perform(self) -> None:
        start = time.monotonic()
        for fault in self._plan.faults:
            self._at(start + fault.at_ms / 1000, lambda fault=fault: self._begin(fault))
        while self._agenda:
            at, _, act = heapq.heappop(self._agenda)
            time.sleep(max(0.0, at - time.monotonic()))
            if time.monotonic() > start + END_TIMEOUT_S:
                self._problems.append("the faults do not come to an end")
                return
            if not act():
                self._at(time.monotonic() + CHECK_AGAIN_S, act)

    def _at(self, when: float, act: Callable[[], bool]) -> None:
        heapq.heappush(self._agenda, (when, next(self._numbers), act))

    def _begin(self, fault: Fault) -> bool:
        key = (fault.component, fault.index)
        end = time.monotonic() + fault.for_ms / 1000
        if fault.kind == "registry":
            self._gates.break_(REGISTRY, "reset", "")
            self._at(end, lambda: self._heal(REGISTRY, "reset"))
        elif fault.kind == "scale":
            self._scale(fault.component, fault.replicas)
        elif fault.kind in CUTS:
            self._gates.break_(key, fault.kind, fault.side)
            self._at(end, lambda: self._heal(key, fault.kind))
        elif not self._available(key):
            return True
        elif fault.kind == "kill":
            self._fleet.kill(*key)
            self._resending.append(fault.component)
            self._down.add(key)
            self._at(end, lambda: self._start(key))
        elif fault.kind == "pause":
            self._freeze(key)
            self._at(end, lambda: self._thaw(key))
        elif fault.kind == "graceful":
            process = self._fleet.running[key]
            process.send_signal(signal.SIGTERM)
            self._frozen.add(key)
            self._at(time.monotonic(), lambda: self._restart(key, process))
        else:
            self._freeze(key)
            self._at(time.monotonic() + 0.1, lambda: self._replace(key, fault))
        self._done[fault.kind] = self._done.get(fault.kind, 0) + 1
        return True

    def _heal(self, key: Key, kind: FaultKind) -> bool:
        self._gates.heal(key, kind)
        return True

    # -- what happens to instances -------------------------------------------------------------------------------------

    def _available(self, key: Key) -> bool:
        """Whether it runs and nothing else is happening to it."""
        known = self._registry.known.get(key)
        process = self._fleet.running.get(key)
        running = process is not None and process.poll() is None and not (known and known.completed)
        return running and key not in self._frozen and key not in self._down

    def _start(self, key: Key) -> bool:
        component, index = key
        self._down.discard(key)
        self._frozen.discard(key)
        running = self._fleet.running.get(key)
        wanted = index < self._registry.graph[component].replicas
        if not wanted or self._completed(key) or (running is not None and running.poll() is None):
            return True
        part = self._plan.part(component)
        env = {"FLOWCTL_ENDPOINT": self._endpoint, **environment(self._plan, part, self._sabotage)}
        arguments = (str(part.window),) if part.window else ()
        self._fleet.start(part.program, component, index, arguments=arguments, config=self._config(part), **env)
        return True

    def _config(self, part: Part) -> dict[str, object]:
        return config(self._plan, part, calm=self._calm, out=self._out)

    def _freeze(self, key: Key) -> None:
        self._fleet.running[key].send_signal(signal.SIGSTOP)
        self._frozen.add(key)

    def _thaw(self, key: Key) -> bool:
        self._fleet.running[key].send_signal(signal.SIGCONT)
        self._frozen.discard(key)
        return True

    def _restart(self, key: Key, process: "subprocess.Popen[bytes]") -> bool:
        code = process.poll()
        if code is None:
            return False
        known = self._registry.known.get(key)
        # Asked before it had set itself up to be asked, and so before it had done anything.
        too_early = code == -signal.SIGTERM and (known is None or known.incarnation < self._fleet.incarnations[key])
        if code != 0 and not too_early:
            self._problems.append(f"{_name(key)} exited {code} when asked to stop: {self._last_words(key)}")
        if any(fault.kind not in QUIET for fault in self._plan.faults):
            # Its last acknowledgement may be unable to leave while it or its neighbour is cut off, frozen or gone.
            self._resending.append(key[0])
        return self._start(key)

    def _replace(self, key: Key, fault: Fault) -> bool:
        """Start the next incarnation beside the frozen one."""
        zombie = self._fleet.running.pop(key)
        incarnation = self._fleet.incarnations[key]
        self._resending.append(key[0])
        if key[1] >= self._registry.graph[key[0]].replicas:
            self._frozen.discard(key)
            zombie.kill()
            zombie.wait(10)
            return True
        self._zombies.append((key, zombie))
        self._frozen.discard(key)
        self._start(key)
        earliest = time.monotonic() + fault.for_ms / 1000
        self._at(earliest, lambda: self._wake(key, zombie, incarnation))
        return True

    def _wake(self, key: Key, zombie: "subprocess.Popen[bytes]", incarnation: int) -> bool:
        """Let the frozen one go on, once its replacement is linked to all its upstreams (or has gone)."""
        known = self._registry.known.get(key)
        if self._available(key) and not self._linked(key):
            return False
        if not (known and known.incarnation > incarnation):
            if key in self._fleet.running:
                return False
            # Its replacement was scaled away before it had registered: nobody has superseded this one, and nobody wants it.
            self._zombies.remove((key, zombie))
            zombie.kill()
            zombie.wait(10)
            return True
        self._voids.append(Void(*key, incarnation, time.monotonic_ns()))
        zombie.send_signal(signal.SIGCONT)
        return True

    def _linked(self, key: Key) -> bool:
        known = self._registry.known.get(key)
        if known is None or known.incarnation != self._fleet.incarnations[key] or not known.heartbeats:
            return False
        edges = [edge for edge in known.heartbeats[-1].edges if edge.direction == control.DIRECTION_IN]
        upstreams = sum(self._registry.graph[name].replicas for name in self._registry.graph[key[0]].inputs)
        return len(edges) == upstreams and all(edge.connected or self._completed(_key(edge.peer)) for edge in edges)

    def _scale(self, component: str, replicas: int) -> None:
        before = self._registry.graph[component].replicas

        def change(registry: FakeRegistry) -> None:
            registry.graph[component].replicas = replicas

        if any(self._completed((component, index)) for index in range(before)):
            return
        self._registry.update(change)
        self._resending.append(component)
        for index in range(before, replicas):
            self._start((component, index))
        for index in range(replicas, before):
            process = self._fleet.running.pop((component, index), None)
            if process is not None and (component, index) not in self._down:  # one that was killed just now has left already
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
                self._frozen.discard((component, index))
                self._leavers.append(((component, index), process))

    # -- how far things are --------------------------------------------------------------------------------------------

    def _completed(self, key: Key) -> bool:
        known = self._registry.known.get(key)
        return bool(known and known.completed)

    def _flowing(self) -> bool:
        return any(path.stat().st_size for path in self._out.iterdir()) or self._crashed()

    def _over(self) -> bool:
        wanted = [(name, index) for name, node in self._registry.graph.items() for index in range(node.replicas)]
        for key in wanted:
            process = self._fleet.running.get(key)
            if process is None:
                self._start(key)
        ended = all(self._fleet.running[key].poll() is not None for key in wanted)
        ghosts = all(process.poll() is not None for _, process in [*self._zombies, *self._leavers])
        return (ended and ghosts) or self._crashed()

    def _crashed(self) -> bool:
        """Whether something exited that should not have; then waiting is pointless."""
        for key, process in self._fleet.running.items():
            code = process.poll()
            if code is not None and key not in self._down and key not in self._frozen and (code != 0 or not self._completed(key)):
                self._problem(f"{_name(key)} exited {code}: {self._last_words(key)}")
        for key, process in self._zombies:
            if process.poll() not in {None, 75}:
                self._problem(f"the zombie of {_name(key)} exited {process.poll()}, not 75: {self._last_words(key)}")
        for key, process in self._leavers:
            if process.poll() not in {None, 0, -signal.SIGTERM}:
                self._problem(f"{_name(key)} exited {process.poll()} when scaled away: {self._last_words(key)}")
        return bool(self._problems)

    def _problem(self, text: str) -> None:
        if text not in self._problems:
            self._problems.append(text)

    def _await(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        if self._problems:
            return
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                running = [_name(key) for key, process in self._fleet.running.items() if process.poll() is None]
                ghosts = [_name(key) for key, process in [*self._zombies, *self._leavers] if process.poll() is None]
                self._problems.append(f"{what} within {timeout_s:.0f} s; running: {running}, of old incarnations: {ghosts}")
                return
            time.sleep(0.02)

    def _last_words(self, key: Key, count: int = 2) -> str:
        entries: list[str] = []
        for line in self._fleet.log(*key).splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                entries.append(line)
            else:
                if entry.get("level") != "debug":
                    entries.append(str(entry.get("message")))
        return " | ".join(entries[-count:])


def _name(key: Key) -> str:
    return f"{key[0]}.{key[1]}"


def _key(name: str) -> Key:
    component, _, index = name.rpartition(".")
    return component, int(index)
