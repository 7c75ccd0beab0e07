"""A container that lives, as the driver knows it."""

import asyncio
from collections.abc import Callable

import msgspec

from flowctl_agent.drivers import Run
from flowctl_agent.drivers.docker.output import Follower
from flowctl_agent.drivers.docker.records import ContainerRecord


class Live(msgspec.Struct):
    """A run that lives, as far as is known. ``container`` is empty until the engine has shown it."""

    run: Run
    began: ContainerRecord
    ended: asyncio.Event
    container: str = ""
    follower: Follower | None = None
    drained: asyncio.Event | None = None
    oom: bool = False
    burying: bool = False
    again: asyncio.TimerHandle | None = None

    def ask_again(self, after_s: float, ask: Callable[[], None]) -> None:
        """Ask once more how it ended, a while after the last time."""
        if self.again is not None:
            self.again.cancel()
        self.again = asyncio.get_running_loop().call_later(after_s, ask)
