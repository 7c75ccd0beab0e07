"""What a running server leaves in its state directory: the lock that makes it the only one, and how it is reached.

``server.lock`` is held for the server's whole life and names its pid. ``server.json`` says how a ready server is reached; it
holds the NATS credential, so only its owner may read it. ``server.attached`` is held, shared, by every command that depends on
the server; a server that ends by itself first takes it alone, so that no command finds the server gone between two steps.
"""

import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

import msgspec

from flowctl import paths
from flowctl.errors import DeadlineError, InvalidSettingError, RefusedError

POLL_S: Final = 0.02
LOCK_PATIENCE_S: Final = 0.3

_ABSENT: Final = (FileNotFoundError, NotADirectoryError)


class ServerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How a running server is reached.

    ``started`` is its process' start time as the system tells it, against reused pids; ``nats_pid`` its embedded NATS server.
    """

    pid: int
    started: str
    version: str
    nats_url: str
    nats_monitor_url: str = ""
    nats_pid: int | None = None
    registry: str = ""
    http: str = ""


class ServerLock:
    """The right to be the only server of a state directory; the system takes it back when the process ends.

    Raises:
        InvalidSettingError: the directory cannot be written.
        RefusedError: another server has it.
    """

    def __init__(self, state_dir: Path) -> None:
        self._fd = _opened(_lock_file(state_dir))
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while not (locked := _try_lock(self._fd, fcntl.LOCK_EX)) and time.monotonic() < deadline:
            time.sleep(POLL_S)  # ``lock_holder`` of another process holds it for a moment
        if not locked:
            pid = _read_pid(self._fd)
            os.close(self._fd)
            raise RefusedError(
                f"a server (pid {pid}) already runs for the state directory {state_dir}",
                hint="use it, stop it with `flowctl server stop`, or name another directory with --state-dir",
            ) from None
        with writing(state_dir):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another server start."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def lock_holder(state_dir: Path) -> int | None:
    """The pid of the server that runs or starts for the state directory, or None.

    Raises:
        InvalidSettingError: the directory cannot be read.
    """
    with reading(state_dir):
        try:
            fd = os.open(_lock_file(state_dir), os.O_RDONLY | os.O_CLOEXEC)
        except _ABSENT:
            return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_pid(fd) or None
    else:
        return None
    finally:
        os.close(fd)


def write_record(state_dir: Path, record: ServerRecord) -> None:
    """Say that the server is ready, at once and for the owner's eyes only.

    Raises:
        InvalidSettingError: the directory cannot be written.
    """
    path = paths.server_file(state_dir)
    temporary = path.with_suffix(".new")
    with writing(state_dir):
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        temporary.replace(path)


def remove_record(state_dir: Path) -> None:
    """Say that the server is no longer there for anybody."""
    paths.server_file(state_dir).unlink(missing_ok=True)


def read_record(state_dir: Path) -> ServerRecord | None:
    """How the server of the state directory is reached; None if none runs, or it is not ready yet.

    Raises:
        InvalidSettingError: the directory cannot be read.
    """
    with reading(state_dir):
        try:
            record = msgspec.json.decode(paths.server_file(state_dir).read_bytes(), type=ServerRecord)
        except (*_ABSENT, msgspec.DecodeError, UnicodeDecodeError):
            return None
    return record if process_started(record.pid) == record.started else None


@contextlib.contextmanager
def attached(state_dir: Path, *, timeout_s: float) -> Generator[None]:
    """Keep a server that would end by itself from doing so; waits for one that is just ending.

    Raises:
        DeadlineError: it takes too long to end.
        InvalidSettingError: the directory cannot be written.
    """
    fd = _opened(state_dir / "server.attached")
    try:
        deadline = time.monotonic() + timeout_s
        while not _try_lock(fd, fcntl.LOCK_SH):
            if time.monotonic() > deadline:
                raise DeadlineError(f"the server of {state_dir} is ending, and did not within {timeout_s:g} s")
            time.sleep(POLL_S)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def attached_if_any(state_dir: Path, *, timeout_s: float) -> Generator[None]:
    """Like ``attached`` for commands that start no server: does nothing where there has never been one."""
    with reading(state_dir):
        started = _lock_file(state_dir).exists()
    if not started:
        yield
        return
    with attached(state_dir, timeout_s=timeout_s):
        yield


def detach_all(state_dir: Path) -> bool:
    """Whether no command depends on the server; none can begin to until this process has ended."""
    fd = _opened(state_dir / "server.attached")
    if _try_lock(fd, fcntl.LOCK_EX):
        return True  # the descriptor stays open on purpose: it is the lock
    os.close(fd)
    return False


def process_started(pid: int) -> str | None:
    """When the process was started, in the system's own words; None if it is not there."""
    if sys.platform.startswith("linux"):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            return None
        return None if fields[0] == "Z" else fields[19]
    shown = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, check=False, text=True, timeout=5)
    return shown.stdout.strip() or None


def _opened(path: Path) -> int:
    """The file's descriptor for reading and writing; the file is made if need be, and its directory."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@contextlib.contextmanager
def _refusable(state_dir: Path, done: str, way_out: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidSettingError(
            f"the state directory {state_dir} cannot be {done}: {error.strerror}",
            hint=f"{way_out}, or name another with --state-dir",
        ) from error


def writing(state_dir: Path) -> contextlib.AbstractContextManager[None]:
    """What the block writes there.

    Raises:
        InvalidSettingError: the system refuses it.
    """
    return _refusable(state_dir, "written", "make room there, set its permissions")


def reading(state_dir: Path) -> contextlib.AbstractContextManager[None]:
    """What the block looks at there.

    Raises:
        InvalidSettingError: the system refuses it.
    """
    return _refusable(state_dir, "read", "set its permissions")


def _lock_file(state_dir: Path) -> Path:
    return state_dir / "server.lock"


def _read_pid(fd: int) -> int:
    text = os.pread(fd, 20, 0).decode(errors="replace").strip()
    return int(text) if text.isascii() and text.isdigit() else 0


def _try_lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
