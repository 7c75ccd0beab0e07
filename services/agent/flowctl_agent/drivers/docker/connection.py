"""The connection to the engine: made when first needed, watched by its stream of events, and made again when it is lost."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from flowctl.errors import DriverError
from flowctl_agent.drivers.docker.engine import Engine, EngineAwayError, Event, Following

RETRY_S: Final = 0.3
RETRY_MAX_S: Final = 3.0

R = TypeVar("R")

log = logging.getLogger("flowctl.agent.docker")


class Connection:
    """One engine, as long as the driver is open.

    ``happened`` is called with each event, ``compare`` awaited whenever they begin anew: what happened before is its to find.
    ``absence`` says why the engine cannot be asked, ``used`` whether it ever was.
    """

    def __init__(
        self,
        url: str,
        threads: ThreadPoolExecutor,
        happened: Callable[[Event], None],
        compare: Callable[[], Awaitable[None]],
    ) -> None:
        self.absence: str | None = None
        self.used = False
        self._url = url
        self._threads = threads
        self._happened = happened
        self._compare = compare
        self._engine: Engine | None = None
        self._following: Following | None = None
        self._task: asyncio.Task[None] | None = None
        self._decided = asyncio.Event()

    async def connect(self, label: str) -> None:
        """Begin to follow the engine; returns once it was compared with what is known, or is found to be away."""
        if self._task is None:
            self.used = True
            self._task = asyncio.create_task(self._stay(label), name="docker-events")
        await self._decided.wait()

    async def close(self) -> None:
        """Let go of the engine."""
        if self._following is not None:
            self._following.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._engine is not None:
            self._engine.close()

    def engine(self) -> Engine:
        """The engine, for a thread of its own. Raises EngineAwayError."""
        if self._engine is None:
            raise EngineAwayError(self.absence or "the Docker engine was not asked yet")
        return self._engine

    async def call(self, ask: Callable[[Engine], R]) -> R:
        """Ask the engine something, in a thread.

        Raises:
            DriverError: see there and in ``ask``.
        """
        engine = self.engine()
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask, engine)

    async def _stay(self, label: str) -> None:
        pause_s = RETRY_S
        while True:
            try:
                await self._follow(label)
                pause_s = RETRY_S
                reason = "it has ended"
            except DriverError as error:
                reason = error.message
            except Exception as error:
                log.exception("the Docker engine's events cannot be followed")
                reason = str(error)
            if self.absence is None:
                log.warning("the Docker engine is away: %s", reason)
            self.absence = f"the Docker engine of this host does not answer ({reason})"
            self._drop()
            self._decided.set()
            await asyncio.sleep(pause_s)
            pause_s = min(RETRY_MAX_S, pause_s * 1.5)

    async def _follow(self, label: str) -> None:
        """Connect, compare, and pass events on until there are no more."""
        loop = asyncio.get_running_loop()
        if self._engine is None:
            self._engine = await loop.run_in_executor(self._threads, Engine, self._url)
        following, events = await self.call(lambda engine: engine.follow_events(label))
        self._following = following
        ended = asyncio.Event()
        pump = (events, loop, self._happened, ended)
        threading.Thread(target=_pump, args=pump, name="docker-events", daemon=True).start()
        try:
            await self._compare()  # events that come meanwhile are of what it sees, or of what it has seen
            if self.absence is not None:
                log.info("the Docker engine is back")
            self.absence = None
            self._decided.set()
            await ended.wait()
        finally:
            following.close()

    def _drop(self) -> None:
        self._following = None
        if self._engine is not None:
            with contextlib.suppress(Exception):  # it is gone
                self._engine.close()
            self._engine = None


def _pump(
    events: Iterator[Event], loop: asyncio.AbstractEventLoop, happened: Callable[[Event], None], ended: asyncio.Event
) -> None:
    """In a thread of its own: hand events to the loop."""
    with contextlib.suppress(RuntimeError):  # the loop has ended
        for event in events:
            loop.call_soon_threadsafe(happened, event)
        loop.call_soon_threadsafe(ended.set)
