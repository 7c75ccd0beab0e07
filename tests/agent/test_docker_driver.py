"""What is particular to containers, on a real engine: images, limits, strictness seen from inside, and the engine going away."""

import asyncio
import contextlib
import gc
import json
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from flowctl.errors import DriverError
from flowctl.spec.model import Resources
from flowctl_agent.drivers import Run
from flowctl_agent.drivers.docker import DockerDriver
from support import engine as engines
from support.agents import SLEEP, key, only_run, output, script
from support.polling import eventually
from support.stages import DockerStage

LOOK = """
import os
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
def writable(path):
    try:
        open(path, "w").close()
    except OSError:
        return False
    return True
print(os.getuid(), os.getgid(), status["CapEff"].strip(), status["NoNewPrivs"].strip())
print([path for path in ("/x", "/opt/x", "/tmp/x", "/run/flowctl/x", "/var/lib/flowctl/state/x") if writable(path)])
print(open(os.environ["PASSWORD_FILE"]).read(), "PASSWORD" in os.environ)
"""

# The docker package leaves a socket to the garbage collector when an engine or a container ends in the middle of an answer.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def stage(engine: str, state_dir: Path) -> DockerStage:
    """A docker driver's surroundings."""
    return DockerStage(engine, state_dir)


@pytest.fixture
async def driver(stage: DockerStage) -> AsyncGenerator[DockerDriver]:
    """An open driver; what runs at the end is stopped, and nothing may be left."""
    async with opened(stage) as driver:
        yield driver
        for run in await driver.list():
            await driver.stop(run.key, 0.0)
        await driver.tidy(())
    assert stage.leftovers() == []


@contextlib.asynccontextmanager
async def opened(stage: DockerStage) -> AsyncGenerator[DockerDriver]:
    """An open driver."""
    driver = stage.driver()
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


async def ended(driver: DockerDriver) -> Run:
    """The only run, once it has exited."""
    exits: list[Run] = []
    driver.on_exit(exits.append)
    if (run := await only_run(driver)).live:
        await eventually(lambda: bool(exits), "an exit")
        run = exits[0]
    return run


async def test_a_container_is_strict_seen_from_inside(driver: DockerDriver, stage: DockerStage):
    """Nobody, without a capability, on a root that cannot be written; the secret is a file and not in what inspect shows."""
    await driver.start(stage.launch(script(LOOK + "import time; time.sleep(3600)"), secret_env={"PASSWORD": "hush-hush"}))
    await eventually(lambda: len(output(driver, key())) == 3, "three lines")
    lines = [text for _, text in output(driver, key())]
    assert lines == [
        "65532 65532 0000000000000000 1",
        "['/tmp/x', '/var/lib/flowctl/state/x']",
        "hush-hush False",
    ]
    with contextlib.closing(engines.client(stage.url)) as api:
        containers = api.containers(filters={"label": "flowctl.instance=orders.worker.0"})
        told = [json.dumps(api.inspect_container(each["Id"])) for each in containers]
    assert told
    assert not any("hush-hush" in text for text in told)


async def test_an_image_that_is_not_there(driver: DockerDriver, stage: DockerStage):
    """Is an exited run with the image's name, not an error of the driver."""
    run = await driver.start(stage.launch(SLEEP, image="nobody/has-this:1"))
    assert not run.live
    assert run.failure == "the image nobody/has-this:1 is not on this host, and its pull policy is never"


async def test_too_much_memory_is_named(driver: DockerDriver, stage: DockerStage):
    """The kernel's kill is told from any other."""
    greedy = script("kept = [bytearray(1 << 20) for _ in range(400)]")
    await driver.start(stage.launch(greedy, resources=Resources(memory_bytes=32 << 20, cpu=0.5)))
    run = await ended(driver)
    assert (run.code, run.signal) == (None, signal.SIGKILL)
    assert "memory" in run.cause


async def test_output_is_read_once_whoever_follows(stage: DockerStage):
    """A second driver goes on where the first one stopped: no line is lost, none is there twice."""
    program = script("import time\nfor n in range(100000):\n    print(n)\n    time.sleep(0.002)")
    async with opened(stage) as first:
        await first.start(stage.launch(program))
        await eventually(lambda: len(output(first, key())) > 50, "some lines")
    async with opened(stage) as second:
        before = len(output(second, key()))
        await eventually(lambda: len(output(second, key())) > before + 300, "more lines")
        await second.stop(key(), 5.0)
        numbers = [int(text) for _, text in output(second, key())]
        assert numbers == list(range(len(numbers)))
        await second.tidy(())


async def test_the_engine_goes_and_comes_back(state_dir: Path):
    """While it is away nothing is started, and that is said; when it is back, every end is known and things start again."""
    reason = engines.why_own_none()
    if reason is not None:
        pytest.skip(f"no engine of the test's own: {reason}")
    own = engines.Engine()
    stage = DockerStage(own.url, state_dir)
    try:
        await asyncio.to_thread(own.start)
        await asyncio.to_thread(engines.build_python, own.url)
        async with opened(stage) as driver:
            exits: list[Run] = []
            driver.on_exit(exits.append)
            await driver.start(stage.launch(SLEEP))
            await asyncio.to_thread(own.stop)  # which ends its containers
            await eventually(lambda: driver.absence() is not None, "the engine's absence")
            with pytest.raises(DriverError, match="does not answer"):
                await driver.start(stage.launch(SLEEP, key(1, 1)))
            await asyncio.to_thread(own.start)
            await eventually(lambda: driver.absence() is None, "the engine's return", timeout_s=20)
            await eventually(lambda: bool(exits), "the end of what the engine's end had ended", timeout_s=20)
            assert (await driver.start(stage.launch(SLEEP, key(2)))).live
            await driver.stop(key(2), 5.0)
            await driver.tidy(())
        assert stage.leftovers() == []
    finally:
        await asyncio.to_thread(own.close)
        gc.collect()  # in this test, not in whichever comes next
