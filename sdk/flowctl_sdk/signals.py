"""Waking a task of the event loop: several reasons, one waiter, no wake-up lost."""

import asyncio
from collections.abc import Callable


class Signal:
    """``set`` wakes the one waiter, now or at its next ``wait``."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def set(self) -> None:
        """Wake the waiter."""
        self._event.set()

    def clear(self) -> None:
        """Forget a wake-up that nobody has taken."""
        self._event.clear()

    async def wait(self) -> None:
        """Until ``set`` was called since the last time."""
        await self._event.wait()
        self._event.clear()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until the condition holds; whoever may change it calls ``set``."""
        while not condition():
            await self.wait()


class Bell:
    """``ring`` wakes everybody who waits for a condition to become true."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def ring(self) -> None:
        """Let the waiters look again."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until the condition holds; whoever may change it rings."""
        while not condition():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
