"""Running flowctl as a user does, in a state directory of its own, and looking at it from outside."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

from flowctl.journal.jetstream import JetStreamStore

PROGRAMS = Path(__file__).parent / "programs"
FLOWCTL = [sys.executable, "-m", "flowctl_cli"]


def environment(state_dir: Path) -> dict[str, str]:
    """The environment of a flowctl of its own."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLOWCTL_")}
    return {**inherited, "FLOWCTL_STATE_DIR": str(state_dir), "FLOWCTL_REGISTRY_LISTEN": "127.0.0.1:0"}


@contextlib.contextmanager
def state() -> Generator[Path]:
    """A state directory; whatever runs in it is ended afterwards."""
    with tempfile.TemporaryDirectory(prefix="flowctl-bench-") as directory:
        try:
            yield Path(directory)
        finally:
            flowctl(Path(directory), "down", "--all", "--server", check=False)


def flowctl(state_dir: Path, *words: str, check: bool = True) -> str:
    """Run a command and return its output."""
    done = subprocess.run(
        [*FLOWCTL, *words], env=environment(state_dir), capture_output=True, text=True, timeout=180, check=False
    )
    if check and done.returncode != 0:
        raise SystemExit(f"flowctl {' '.join(words)} exited {done.returncode}: {done.stderr or done.stdout}")
    return done.stdout


def start(state_dir: Path, *words: str) -> subprocess.Popen[str]:
    """Start a command in the background."""
    return subprocess.Popen(
        [*FLOWCTL, *words], env=environment(state_dir), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )


def server(state_dir: Path) -> dict[str, Any]:
    """What the running server says of itself."""
    return json.loads((state_dir / "server.json").read_text())


@contextlib.asynccontextmanager
async def store(state_dir: Path) -> AsyncGenerator[JetStreamStore]:
    """The journal of the running server."""
    connected = await JetStreamStore.connect(server(state_dir)["nats_url"], name="bench", assume_synced=True, create=False)
    try:
        yield connected
    finally:
        await connected.close()


def instances(state_dir: Path) -> dict[str, dict[str, Any]]:
    """The instances by name, as ``flowctl status --json`` tells."""
    status = json.loads(flowctl(state_dir, "status", "--json"))
    return {each["instance"]: each for pipeline in status["pipelines"] for each in pipeline["instances"]}


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_file(path: Path, timeout_s: float) -> str:
    """The content of a file as soon as it has any."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            text = path.read_text()
            if text.endswith("\n"):
                return text
        time.sleep(0.005)
    raise SystemExit(f"{path} stayed empty for {timeout_s:g} s")


def pss_mb(pid: int) -> float:
    """The proportional set size of a process, MB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no Pss of process {pid}")


def rss_mb(pid: int) -> float:
    """The resident set size of a process, MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024 / 1024


def cpu_s(pid: int) -> float:
    """The processor time that a process has used, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def until_running(state_dir: Path, pipeline: str, timeout_s: float = 60.0) -> None:
    """Wait until every instance of the pipeline runs."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = await asyncio.to_thread(instances, state_dir)
            phases = [each["phase"] for name, each in found.items() if name.startswith(f"{pipeline}.")]
            if phases and all(phase == "running" for phase in phases):
                return
            await asyncio.sleep(0.1)
