"""What a driver drives goes away and comes back: nothing is lost, nothing starts twice, and it is said meanwhile."""

import asyncio
import contextlib
import gc
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest

from flowctl.errors import DriverError
from flowctl_agent.drivers import Driver, Run
from support import engine as engines
from support import images
from support.agents import SLEEP, key, output, script
from support.polling import eventually
from support.stages import DockerStage, Stage

# The docker package leaves a socket to the garbage collector when an engine ends in the middle of an answer.
pytestmark = [pytest.mark.needs("engine"), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]

TICKS = script("import time\nfor n in range(100000):\n    print(n)\n    time.sleep(0.01)")


@pytest.fixture
async def own(stage: Stage) -> AsyncGenerator[engines.Engine]:  # noqa: ARG001  # which drivers have an engine
    """An engine of this test's own, which it may end. It keeps containers while it is away, until a test says otherwise."""
    reason = engines.why_own_none()
    if reason is not None:
        pytest.skip(f"no engine of the test's own: {reason}")
    own = engines.Engine(keeps_running=True)
    try:
        await asyncio.to_thread(own.start)
        await asyncio.to_thread(images.build_python, own.url)
        yield own
    finally:
        await asyncio.to_thread(own.close)
        gc.collect()  # in this test, not in whichever comes next


@contextlib.asynccontextmanager
async def opened(stage: DockerStage) -> AsyncGenerator[Driver]:
    """An open driver."""
    driver = stage.driver()
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


async def back(driver: Driver) -> None:
    """The driver has found its engine again."""
    await eventually(lambda: driver.absence() is None, "the engine's return", timeout_s=20)


async def test_the_engine_goes_and_comes_back(own: engines.Engine, state_dir: Path):
    """Killed: what runs is the same run afterwards, and what ended meanwhile is known; stopped with all it ran: that too."""
    stage = DockerStage(own.url, state_dir)
    async with opened(stage) as driver:
        exits: list[Run] = []
        driver.on_exit(exits.append)
        lasting = await driver.start(stage.launch(TICKS))
        doomed = await driver.start(stage.launch(SLEEP, key(1, 1)))
        pid = own.pid_of(doomed.handle)

        await asyncio.to_thread(own.stop, signal.SIGKILL)
        await eventually(lambda: driver.absence() is not None, "the engine's absence")
        assert "does not answer" in str(driver.absence())
        with pytest.raises(DriverError, match="does not answer"):
            await driver.start(stage.launch(SLEEP, key(1, 2)))
        assert [(run.key, run.live) for run in await driver.list()] == [(key(), True), (key(1, 1), True)]
        psutil.Process(pid).kill()
        await asyncio.to_thread(own.start)
        await back(driver)
        await eventually(lambda: bool(exits), "the end of what ended without an engine", timeout_s=20)
        assert [(run.key, run.signal) for run in exits] == [(key(1, 1), signal.SIGKILL)]
        assert await driver.list(key().instance) == [lasting]
        seen = len(output(driver, key()))
        await eventually(lambda: len(output(driver, key())) > seen + 50, "output of what went on running")
        numbers = [int(text) for _, text in output(driver, key())]
        assert numbers == list(range(len(numbers)))

        own.keeps_running = False
        await asyncio.to_thread(own.stop)
        await asyncio.to_thread(own.start)  # which ends what ran under the one before
        await eventually(lambda: len(exits) == 2, "the end of what the engine's end had ended", timeout_s=20)
        await back(driver)
        assert (exits[1].key, exits[1].stopped) == (key(), False)
        assert (await driver.start(stage.launch(SLEEP, key(2)))).live
        await driver.stop(key(2), 5.0)
        await driver.tidy(())
    assert stage.leftovers() == []
