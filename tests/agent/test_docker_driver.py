"""What is particular to containers, on a real engine: their strictness, as the engine tells it and seen from inside."""

import contextlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from flowctl_agent.drivers import Run
from flowctl_agent.drivers.docker import DockerDriver
from flowctl_agent.drivers.docker.archive import archive
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


async def told_of(driver: DockerDriver, stage: DockerStage, **container: Any) -> Any:
    """What the engine says of a container that runs."""
    run = await driver.start(stage.launch(SLEEP, container=container))
    assert run.live, run.failure
    with contextlib.closing(engines.client(stage.url)) as api:
        return api.inspect_container(run.handle)


async def test_the_engine_was_told_every_protection(driver: DockerDriver, stage: DockerStage):
    """Each protection stands in what the engine itself says of the container, and nothing that would undo it."""
    told = await told_of(driver, stage)
    host = told["HostConfig"]
    assert told["Config"]["User"] == "65532:65532"
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert (host["CapDrop"], host["CapAdd"] or [], host["Privileged"]) == (["ALL"], [], False)
    assert host["ReadonlyRootfs"] is True
    assert host["Tmpfs"] == {"/tmp": "rw,noexec,nosuid,nodev,mode=1777,size=67108864"}
    assert host["PidsLimit"] == 512
    assert [mount["Type"] for mount in told["Mounts"]] == ["volume", "volume"]
    assert (host["PidMode"], host["IpcMode"], host["UsernsMode"], host["Devices"] or []) == ("", "private", "", [])
    assert host["RestartPolicy"]["Name"] in ("", "no")


@pytest.mark.parametrize(
    ("container", "path", "value"),
    [
        ({"user": "0"}, "Config.User", "0"),
        ({"read_only": False}, "HostConfig.ReadonlyRootfs", False),
        ({"capabilities": ["NET_RAW"]}, "HostConfig.CapAdd", ["NET_RAW"]),
        ({"new_privileges": True}, "HostConfig.SecurityOpt", []),
        ({"privileged": True}, "HostConfig.Privileged", True),
        ({"pids": 4000}, "HostConfig.PidsLimit", 4000),
        ({"scratch_bytes": 1 << 20}, "HostConfig.Tmpfs", {"/tmp": "rw,noexec,nosuid,nodev,mode=1777,size=1048576"}),
        ({"network": "host"}, "HostConfig.NetworkMode", "host"),
    ],
)
async def test_the_engine_was_told_what_the_file_loosens(
    driver: DockerDriver, stage: DockerStage, container: dict[str, Any], path: str, value: object
):
    """That one thing, as it is written."""
    section, _, name = path.partition(".")
    assert (await told_of(driver, stage, **container))[section][name] == value


@pytest.mark.parametrize("container", [{}, {"user": "toor"}])
async def test_root_by_another_name_is_root(driver: DockerDriver, stage: DockerStage, container: dict[str, Any]):
    """An image may call its root what it likes: its program is not started as root unless the file says so in numbers."""
    image = f"flowctl-test/toor:{stage.owner}"
    with contextlib.closing(engines.client(stage.url)) as api:
        data = archive({"etc/passwd": b"toor:x:0:0:root:/:/bin/sh\n"}, 0, 0)
        api.import_image_from_data(data, repository=image.partition(":")[0], tag=stage.owner, changes=["USER toor"])
        run = await driver.start(stage.launch(SLEEP, image=image, container=container))
        api.remove_image(image)
    assert run.failure == f'the user toor of image {image} is root: write user: "0" in the container if that is meant'
