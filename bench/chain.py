"""Chains of programs under load: flowctl's own, plain gRPC and JetStream in the middle, all started and measured alike.

The sinks count (``programs/tally.py``), ``/proc`` says what the processes used. The time before ``warm_up_s`` is left out.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from flowctl.journal.server_process import find_program
from flowctl_sdk.serve import transport_settings
from harness import PROGRAMS, cpu_s, flowctl, free_port, instances, pss_mb

START_TIMEOUT_S = 60.0


class Sample(NamedTuple):
    """What one run showed, per process: user and system time in microseconds for an event that reached a sink; PSS in MB."""

    events_per_s: float
    bytes_per_s: float
    cpu_us: dict[str, float]
    memory_mb: dict[str, float]

    @property
    def total_cpu_us(self) -> float:
        """The processor time that one event costs all processes together."""
        return sum(self.cpu_us.values())


class Node(NamedTuple):
    """One component of a flowctl chain: its role in ``programs/flow.py`` and where its input comes from."""

    name: str
    role: str
    inputs: Sequence[str] = ()
    replicas: int = 1
    partition_by: str = ""


class Shape(NamedTuple):
    """A chain of flowctl components. ``kinds`` is the number of different payloads, ``flags`` go to every program."""

    nodes: Sequence[Node]
    size: int = 200
    kinds: int = 1
    flags: Sequence[str] = ()

    def spec(self, tallies: Path) -> str:
        """The pipeline file (JSON is YAML); sinks count into the directory."""
        sections: dict[str, list[dict[str, Any]]] = {"sources": [], "processors": [], "sinks": []}
        for node in self.nodes:
            component: dict[str, Any] = {
                "id": node.name,
                "command": [sys.executable, str(PROGRAMS / "flow.py"), node.role, *self.flags],
                "replicas": node.replicas,
            }
            if node.partition_by:
                component["partition_by"] = node.partition_by
            if node.inputs:
                component["inputs"] = list(node.inputs)
            if node.role == "source":
                component["config"] = {"size": self.size, "kinds": self.kinds}
            if node.role == "sink":
                component["config"] = {"directory": str(tallies)}
            sections[{"source": "sources", "sink": "sinks"}.get(node.role, "processors")].append(component)
        spec = {name: components for name, components in sections.items() if components}
        return json.dumps({"apiVersion": "flowctl/v1", "kind": "Pipeline", "metadata": {"name": "chain"}, "spec": spec})


def run_flowctl(state: Path, shape: Shape, *, warm_up_s: float, seconds: float) -> Sample:
    """Run a shape on the flowctl of that state directory."""
    with tempfile.TemporaryDirectory(dir=state) as directory:
        tallies, file = Path(directory), Path(directory) / "chain.yaml"
        file.write_text(shape.spec(tallies))
        flowctl(state, "up", "--detach", str(file))
        try:
            sinks = sum(node.replicas for node in shape.nodes if node.role == "sink")
            until_counting(tallies, sinks, lambda: flowctl(state, "status") + flowctl(state, "logs", "chain"))
            running = {name.removeprefix("chain."): int(each["handle"]) for name, each in instances(state).items()}
            return measure(tallies, running, warm_up_s=warm_up_s, seconds=seconds)
        finally:
            flowctl(state, "down", "chain", "--timeout", "20")


def run_plain(*, size: int, events: int, warm_up_s: float, seconds: float) -> Sample:
    """Run three processes over plain gRPC with so many events in a message."""
    with tempfile.TemporaryDirectory(prefix="flowctl-bench-") as directory:
        tally = Path(directory) / "sink.0.tally"
        with plain(["--size", str(size), "--events", str(events)], ["--tally", str(tally)]) as running:
            until_counting(Path(directory), 1)
            return measure(Path(directory), running, warm_up_s=warm_up_s, seconds=seconds)


@contextlib.contextmanager
def plain(source_words: list[str], sink_words: list[str]) -> Generator[dict[str, int]]:
    """Three processes over plain gRPC, with the transport settings of flowctl's components; their pids."""
    program = str(PROGRAMS / "plain.py")
    settings = {**os.environ, **transport_settings(version("grpcio"))}
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(process([sys.executable, program, "source", *source_words], env=settings))
        address = f"127.0.0.1:{first_line(source)}"
        processor = stack.enter_context(process([sys.executable, program, "processor", "--upstream", address], env=settings))
        address = f"127.0.0.1:{first_line(processor)}"
        sink = stack.enter_context(process([sys.executable, program, "sink", "--upstream", address, *sink_words], env=settings))
        yield {"source": source.pid, "processor": processor.pid, "sink": sink.pid}


