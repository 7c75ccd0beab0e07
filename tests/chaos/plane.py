"""Plays a plan under the real control plane: real services, a real nats-server that fsyncs, and flowctl's own commands."""

import heapq
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil

from chaos.balance import Account
from chaos.live import account
from chaos.plan import CUTS, Fault, Part, Plan
from chaos.proxy import Gates
from chaos.theatre import ASIDE, PROGRAMS, Key, Play, config, environment
from chaos.watch import Watch
from support.flowctl import COMMAND, Flowctl
from support.pipelines import pipeline

NAME = "chaos"
NATS_ALONE = Path(__file__).parent.parent / "support" / "programs" / "nats_alone.py"
SERVICES = ("registry", "health", "orchestrator", "agent")
READY_TIMEOUT_S = 90.0
CONVERGE_TIMEOUT_S = 60.0
END_TIMEOUT_S = 90.0
COMMAND_TIMEOUT_S = 60.0
CHECK_AGAIN_S = 0.05
UNREACHABLE = {3, 4}
REGISTRY: Key = ("@registry", 0)
JOURNAL: Key = ("@journal", 0)


class Broken(Exception):  # noqa: N818 - what the schedule ends with, not a fault of the harness
    """The control plane did not do what it must."""


class Stage:
    """One performance of a plan in a directory, with a control plane of its own."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self._plan = plan
        self._out = directory / "out"
        self._out.mkdir(parents=True)
        self._calm = directory / "calm"
        self._gates = Gates()
        registry = f"127.0.0.1:{_free_port()}"
        gate = self._gates.lead(REGISTRY, registry)
        self._flowctl = Flowctl(
            directory, registry_listen=registry, registry=gate, silence_s="10", heartbeat_interval_s="0.5", host_heartbeat_s="1"
        )
        # What services are started with: their way to the journal leads through a gate, that of commands does not.
        self._environment = self._flowctl.environment
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        self._parts = {part.name: part for part in plan.parts if part.name != "x-join"}
        self._replicas = {name: part.replicas for name, part in self._parts.items()}
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._watch: Watch | None = None
        self._undoing: list[threading.Timer] = []
        self._busy: set[str] = set()
        self._done: Counter[str] = Counter()
        self._resending: list[str] = []
        # How often each instance may have been started, by what was done to it.
        self._starts: Counter[str] = Counter(
            {f"{name}.{index}": 1 for name, count in self._replicas.items() for index in range(count)}
        )
        self._touched: set[str] = set()
        self._accounts: list[Account] = []
        self._letters: list[tuple[str, str, int]] = []
        self._problems: list[str] = []

    def play(self) -> Play:
        """Start to end; whatever goes wrong becomes a problem."""
        began = time.monotonic()
        try:
            self._open()
            self._perform()
            self._converge()
            self._calm.touch()
            self._finish()
        except Broken as broken:
            self._problems.append(str(broken))
        finally:
            self._close()
        return Play(
            seconds=time.monotonic() - began,
            done=dict(self._done),
            resending=self._resending,
            voids=[],
            accounts=self._accounts,
            replicas=self._replicas,
            letters=self._letters,
            beats=0,
            problems=self._problems,
        )

    # -- the control plane ---------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._plan.services == "apart":
            nats = self._spawn("nats", [sys.executable, str(NATS_ALONE), str(self._flowctl.state / "nats")])
            assert nats.stdout is not None
            url = nats.stdout.readline().decode().strip()
            address = self._gates.lead(JOURNAL, url.rpartition("@")[2])
            trusted = {**self._flowctl.environment, "FLOWCTL_NATS_ASSUME_SYNCED": "true"}
            self._environment = {**trusted, "FLOWCTL_NATS_URL": f"{url.rpartition('@')[0]}@{address}"}
            self._flowctl.environment = {**trusted, "FLOWCTL_NATS_URL": url}
        for service in SERVICES if self._plan.services == "apart" else ("server",):
            self._launch(service)
        if self._plan.services == "one":
            # Otherwise `up` would start a server of its own.
            self._until((self._flowctl.state / "server.json").exists, READY_TIMEOUT_S, "the server is not ready")
        else:
            self._until(lambda: self._run("doctor").returncode == 0, READY_TIMEOUT_S, "the services are not ready")
        self._up()
        self._watch = Watch(self._flowctl, NAME)
        self._until(lambda: any(path.stat().st_size for path in self._out.iterdir()), READY_TIMEOUT_S, "no event arrives")

    def _launch(self, service: str) -> None:
        command = [*COMMAND, "server"] if service == "server" else [sys.executable, "-m", f"flowctl_{service}"]
        self._services[service] = self._spawn(service, command)

    def _spawn(self, name: str, command: list[str]) -> "subprocess.Popen[bytes]":
        directory = self._flowctl.directory
        with (directory / f"{name}.log").open("ab") as log:
            piped = subprocess.PIPE if name == "nats" else log
            self._services[name] = subprocess.Popen(
                command, cwd=directory, env=self._environment, stdin=subprocess.DEVNULL, stdout=piped, stderr=log
            )
        return self._services[name]

    def _close(self) -> None:
        """End everything; what is left then is a problem."""
        for undoing in self._undoing:
            undoing.join()
        if self._watch is not None:
            self._watch.close()
        # nats-server last: the others say goodbye in the journal.
        for name, service in sorted(self._services.items(), key=lambda each: each[0] == "nats"):
            self._end(name, service)
        for process in self._flowctl.processes():
            if not self._problems:
                self._problems.append(f"left running: {' '.join(process.cmdline())[:200]}")
            process.kill()
        self._gates.close()

    def _end(self, name: str, service: "subprocess.Popen[bytes]") -> None:
        if self._problems:
            # A failed schedule is not let down gently; its problems are those that it had before.
            service.kill()
            service.wait(10)
            return
        service.terminate()
        try:
            code = service.wait(20)
        except subprocess.TimeoutExpired:
            self._problems.append(f"the {name} does not end when asked to")
            service.kill()
            service.wait(10)
        else:
            if code:
                self._problems.append(f"the {name} ended with {code} when asked to end")

    # -- commands ------------------------------------------------------------------------------------------------------

    def _run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self._flowctl.run(*words, expect=None)

    def _obeyed(self, *words: str) -> int:
        """Give a command, again and again while the control plane does not answer; how often it was given."""
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        for number in itertools.count(1):
            done = self._run(*words)
            if done.returncode == 0:
                return number
            if done.returncode not in UNREACHABLE or time.monotonic() > deadline:
                raise Broken(f"flowctl {' '.join(words)} exited {done.returncode}: {(done.stderr or done.stdout).strip()[-400:]}")
        raise AssertionError

    def _asked(self, *words: str) -> Any:
        """The answer of a read, asked for until there is one; exit code 1 says that it shows a difference."""
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        while True:
            done = self._run(*words, "--json")
            if done.returncode in {0, 1} and done.stdout:
                return json.loads(done.stdout)
            if done.returncode not in UNREACHABLE or time.monotonic() > deadline:
                raise Broken(f"flowctl {' '.join(words)} exited {done.returncode}: {(done.stderr or done.stdout).strip()[-400:]}")

    def _up(self) -> None:
        while "@server" in self._busy:
            time.sleep(CHECK_AGAIN_S)
        parts: dict[str, list[dict[str, Any]]] = {"source": [], "processor": [], "sink": []}
        for part in self._parts.values():
            parts[part.kind].append(self._component(part))
        text = pipeline(NAME, sources=parts["source"], processors=parts["processor"], sinks=parts["sink"])
        self._obeyed("up", "--detach", str(self._flowctl.write("pipeline.yaml", text)))

    def _component(self, part: Part) -> dict[str, Any]:
        settings = config(self._plan, part, calm=self._calm, out=self._out)
        inputs: list[Any] = [{"from": name, "when_full": "drop"} for name in part.inputs] if part.drops else list(part.inputs)
        window = [str(part.window)] if part.window else []
        env = environment(self._plan, part)
        env.pop("FLOWCTL_ON_ERROR", None)
        return {
            "id": part.name,
            "command": [sys.executable, str(PROGRAMS), part.program, *window],
            "config": {**settings, "hold": True} if part.kind == "source" else settings,
            "env": env,
            "replicas": self._replicas[part.name],
            "stop_timeout_s": 10,
            **({"inputs": inputs} if inputs else {}),
            **({"partition_by": part.partition_by} if part.partition_by else {}),
            **({"on_error": ASIDE} if part.program == "picky" else {}),
        }

    # -- the agenda ----------------------------------------------------------------------------------------------------

    def _perform(self) -> None:
        start = time.monotonic()
        for fault in self._plan.faults:
            self._at(start + fault.at_ms / 1000, lambda fault=fault: self._begin(fault))
        while self._agenda:
            at, _, act = heapq.heappop(self._agenda)
            time.sleep(max(0.0, at - time.monotonic()))
            act()
        for undoing in self._undoing:
            undoing.join()

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (when, next(self._numbers), act))

    def _begin(self, fault: Fault) -> None:
        name, end = fault.component, time.monotonic() + fault.for_ms / 1000
        if name in self._busy:
            return
        if name.startswith("@"):
            self._attack(fault, end)
        elif fault.kind in {"kill", "pause"}:
            process = self._program(fault)
            if process is None:
                return
            process.send_signal(signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP)
            if fault.kind == "kill":
                self._concerns(f"{name}.{fault.index}")
                self._resending.append(name)
            else:
                self._hold(name, end, lambda: _signal(process, signal.SIGCONT))
        elif fault.kind == "restart":
            given = self._obeyed("restart", f"{NAME}.{name}")
            self._renews(name, given)
        elif fault.kind == "scale":
            self._scale(name, fault.replicas)
        elif fault.kind == "change":
            part = self._parts[name]
            self._parts[name] = msgspec.structs.replace(part, pause_ms=part.pause_ms + 1)
            self._renews(name, 1)
            self._up()
        elif fault.kind == "join":
            self._parts[name] = self._plan.part(name)
            self._replicas[name] = 1
            self._concerns(f"{name}.0")
            self._up()
        else:
            del self._parts[name], self._replicas[name]
            self._up()
        self._done[f"{fault.kind} {name}" if name.startswith("@") else fault.kind] += 1

    def _renews(self, name: str, times: int) -> None:
        """All instances of this component are started anew, each so often at most."""
        for index in range(self._replicas[name]):
            self._concerns(f"{name}.{index}", times)
        self._resending += [name] * times

    def _concerns(self, instance: str, times: int = 1) -> None:
        """This instance has a reason to be started so many times more."""
        self._starts[instance] += times
        self._touched.add(instance)

    def _scale(self, name: str, replicas: int) -> None:
        for index in range(self._replicas[name], replicas):
            self._concerns(f"{name}.{index}")
        self._replicas[name] = replicas
        self._resending.append(name)
        self._obeyed("scale", f"{NAME}.{name}={replicas}")

    def _attack(self, fault: Fault, end: float) -> None:
        name = fault.component
        if fault.kind in CUTS:
            key = (name, 0)
            self._gates.break_(key, fault.kind, fault.side)
            self._hold(name, end, lambda: self._gates.heal(key, fault.kind))
        elif name == "@nats-server":
            pid = int(json.loads((self._flowctl.state / "nats" / "nats.json").read_text())["pid"])
            if fault.kind == "kill":
                os.kill(pid, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGSTOP)
                self._hold(name, end, lambda: _signal(psutil.Process(pid), signal.SIGCONT))
        else:
            service = self._services[name[1:]]
            if fault.kind == "kill":
                service.kill()
                service.wait(10)
                self._hold(name, end, lambda: self._launch(name[1:]))
            else:
                service.send_signal(signal.SIGSTOP)
                self._hold(name, end, lambda: service.send_signal(signal.SIGCONT))

    def _hold(self, name: str, end: float, undo: Callable[[], None]) -> None:
        """Undo at ``end`` what was done to this one; nothing else is done to it before. A command may be waiting meanwhile."""
        self._busy.add(name)

        def act() -> None:
            undo()
            self._busy.discard(name)

        undoing = threading.Timer(max(0.0, end - time.monotonic()), act)
        self._undoing.append(undoing)
        undoing.start()

    def _program(self, fault: Fault) -> psutil.Process | None:
        """The running program of an instance, found from outside."""
        wanted = {"FLOWCTL_COMPONENT_ID": fault.component, "FLOWCTL_INSTANCE_INDEX": str(fault.index)}
        for process in self._flowctl.processes():
            try:
                found, argv = process.environ(), process.cmdline()
            except psutil.Error:
                continue
            if argv[1:2] == [str(PROGRAMS)] and wanted.items() <= found.items():
                return process
        return None

    # -- how things end ------------------------------------------------------------------------------------------------

    def _converge(self) -> None:
        """Status comes to say what is true: everybody runs and is well, and nobody runs who should not."""
        wanted = {f"{NAME}.{name}.{index}" for name, count in self._replicas.items() for index in range(count)}

        def settled() -> bool:
            view = self._view()
            self._problems += [f"status --edges, under way: {violation}" for violation in view.get("violations", ())]
            if not view or self._problems:
                return bool(self._problems)
            alive = {each["instance"] for each in view["instances"] if each["status"] == "healthy" and each["phase"] == "running"}
            return view["status"] == "running" and alive == wanted

        self._until(settled, CONVERGE_TIMEOUT_S, "the status does not converge", self._told)

    def _view(self) -> dict[str, Any]:
        """The pipeline as the control plane sees it from now on; empty if nothing was ever seen."""
        assert self._watch is not None
        return self._watch.next(timeout_s=10.0)

    def _told(self) -> str:
        view = self._view()
        instances = [
            f"{each['instance']} {each['phase']} {each['status']} {each['waiting_for']}" for each in view.get("instances", ())
        ]
        return f"{view.get('status')} ({view.get('reason')}); {'; '.join(instances)}"

    def _finish(self) -> None:
        self._until(
            lambda: self._view().get("status") == "completed", END_TIMEOUT_S, "the pipeline does not complete", self._told
        )
        found: dict[str, Any] = {}

        def balanced() -> bool:
            found.update(self._view())
            return all(edge["balance"] == "balanced" for edge in found["edges"])

        self._until(balanced, 10.0, "not every edge is balanced", lambda: json.dumps(found["edges"])[:2_000])
        self._problems += [f"status --edges: {violation}" for violation in found["violations"]]
        self._accounts = [
            account(each["live"])
            for each in found["instances"]
            if each["live"] and each["index"] < self._replicas.get(each["component"], 0)
        ]
        letters = self._asked("dead-letters", "list", NAME, "--limit", "10000")["letters"]
        self._letters = [(each["instance"].split(".")[1], each["event"], each["attempts"]) for each in letters]
        self._count_starts()

    def _count_starts(self) -> None:
        """Nothing was started anew that no fault concerned.

        An agent that is killed between claiming an incarnation and starting it leaves that one out.
        """
        deaths = self._done["kill @agent"] + self._done["kill @server"]
        started: Counter[str] = Counter()
        for entry in self._asked("history", NAME, "--type", "ComponentStarting"):
            started[entry["instance"].partition(".")[2]] += 1
        for instance, count in started.items():
            reasons = self._starts[instance] + (deaths if instance in self._touched else 0)
            if count > reasons:
                self._problems.append(f"{instance} was started {count} times, and only {reasons} had a reason")

    def _until(self, condition: Callable[[], bool], timeout_s: float, what: str, detail: Callable[[], str] = lambda: "") -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise Broken(f"{what} within {timeout_s:.0f} s {detail()}".strip())
            time.sleep(CHECK_AGAIN_S)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    """Send a signal to a process that may have gone meanwhile."""
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
