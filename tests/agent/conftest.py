"""What the agent's tests share: no test may leave a process behind."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from flowctl_agent.drivers.process import ProcessDriver
from support.agents import process_driver, processes_of


@pytest.fixture(autouse=True)
def no_orphans(state_dir: Path) -> Generator[None]:
    """After the test, nothing that it started lives."""
    yield
    left = processes_of(state_dir)
    said = [(process.pid, process.cmdline()) for process in left]
    for process in left:
        process.kill()
    assert not said, "the test left processes"


@pytest.fixture
async def driver(state_dir: Path) -> AsyncGenerator[ProcessDriver]:
    """An open process driver; what runs at the end of the test is killed."""
    driver = process_driver(state_dir)
    await driver.open()
    yield driver
    for run in await driver.list():
        await driver.stop(run.key, 0.0)
    await driver.close()
