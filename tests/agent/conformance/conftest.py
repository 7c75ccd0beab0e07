"""What the conformance suite runs on: every driver, each with its surroundings."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from flowctl_agent.drivers import Driver, Launch
from support.agents import clear
from support.stages import DockerStage, ProcessStage, Stage

Opened = Callable[[], contextlib.AbstractAsyncContextManager[Driver]]
Launching = Callable[..., Launch]


@pytest.fixture(params=["process", "docker"])
def stage(request: pytest.FixtureRequest, state_dir: Path, tmp_path: Path) -> Stage:
    """The driver under test, and how its programs are started. A case marked ``needs`` that makes no sense for it says why."""
    marker = request.node.get_closest_marker("needs")
    reasons = {"process": ProcessStage.lacks, "docker": DockerStage.lacks}[request.param]
    if marker is not None and (reason := reasons.get(marker.args[0])) is not None:
        pytest.skip(f"{request.param}: {reason}")
    if request.param == "docker":
        return DockerStage(request.getfixturevalue("engine"), state_dir)
    return ProcessStage(state_dir, tmp_path)


@pytest.fixture
def launch(stage: Stage) -> Launching:
    """Makes a launch of a program, for the driver under test."""
    return stage.launch


@pytest.fixture
def opened(stage: Stage) -> Opened:
    """Opens the driver under test, as often as an agent would on one host."""

    @contextlib.asynccontextmanager
    async def open_one() -> AsyncGenerator[Driver]:
        driver = stage.driver()
        await driver.open()
        try:
            yield driver
        finally:
            await driver.close()

    return open_one


@pytest.fixture
async def one(opened: Opened, stage: Stage) -> AsyncGenerator[Driver]:
    """One open driver; what still runs in the end is stopped, and then nothing is left."""
    async with opened() as driver:
        yield driver
        await clear(driver)
    assert not stage.leftovers()
