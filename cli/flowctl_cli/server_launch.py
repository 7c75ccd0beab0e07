"""Starting a server in the background, waiting until it is ready, and ending one."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from flowctl.errors import ControlPlaneUnreachableError, DeadlineError
from flowctl_cli import server_record
from flowctl_cli.server_record import ServerRecord
from flowctl_cli.session import Session

POLL_S: Final = 0.01
READY_S: Final = 60.0


def log_file(state_dir: Path) -> Path:
    """Where a background server logs."""
    return state_dir / "server.log"


class Launch:
    """A server that is being started: ``record`` waits for it. It outlives this process unless it was bound to it."""

    def __init__(self, session: Session, *, bound: bool, environment: dict[str, str] | None = None) -> None:
        self._session = session
        self._log = log_file(session.state_dir)
        argv = [sys.executable, "-m", "flowctl_cli.server", "--log-file", str(self._log)]
        if bound:
            argv += ["--until-idle-without", str(os.getpid())]
        # What it says before it has opened its log goes to the same file.
        with server_record.writing(session.state_dir):
            session.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            log = self._log.open("ab")
        with log:
            self._start = log.tell()
            self.child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**session.environment(), **(environment or {})},
                start_new_session=True,
                cwd="/",
            )

    def failure(self) -> ControlPlaneUnreachableError | None:
        """Why there will be no server, if this one has ended."""
        if self.child.poll() is None:
            return None
        return ControlPlaneUnreachableError(f"the server did not start: {self._last_words()}", hint=f"its log is {self._log}")

    def discard(self) -> None:
        """End it after all."""
        with contextlib.suppress(ProcessLookupError):
            self.child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.child.wait(15)

    def _last_words(self) -> str:
        try:
            with self._log.open("rb") as log:
                log.seek(self._start)
                lines = [line for line in log.read(200_000).decode(errors="replace").splitlines() if line.strip()]
        except OSError:
            lines = []
        return _message(lines[-1]) if lines else f"it exited with code {self.child.returncode} and said nothing"


def await_record(state_dir: Path, *, launch: Launch | None = None, timeout_s: float = READY_S) -> ServerRecord:
    """How the server of the state directory is reached, once it is ready; ``launch`` if this process has started it.

    Raises:
        ControlPlaneUnreachableError: it ended instead.
        DeadlineError: it takes too long.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = server_record.read_record(state_dir)
        if found is not None:
            return found
        failure = launch.failure() if launch is not None else None
        if server_record.lock_holder(state_dir) is None and (launch is None or failure is not None):
            raise failure or ControlPlaneUnreachableError("the server has just ended", hint="try again")
        time.sleep(POLL_S)
    raise DeadlineError(f"the server was not ready within {timeout_s:g} s", hint=f"its log is {log_file(state_dir)}")


def _message(line: str) -> str:
    """The text of a log line, which may be a JSON object."""
    try:
        return str(msgspec.json.decode(line, type=dict[str, object]).get("message", line))
    except msgspec.MsgspecError:
        return line.removeprefix("error: ")


def stop(state_dir: Path, *, timeout_s: float) -> int | None:
    """End the server of a state directory and wait until it is gone; its pid, or None if none ran.

    Raises:
        DeadlineError: it did not end in time.
    """
    record = server_record.read_record(state_dir)
    pid = record.pid if record is not None else server_record.lock_holder(state_dir)
    if pid is None:
        return None
    send(pid, signal.SIGTERM)
    wait_gone(state_dir, pid, timeout_s=timeout_s)
    return pid


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a server, which may just have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_gone(state_dir: Path, pid: int, *, timeout_s: float) -> None:
    """Wait until a server has let go of its state directory.

    Raises:
        DeadlineError: it did not in time.
    """
    deadline = time.monotonic() + timeout_s
    while server_record.lock_holder(state_dir) == pid:
        if time.monotonic() > deadline:
            raise DeadlineError(f"the server (pid {pid}) did not end within {timeout_s:g} s", hint="its log says why")
        time.sleep(POLL_S)
