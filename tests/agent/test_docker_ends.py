"""How the docker driver learns that a run has ended while its engine is ailing, on an engine that is not real."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowctl.errors import DriverError
from flowctl_agent.drivers import Run, RunKey
from flowctl_agent.drivers.docker import DockerDriver, connection, recipe
from flowctl_agent.drivers.docker import driver as drivers
from flowctl_agent.drivers.docker.engine import Container, Event
from flowctl_agent.drivers.docker.records import FOLDER, ContainerDirectory
from support.agents import SLEEP, key, launch
from support.polling import eventually


class Stream:
    """What the engine tells until it is cut off: nothing, if there is no queue."""

    def __init__(self, told: "queue.Queue[Event | None] | None" = None) -> None:
        self.told = told

    def __iter__(self) -> Iterator[Event]:
        """Whatever comes."""
        while self.told is not None and (event := self.told.get()) is not None:
            yield event

    def close(self) -> None:
        """Cut it off."""
        if self.told is not None:
            self.told.put(None)


class FakeEngine:
    """An engine's containers. ``ail`` are raised or called, one by one, when it is asked about one."""

    def __init__(self) -> None:
        self.there: dict[str, Container] = {}
        self.events: queue.Queue[Event | None] = queue.Queue()
        self.ail: list[Exception | Callable[[], object]] = []
        self.stuck: set[str] = set()
        self.asked = 0

    def run(self, run: RunKey, state: str = "running") -> Container:
        """A container of a run."""
        labels = {recipe.INSTANCE: str(run.instance), recipe.INCARNATION: str(run.incarnation)}
        container = Container(id=f"container-{run.instance.index}-{run.incarnation}", labels=labels, state=state)
        self.there[container.id] = container
        return container

    def die(self, container: Container, code: int = 3) -> None:
        """One ends, and that is told."""
        self.there[container.id] = msgspec.structs.replace(container, state="exited", code=code)
        self.events.put(Event("die", container.id, container.labels, 1))

    def follow_events(self, _label: str) -> tuple[Stream, Iterator[Event]]:
        """See ``Engine``."""
        stream = Stream(self.events)
        return stream, iter(stream)

    def follow_output(self, _container: str, _since: str) -> tuple[Stream, Iterator[Any]]:
        """See ``Engine``."""
        return Stream(), iter(())

    def containers(self, _label: str) -> list[Container]:
        """See ``Engine``."""
        return [*self.there.values()]

    def inspect(self, container: str) -> Container | None:
        """See ``Engine``."""
        self.asked += 1
        if self.ail:
            match self.ail.pop(0):
                case Exception() as error:
                    raise error
                case wait:
                    wait()
        return self.there.get(container)

    def remove(self, container: str) -> None:
        """See ``Engine``."""
        if container in self.stuck:
            raise DriverError("the Docker engine failed: device or resource busy")
        self.there.pop(container, None)

    def networks(self, _label: str) -> list[Any]:
        """See ``Engine``: there are none."""
        return []

    def volumes(self, _label: str) -> dict[str, Any]:
        """See ``Engine``: there are none."""
        return {}

    def close(self) -> None:
        """See ``Engine``."""


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """The engine that a driver finds; it is patient for a moment only."""
    engine = FakeEngine()

    def found(_url: str) -> FakeEngine:
        return engine

    monkeypatch.setattr(connection, "Engine", found)
    monkeypatch.setattr(drivers, "ASK_AGAIN_S", 0.1)
    monkeypatch.setattr(drivers, "CLEAR_S", 0.05)
    return engine


@contextlib.asynccontextmanager
async def opened(state_dir: Path, *runs: RunKey) -> AsyncGenerator[tuple[DockerDriver, list[Run]]]:
    """A driver that has begun these runs before, and has its engine; and the runs that end."""
    for run in runs:
        ContainerDirectory(state_dir / FOLDER, run).begin(launch(SLEEP, run))
    driver = DockerDriver(
        state_dir, url="", registry="", advertise_host="127.0.0.1", log_file_bytes=10_000, log_files=2, kept_runs=2
    )
    exits: list[Run] = []
    driver.on_exit(exits.append)
    async with asyncio.timeout(10):
        await driver.open()
    try:
        yield driver, exits
    finally:
        await driver.close()


async def test_an_end_that_could_not_be_asked_is_asked_again(engine: FakeEngine, state_dir: Path):
    """The events go on, so nothing else would ever ask: after a while, not at once, until the answer comes."""
    container = engine.run(key())
    async with opened(state_dir, key()) as (driver, exits):
        engine.ail = [DriverError("the Docker engine failed"), DriverError("it failed again")]
        asked, began = engine.asked, asyncio.get_running_loop().time()
        engine.die(container)
        await eventually(lambda: bool(exits), "the exit", timeout_s=5)
        assert asyncio.get_running_loop().time() - began > 0.2
        assert engine.asked - asked == 3
        assert [(run.key, run.code) for run in exits] == [(key(), 3)]
        assert driver.absence() is None


async def test_tidying_gives_up_no_end(engine: FakeEngine, state_dir: Path):
    """An engine that takes long to say how a run ended is waited for a moment only, and its answer still counts."""
    container, answer = engine.run(key()), threading.Event()
    async with opened(state_dir, key()) as (driver, exits):
        engine.ail = [lambda: answer.wait(10)]
        asked = engine.asked
        engine.die(container)
        await eventually(lambda: engine.asked == asked + 1, "the question")
        await asyncio.wait_for(driver.tidy(()), 2)
        assert exits == []
        answer.set()
        await eventually(lambda: bool(exits), "the exit", timeout_s=2)
        await eventually(lambda: not engine.there, "the container's removal")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_end_that_failed_by_surprise_can_be_told_again(engine: FakeEngine, state_dir: Path):
    """Whatever comes between, the run does not count for ever as one whose end is being written down."""
    container = engine.run(key())
    async with opened(state_dir, key()) as (driver, exits):
        engine.ail = [ZeroDivisionError()]
        asked = engine.asked
        engine.die(container)
        await eventually(lambda: engine.asked == asked + 1, "the question")
        await driver.tidy(())
        engine.die(container)
        await eventually(lambda: bool(exits), "the exit", timeout_s=2)


@pytest.mark.parametrize("state", ["exited", "created"])
async def test_a_container_that_cannot_be_removed_is_in_nobodys_way(engine: FakeEngine, state_dir: Path, state: str):
    """The engine has everything else, and is not away for it: that is said, and the container left."""
    stuck = engine.run(key(1, 1), state)
    engine.stuck = {stuck.id}
    living = engine.run(key())
    async with opened(state_dir, key()) as (driver, exits):
        assert driver.absence() is None
        assert [(run.key, run.live) for run in await driver.list()] == [(key(), True)]
        assert stuck.id in engine.there
        engine.die(living)
        await eventually(lambda: bool(exits), "the exit of another one")
