"""A real Docker engine for the tests, with the image of ``support.images``.

``TEST_DOCKER_HOST`` names an engine that runs already; ``TEST_DOCKER=required`` makes its absence a failure. Without either, an
engine is started here if this machine can run one. ``python -m support.engine CMD…`` runs a command with an engine.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors

from support.images import build_python

START_S = 60.0


class Engine:
    """A dockerd of our own, on a directory of its own; with ``iptables`` only if it is the only one on this machine.

    ``keeps_running``: containers outlive it, and the next start finds them.
    """

    def __init__(self, *, iptables: bool = False, keeps_running: bool = False) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="flowctl-engine-", dir="/var/tmp"))  # not a tmpfs: overlayfs needs a disk
        self.url = f"unix://{self.directory}/docker.sock"
        self.keeps_running = keeps_running
        self._iptables = iptables
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        for leftover in ("docker.pid", "docker.sock", "exec/containerd/containerd.pid"):  # a dead process may be a zombie still
            (self.directory / leftover).unlink(missing_ok=True)
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("dockerd", "--data-root", f"{self.directory}/data", "--exec-root", f"{self.directory}/exec"),
                    *("-H", self.url, "--pidfile", f"{self.directory}/docker.pid", "--bridge", "none"),
                    *(("--live-restore",) if self.keeps_running else ()),
                    *(() if self._iptables else ("--iptables=false", "--ip6tables=false")),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not answers(self.url):
            assert self._process.poll() is None, f"dockerd has ended: {self.tail()}"
            assert time.monotonic() < deadline, f"dockerd does not answer: {self.tail()}"
            time.sleep(0.05)

    def tail(self) -> str:
        """The last that it said."""
        return (self.directory / "log").read_text(errors="replace")[-1500:]

    def pid_of(self, container: str) -> int:
        """The pid of a container's first process on this machine."""
        with contextlib.closing(client(self.url)) as api:
            return int(api.inspect_container(container)["State"]["Pid"])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it; SIGKILL as a crash does."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def close(self) -> None:
        """End it and everything that it made."""
        if self._process is not None:
            with contextlib.suppress(Exception), contextlib.closing(client(self.url)) as api:
                for container in api.containers(all=True):
                    api.remove_container(container["Id"], force=True)
                for network in api.networks():
                    if network["Driver"] == "bridge":
                        api.remove_network(network["Id"])
        self.stop()
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            mounted = line.split()[1]
            if mounted.startswith(f"{self.directory}/"):
                subprocess.run(["umount", "-l", mounted], check=False, capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def client(url: str) -> Any:
    """The library's own client, for looking past flowctl."""
    return docker.APIClient(base_url=url, version="auto", timeout=60)


def answers(url: str) -> bool:
    """Whether an engine answers there."""
    with socket.socket(socket.AF_UNIX) as knocking:  # the library would leave its socket behind if nobody listens
        if url.startswith("unix://") and knocking.connect_ex(url.removeprefix("unix://")) != 0:
            return False
    try:
        with contextlib.closing(client(url)) as api:
            return bool(api.ping())
    except docker.errors.DockerException:
        return False


def why_none() -> str | None:
    """Why this machine runs no engine for the tests; None if it can."""
    url = os.environ.get("TEST_DOCKER_HOST")
    if url:
        return None if answers(url) else f"no engine answers at {url}"
    return why_own_none()


def why_own_none() -> str | None:
    """Why no engine can be started here; None if one can."""
    if shutil.which("dockerd") is None:
        return "there is no dockerd on this machine"
    if os.geteuid() != 0:
        return "dockerd needs root, and TEST_DOCKER_HOST names no engine that runs already"
    return None


@contextlib.contextmanager
def running() -> Generator[str]:
    """The URL of an engine with the image of this machine's Python."""
    given = os.environ.get("TEST_DOCKER_HOST")
    if given:
        build_python(given)
        yield given
        return
    engine = Engine(iptables=shutil.which("iptables") is not None and not _other_engines())
    try:
        engine.start()
        build_python(engine.url)
        yield engine.url
    finally:
        engine.close()


def _other_engines() -> bool:
    return any(name.startswith(b"dockerd") for name in _commands())


def _commands() -> Iterator[bytes]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                yield (entry / "comm").read_bytes()


def main() -> int:
    """Run a command with an engine; its exit code."""
    with running() as url:
        return subprocess.run(
            sys.argv[1:], env={**os.environ, "TEST_DOCKER_HOST": url, "TEST_DOCKER": "required"}, check=False
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
