"""flowctl as a user runs it: real commands, real processes, a state directory of the test's own; and a look from outside."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")

COMMAND = [sys.executable, "-m", "flowctl_cli"]


def until(condition: Callable[[], T | None], what: str, *, timeout_s: float = 30.0, every_s: float = 0.05) -> T:
    """The first true value of ``condition``; fails with ``what`` was awaited and what was there instead."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {timeout_s:g} s; last seen: {value!r}")
        time.sleep(every_s)


class Flowctl:
    """One control plane of its own."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self.state = directory / "state"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLOWCTL_")}
        self.environment = {
            **inherited,
            "FLOWCTL_STATE_DIR": str(self.state),
            "FLOWCTL_REGISTRY_LISTEN": "127.0.0.1:0",
            "NO_COLOR": "1",
            **{f"FLOWCTL_{name.upper()}": value for name, value in settings.items()},
        }
        self.children: list[subprocess.Popen[str]] = []

    def run(self, *words: str, expect: int | None = 0, timeout_s: float = 90.0) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; ``expect`` is the exit code it must have, None for any."""
        done = subprocess.run(
            [*COMMAND, *words],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if expect is not None and done.returncode != expect:
            raise AssertionError(
                f"flowctl {' '.join(words)} exited {done.returncode}, not {expect}\n"
                f"{done.stdout}\n{done.stderr}\n{self.server_log()}"
            )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def json(self, *words: str, expect: int | None = 0) -> Any:
        """What a command says with ``--json``."""
        return json.loads(self.run(*words, "--json", expect=expect).stdout)

    def start(self, *words: str, program: list[str] | None = None) -> subprocess.Popen[str]:
        """Start a command and leave it running."""
        child = subprocess.Popen(
            [*(program or COMMAND), *words],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.children.append(child)
        return child

    def write(self, name: str, text: str) -> Path:
        """A file beside the state directory."""
        path = self.directory / name
        path.write_text(text)
        return path

    def instances(self, pipeline: str | None = None) -> dict[str, dict[str, Any]]:
        """The instances by name, as ``status --json`` tells."""
        status = self.json("status", *([pipeline] if pipeline else []))
        return {each["instance"]: each for view in status["pipelines"] for each in view["instances"]}

    def pipeline(self, name: str) -> dict[str, Any]:
        """One pipeline, as ``status --json`` tells."""
        return next(view for view in self.json("status", name)["pipelines"] if view["name"] == name)

    def until_status(self, name: str, *wanted: str, timeout_s: float = 40.0) -> dict[str, Any]:
        """Wait until the pipeline has one of these statuses."""

        def look() -> dict[str, Any] | None:
            view = self.pipeline(name)
            return view if view["status"] in wanted else None

        try:
            return until(look, f"{name} {'/'.join(wanted)}", timeout_s=timeout_s, every_s=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(self.pipeline(name), indent=1)}\n{self.server_log()}") from None

    def history(self, *words: str) -> list[dict[str, Any]]:
        """The journal's entries, as ``history --json`` tells."""
        found: list[dict[str, Any]] = self.json("history", *words)
        return found

    @property
    def server(self) -> dict[str, Any]:
        """What the running server says of itself."""
        found: dict[str, Any] = json.loads((self.state / "server.json").read_text())
        return found

    def server_log(self) -> str:
        """The end of what the server logged."""
        with contextlib.suppress(FileNotFoundError):
            return (self.state / "server.log").read_text()[-4000:]
        return "(no server.log)"

    def processes(self) -> list[psutil.Process]:
        """Every process of this control plane: its state directory stands in its environment or its arguments."""

        def mine(process: psutil.Process) -> bool:
            with contextlib.suppress(psutil.Error):
                if process.environ().get("FLOWCTL_STATE_DIR", "").startswith(str(self.state)):
                    return process.status() != psutil.STATUS_ZOMBIE
                return str(self.state) in " ".join(process.cmdline())
            return False

        return [process for process in psutil.process_iter() if process.pid != os.getpid() and mine(process)]

    def close(self) -> None:
        """End everything, and fail if something had to be killed."""
        self.run("down", "--all", "--server", expect=None)
        for child in self.children:
            if child.poll() is None:
                child.terminate()
        for child in self.children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.communicate(timeout=20)
        try:
            until(lambda: not self.processes(), "the end of every process", timeout_s=20)
        except AssertionError:
            left = [(process.pid, " ".join(process.cmdline())[:200]) for process in self.processes()]
            raise AssertionError(f"left running: {left}\n{self.server_log()}") from None
        finally:
            for process in self.processes():
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def control_plane(directory: Path, **settings: str) -> Generator[Flowctl]:
    """A control plane of its own; everything is ended afterwards and nothing may be left."""
    flowctl = Flowctl(directory, **settings)
    try:
        yield flowctl
    finally:
        flowctl.close()
