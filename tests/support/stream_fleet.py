"""Starting components as real subprocesses, as the agent does: one program, its environment, its exit code."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from support.registry_fake import FakeRegistry, Node

PROGRAMS = Path(__file__).parent.parent / "dataplane" / "programs.py"


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Wait until the condition holds.

    Raises:
        AssertionError: if it does not within the timeout.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.01)


@dataclass
class Fleet:
    """The instances of one test; kills what is left at the end."""

    registry: FakeRegistry
    directory: Path
    running: dict[tuple[str, int], subprocess.Popen[bytes]] = field(
        default_factory=dict[tuple[str, int], "subprocess.Popen[bytes]"]
    )
    incarnations: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    programs: Path = PROGRAMS

    def start(
        self,
        program: str,
        component: str,
        index: int = 0,
        *,
        arguments: tuple[str, ...] = (),
        config: dict[str, object] | None = None,
        **env: str,
    ) -> "subprocess.Popen[bytes]":
        """Start ``program`` of ``programs`` as this instance, at its next incarnation."""
        key = (component, index)
        self.incarnations[key] = self.incarnations.get(key, 0) + 1
        name = f"{component}.{index}"
        config_file = self.directory / f"{name}.json"
        config_file.write_text(json.dumps(config or {}))
        environment = {
            **os.environ,
            "FLOWCTL_ENDPOINT": self.registry.address,
            "FLOWCTL_PIPELINE": self.registry.pipeline,
            "FLOWCTL_COMPONENT_ID": component,
            "FLOWCTL_INSTANCE_INDEX": str(index),
            "FLOWCTL_INCARNATION": str(self.incarnations[key]),
            "FLOWCTL_COMPONENT_KIND": self.registry.graph[component].kind,
            "FLOWCTL_LISTEN": "127.0.0.1:0",
            "FLOWCTL_ADVERTISE_HOST": "127.0.0.1",
            "FLOWCTL_HEALTH_LISTEN": "127.0.0.1:0",
            "FLOWCTL_CONFIG_FILE": str(config_file),
            "FLOWCTL_STATE_DIR": str(self.directory / f"{name}.state"),
            "FLOWCTL_LOG_LEVEL": "debug",
            **env,
        }
        with (self.directory / f"{name}.log").open("ab") as log:
            command = [sys.executable, str(self.programs), program, *arguments]
            process = subprocess.Popen(command, env=environment, stderr=log, stdout=log)
        self.running[key] = process
        return process

    def kill(self, component: str, index: int = 0) -> None:
        """kill -9, and wait until it is gone."""
        process = self.running[component, index]
        process.kill()
        process.wait(10)

    def log(self, component: str, index: int = 0) -> str:
        """Everything that the instance wrote to its log."""
        return (self.directory / f"{component}.{index}.log").read_text()

    def wait(self, component: str, index: int = 0, timeout_s: float = 60.0) -> int:
        """The exit code, once it has ended.

        Raises:
            AssertionError: with its log, if it does not end.
        """
        try:
            return self.running[component, index].wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{component}.{index} does not end:\n{self.log(component, index)[-3000:]}") from None

    def totals(self, component: str, index: int = 0) -> dict[str, float]:
        """The counters of the instance's last heartbeat; empty before the first."""
        known = self.registry.known.get((component, index))
        return dict(known.heartbeats[-1].metrics) if known and known.heartbeats else {}

    def close(self) -> None:
        """Kill what still runs."""
        for process in self.running.values():
            if process.poll() is None:
                process.kill()
                process.wait(10)


class Stage:
    """A registry with a graph, and the instances that run on it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.fleets: list[Fleet] = []

    def __call__(self, **graph: Node) -> Fleet:
        fleet = Fleet(FakeRegistry(graph).start(), self.directory)
        self.fleets.append(fleet)
        return fleet

    def out(self, name: str) -> dict[str, object]:
        return {"path": str(self.directory / name)}

    def ids(self, name: str) -> list[str]:
        return [line.split(b" ", 1)[0].decode() for line in (self.directory / name).read_bytes().splitlines()]

    def close(self) -> None:
        """End everything."""
        for fleet in self.fleets:
            fleet.close()
            fleet.registry.stop()
