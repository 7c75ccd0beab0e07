"""The directory of one run on this host: what the process driver, the shim and the next agent know of it.

``<state>/instances/<pipeline>.<component>.<index>/<incarnation>/`` holds ``launch.json`` (what was started; no secrets),
``config.json`` (0600, until the run ends), ``lock`` (held by the shim while the run lives), ``running.json`` and ``exit.json``
(the shim's), ``output-<offset>.log`` and ``forgotten`` (the journal knows how it ended).
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from flowctl.errors import FlowctlError
from flowctl.ids import InstanceId
from flowctl_agent.drivers import Launch, RunKey

_STATE_DIR: Final = "state"

T = TypeVar("T")


class LaunchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What was started, without what may be secret."""

    assignment: int
    argv: list[str]
    cwd: str
    stop_timeout_s: float


class RunningRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The shim's and the component's pids, with what tells them from later processes of the same pid."""

    shim: int
    shim_start: int
    pid: int
    pid_start: int
    boot: str
    started_ns: int


class ExitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended. ``failure``: the step that could not be done and its errno, if it never began."""

    code: int | None
    signal: int | None
    failure: str
    stopped: bool
    killed: bool
    started_ns: int
    exited_ns: int


class RunDirectory:
    """One run's files. Reading is total: a file that is absent or torn is None."""

    def __init__(self, instances: Path, key: RunKey) -> None:
        self.key = key
        self.path = instances / str(key.instance) / str(key.incarnation)

    @property
    def state_path(self) -> Path:
        """The instance's own directory, which its incarnations share."""
        return self.path.parent / _STATE_DIR

    @property
    def config_path(self) -> Path:
        """The component's configuration, secrets included."""
        return self.path / "config.json"

    def create(self, launch: Launch, cwd: Path) -> int:
        """Make the directory and its files anew; the lock's descriptor, locked.

        Raises:
            OSError: it cannot be done; ``BlockingIOError`` if the run lives.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state_path.mkdir(mode=0o700, exist_ok=True)
        if self.path.exists():  # left by another life of the journal, whose numbers began anew
            if self.alive():
                raise BlockingIOError(f"{self.path} belongs to a run that lives")
            shutil.rmtree(self.path)
        self.path.mkdir(mode=0o700)
        record = LaunchRecord(assignment=launch.assignment, argv=launch.argv, cwd=str(cwd), stop_timeout_s=launch.stop_timeout_s)
        write_private(self.path / "launch.json", msgspec.json.encode(record))
        write_private(self.config_path, launch.config)
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock

    def alive(self) -> bool:
        """Whether the run's shim lives: only it holds the lock, whatever pids and reboots do."""
        try:
            fd = os.open(self.path / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def launched(self) -> LaunchRecord | None:
        """What was started."""
        return read_record(self.path / "launch.json", LaunchRecord)

    def running(self) -> RunningRecord | None:
        """Which processes it is."""
        return read_record(self.path / "running.json", RunningRecord)

    def exited(self) -> ExitRecord | None:
        """How it ended."""
        return read_record(self.path / "exit.json", ExitRecord)

    @property
    def forgotten(self) -> bool:
        """Whether the journal knows how it ended."""
        return (self.path / "forgotten").exists()

    def mark_forgotten(self) -> None:
        """From now on, only its output counts."""
        with contextlib.suppress(OSError):
            write_private(self.path / "forgotten", b"")

    def drop_secrets(self) -> None:
        """Remove the configuration of a run that has ended."""
        self.config_path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove everything of the run."""
        shutil.rmtree(self.path, ignore_errors=True)


def write_private(path: Path, data: bytes) -> None:
    """Create a file that only this user can read, from its first moment."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def run_directories(instances: Path, instance: InstanceId | None = None) -> Iterator[RunDirectory]:
    """Every run that has a directory, in order of incarnations within each instance."""
    with contextlib.suppress(OSError):
        for folder in sorted(instances.iterdir() if instance is None else [instances / str(instance)]):
            try:
                of = InstanceId.parse(folder.name)
                numbers = sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal())
            except (FlowctlError, OSError):
                continue
            for number in numbers:
                yield RunDirectory(instances, RunKey(of, number))


def living(instances: Path) -> dict[RunKey, str]:
    """The runs whose shims live now, whoever started them, with the pid of each ("" while it is only beginning)."""
    found: dict[RunKey, str] = {}
    for directory in run_directories(instances):
        if directory.alive():
            record = directory.running()
            found[directory.key] = str(record.pid) if record is not None else ""
    return found


def read_record(path: Path, kind: type[T]) -> T | None:
    """What a file says, None if it is absent or torn."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError):
        return None
