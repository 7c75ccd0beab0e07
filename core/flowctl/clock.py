"""Time as a value: services take a ``Clock``, tests turn its hands.

Two hosts' wall clocks are never compared. The journal's clock is the server's time as last seen plus monotonic time since.
"""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic time and waiting."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary start; never goes back."""
        ...

    def wall_ns(self) -> int:
        """Unix time in nanoseconds by this host; for display and for stamping log lines only."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The clock of this machine."""

    def monotonic_ns(self) -> int:
        """See ``Clock``."""
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        """See ``Clock``."""
        return time.time_ns()

    async def sleep(self, seconds: float) -> None:
        """See ``Clock``."""
        await asyncio.sleep(seconds)


class VirtualClock:
    """A clock that moves only when told to. ``advance`` wakes sleepers in the order of their deadlines."""

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now_ns = start_ns
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0

    def monotonic_ns(self) -> int:
        """See ``Clock``."""
        return self._now_ns

    def wall_ns(self) -> int:
        """See ``Clock``."""
        return self._now_ns

    async def sleep(self, seconds: float) -> None:
        """See ``Clock``."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        self._sleepers.append((self._now_ns + int(seconds * 1e9), self._count, future))
        await future

    async def advance(self, seconds: float) -> None:
        """Move time forward, waking each sleeper at its own moment and letting it run before time goes on."""
        end = self._now_ns + int(seconds * 1e9)
        while True:
            await _settle()
            self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[2].done()]
            due = min((sleeper for sleeper in self._sleepers if sleeper[0] <= end), default=None, key=lambda s: s[:2])
            if due is None:
                break
            self._now_ns = max(self._now_ns, due[0])
            due[2].set_result(None)
        self._now_ns = end
        await _settle()


async def _settle() -> None:
    """Let every task that can run do so."""
    for _ in range(50):
        await asyncio.sleep(0)


class JournalClock:
    """The server's time, estimated from the times of its messages. Never ahead of the server, so silence is never overstated."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_ns: int | None = None

    def observe(self, server_ns: int) -> None:
        """A message with this server time has just arrived."""
        offset = server_ns - self._clock.monotonic_ns()
        if self._offset_ns is None or offset > self._offset_ns:
            self._offset_ns = offset

    def now_ns(self) -> int:
        """Unix time in nanoseconds by the server; this host's own time until the first message."""
        if self._offset_ns is None:
            return self._clock.wall_ns()
        return self._clock.monotonic_ns() + self._offset_ns
