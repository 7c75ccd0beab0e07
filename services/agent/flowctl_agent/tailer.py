"""Sends what instances write to the log stream: follows the driver's output, remembers how far it came, gathers batches.

A restart of the agent neither loses lines nor repeats them: the position is kept beside the output, and what was sent without
being noted has the same ids again. While the journal is away the files hold the lines; what is rotated away before it could be
sent is counted and said.
"""

import asyncio
import contextlib
import logging
import os
from typing import Final

from flowctl.clock import Clock
from flowctl.errors import JournalUnavailableError
from flowctl.ids import InstanceId
from flowctl.journal.logs import LogLine, Logs
from flowctl_agent.drivers import Driver, OutputChunk, RunKey
from flowctl_agent.drivers.several import Drivers
from flowctl_agent.metrics import AgentMetrics

ROUND_S: Final = 0.1
LINES_PER_ROUND: Final = 500
BYTES_PER_READ: Final = 65_536
RETRY_S: Final = 1.0
POSITION_FILE: Final = "sent"

log = logging.getLogger("flowctl.agent.tailer")


class Tailer:
    """Follows all runs of a driver, at most about ``LINES_PER_ROUND / ROUND_S`` lines a second. ``running`` never ends."""

    def __init__(self, *, driver: Driver | Drivers, logs: Logs, clock: Clock, metrics: AgentMetrics) -> None:
        self._driver = driver
        self._logs = logs
        self._clock = clock
        self._metrics = metrics
        self._pending: dict[RunKey, None] = {}
        self._positions: dict[InstanceId, dict[RunKey, int]] = {}
        self._news = asyncio.Event()
        self.running: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow, with everything that an earlier agent did not send."""
        self._driver.on_output(self.wake)
        for key in self._driver.outputs():
            self.wake(key)
        self.running = asyncio.create_task(self._run(), name="agent-tailer")

    async def stop(self) -> None:
        """Send no more."""
        if self.running is not None:
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)

    def wake(self, key: RunKey) -> None:
        """The run may have written something."""
        self._pending[key] = None
        self._news.set()

    async def _run(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self.send()
                pause_s = ROUND_S
            except JournalUnavailableError:
                pause_s = RETRY_S
            except Exception:
                log.exception("the output could not be sent")
                pause_s = RETRY_S
            if self._pending:
                self._news.set()
            await self._clock.sleep(pause_s)

    async def send(self) -> None:
        """One round: some lines of each run that has any, oldest first.

        Raises:
            JournalUnavailableError: nothing counts as sent.
        """
        lines: list[LogLine] = []
        chunks: dict[RunKey, OutputChunk] = {}
        for key in list(self._pending):
            if len(lines) >= LINES_PER_ROUND:
                break
            position = self._position(key)
            chunk = self._driver.read_output(key, position, BYTES_PER_READ)
            if chunk.position == position:
                del self._pending[key]
                continue
            chunks[key] = chunk
            lines += _log_lines(key, chunk)
        if lines:
            await self._logs.publish(lines)
        for key, chunk in chunks.items():
            self._positions.setdefault(key.instance, {})[key] = chunk.position
            self._remember(key, chunk.position)
            self._metrics.log_lines.inc(len(chunk.lines))
            self._metrics.log_lost_bytes.inc(chunk.lost_bytes)
            self._pending.pop(key, None)  # to the end of the line, so that nobody starves
            self._pending[key] = None

    def _position(self, key: RunKey) -> int:
        """How far the run's output was sent. With the first word of a run, the instance's removed ones are forgotten."""
        known = self._positions.setdefault(key.instance, {})
        if key not in known:
            for gone in [each for each in known if not self._driver.directory(each).exists()]:
                del known[gone]
            try:
                known[key] = int((self._driver.directory(key) / POSITION_FILE).read_text())
            except (OSError, ValueError):
                known[key] = 0
        return known[key]

    def _remember(self, key: RunKey, position: int) -> None:
        """Written in place and of one length, so that it is never torn by the end of this process."""
        with contextlib.suppress(OSError):
            fd = os.open(self._driver.directory(key) / POSITION_FILE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, b"%020d\n" % position)
            finally:
                os.close(fd)


def _log_lines(key: RunKey, chunk: OutputChunk) -> list[LogLine]:
    lines = [
        LogLine(key.instance, key.incarnation, line.stream, line.text, line.time_ns, f"{key}/{line.position}")
        for line in chunk.lines
    ]
    if chunk.lost_bytes:
        text = f"[flowctl] {chunk.lost_bytes} bytes of output were rotated away before they could be sent"
        time_ns = chunk.lines[0].time_ns if chunk.lines else 0
        lines.insert(0, LogLine(key.instance, key.incarnation, "stderr", text, time_ns, f"{key}/lost-{chunk.position}"))
    return lines