def run_broker(*, storage: str, synced: bool, size: int, events: int, warm_up_s: float, seconds: float) -> Sample:
    """Run three processes with a JetStream server of their own between them."""
    program = str(PROGRAMS / "broker.py")
    with tempfile.TemporaryDirectory(prefix="flowctl-bench-") as directory, contextlib.ExitStack() as stack:
        port = free_port()
        config = Path(directory) / "nats.conf"
        sync = "sync_interval: always" if synced else ""
        config.write_text(
            f'listen: "127.0.0.1:{port}"\nmax_payload: 8MB\njetstream {{ store_dir: "{directory}/store", {sync} }}\n'
        )
        server = stack.enter_context(process([str(find_program()), "-c", str(config)]))
        common = ["--url", f"nats://127.0.0.1:{port}"]
        subprocess.run([sys.executable, program, "streams", *common, "--storage", storage], check=True)
        running = {"nats": server.pid}
        tally = str(Path(directory) / "sink.0.tally")
        for role in ("sink", "processor", "source"):
            words = [role, *common, "--size", str(size), "--events", str(events), "--tally", tally]
            running[role] = stack.enter_context(process([sys.executable, program, *words])).pid
        until_counting(Path(directory), 1)
        return measure(Path(directory), running, warm_up_s=warm_up_s, seconds=seconds)


def measure(tallies: Path, running: dict[str, int], *, warm_up_s: float, seconds: float) -> Sample:
    """Look at running processes for so many seconds after the warm-up."""
    time.sleep(warm_up_s)
    before, cpu_before = totals(tallies), {name: cpu_s(pid) for name, pid in running.items()}
    time.sleep(seconds)
    after, cpu_after = totals(tallies), {name: cpu_s(pid) for name, pid in running.items()}
    events_per_s = bytes_per_s = 0.0
    for sink, (at_ns, events, size) in after.items():
        since_ns, events_before, size_before = before[sink]
        if at_ns == since_ns:
            raise SystemExit(f"nothing reached {sink} in {seconds:g} s")
        events_per_s += (events - events_before) / (at_ns - since_ns) * 1e9
        bytes_per_s += (size - size_before) / (at_ns - since_ns) * 1e9
    counted = events_per_s * seconds
    cpu_us = {name: (cpu_after[name] - cpu_before[name]) * 1e6 / counted for name in running}
    return Sample(events_per_s, bytes_per_s, cpu_us, {name: pss_mb(pid) for name, pid in running.items()})


def totals(tallies: Path) -> dict[str, tuple[int, int, int]]:
    """The last line of each tally: monotonic nanoseconds, events, bytes."""
    result: dict[str, tuple[int, int, int]] = {}
    for path in tallies.glob("*.tally"):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 200))
            at_ns, events, size = file.read().splitlines()[-1].split()
        result[path.stem] = (int(at_ns), int(events), int(size))
    return result


def until_counting(tallies: Path, sinks: int, explain: Callable[[], str] = str) -> None:
    """Wait until so many sinks have received something; ``explain`` says what is seen if they do not."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while sum(path.stat().st_size > 0 for path in tallies.glob("*.tally")) < sinks:
        if time.monotonic() > deadline:
            raise SystemExit(f"not all of {sinks} sinks received an event within {START_TIMEOUT_S:g} s\n{explain()}")
        time.sleep(0.02)


@contextlib.contextmanager
def process(argv: list[str], env: dict[str, str] | None = None) -> Generator[subprocess.Popen[str]]:
    """A process that is ended afterwards."""
    started = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def first_line(started: subprocess.Popen[str]) -> str:
    """What a process says first."""
    if started.stdout is None:
        raise SystemExit("a process without output says nothing")
    return started.stdout.readline().strip()
