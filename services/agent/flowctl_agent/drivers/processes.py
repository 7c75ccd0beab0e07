"""Other processes of this host: a descriptor for one, its end, signals, and finding what a dead shim left behind.

Where there are no process descriptors (not Linux), a process is named by its pid and looked at now and then.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flowctl_agent.drivers.rundir import RunningRecord
from flowctl_agent.shim import kernel

_POLL_S: Final = 0.1
_SWEEP_STEP_S: Final = 0.02
_SWEEP_S: Final = 5.0


class Process:
    """A process, child or not, that stays the same process even when its pid has gone to another."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError if there is no such process."""
        self.pid = pid
        self._fd = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._watched = False

    def watch(self, ended: Callable[[], None]) -> None:
        """Call ``ended`` once the process has ended; a child is reaped before."""
        self._watched = True
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._end, ended)
        else:
            self._look(ended)

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self._fd >= 0:
                signal.pidfd_send_signal(self._fd, number)
            else:
                os.kill(self.pid, number)

    def close(self) -> None:
        """Let go of it; it goes on running."""
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            if self._watched:
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _end(self, ended: Callable[[], None]) -> None:
        self._reap()
        self.close()
        ended()

    def _look(self, ended: Callable[[], None]) -> None:
        self._reap()
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            ended()
            return
        self._timer = self._loop.call_later(_POLL_S, self._look, ended)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)


def same(record: RunningRecord) -> bool:
    """Whether the shim's pid is still the shim, not a later process that got its number."""
    return record.boot == kernel.boot_id() and record.shim_start == kernel.start_ticks(record.shim)


async def sweep(record: RunningRecord | None, marker: str) -> bool:
    """Kill what a shim that was killed has left: its session, and whoever carries ``marker`` in the environment.

    True once nothing is left, False if something could not be killed in time.
    """
    deadline = asyncio.get_running_loop().time() + _SWEEP_S
    while left := _left(record, marker.encode()):
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(_SWEEP_STEP_S)
    return True


def _left(record: RunningRecord | None, marker: bytes) -> list[int]:
    try:
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    except OSError:
        return []
    return [pid for pid in pids if pid != os.getpid() and _belongs(pid, record, marker)]


def _belongs(pid: int, record: RunningRecord | None, marker: bytes) -> bool:
    try:
        state, _, _, session, *rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        if state in (b"Z", b"X"):
            return False
        if record is not None and int(session) == record.shim and record.boot == kernel.boot_id():
            return int(rest[15]) >= record.shim_start
        return marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (OSError, ValueError, IndexError):
        return False
