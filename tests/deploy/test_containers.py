"""The image is built, and `deploy/compose.yaml` and what `flowctl export compose` writes are run, on a real engine with Compose.

This takes more than a minute: `make containers` runs it; without that it says so and is skipped.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from support import compose as composes
from support import engine as engines
from support import images
from support.compose import Compose
from support.flowctl import control_plane, until

ROOT = Path(__file__).parent.parent.parent
IMAGE = "flowctl-test/flowctl:1"
PARTS = ("core", "sdk", "components", "services", "cli", "deploy", "constraints.txt", "pyproject.toml", "README.md", "LICENSE")
LARGEST_BYTES = 200 << 20
"""What the image may add to its base."""
PIPELINE = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: orders}
spec:
  sources:
    - {id: numbers, type: generator, config: {count: 2000, rate: 400}}
  sinks:
    - {id: keep, type: file, inputs: [numbers], config: {path: /var/lib/flowctl/rows.jsonl}}
"""

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif("TEST_CONTAINERS" not in os.environ, reason="takes more than a minute: `make containers` runs it"),
]


@pytest.fixture(scope="module")
def image(engine: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of deploy/docker/Dockerfile, built without a network from wheels that were fetched before."""
    context = tmp_path_factory.mktemp("context")
    for part in (*PARTS, ".dockerignore"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, context / part)
    runtime = context / "deploy" / "docker" / "runtime.py"
    wanted = subprocess.check_output([sys.executable, runtime, "constraints.txt", "pyproject.toml"], cwd=context)
    (context / "runtime.txt").write_bytes(wanted)
    fetch = ["pip", "download", "--quiet", "--no-deps", "--require-hashes", "--requirement", "runtime.txt"]
    subprocess.run([sys.executable, "-m", *fetch, "--dest", "deploy/docker/wheels"], cwd=context, check=True)
    images.build_base(engine)
    with contextlib.closing(engines.client(engine)) as api:
        told = list(
            api.build(
                path=str(context),
                dockerfile="deploy/docker/Dockerfile",
                tag=IMAGE,
                buildargs={"BASE": images.BASE_IMAGE, "PIP_NO_INDEX": "1"},
                network_mode="none",
                rm=True,
                decode=True,
            )
        )
        assert not [each for each in told if "error" in each], told[-5:]
    return IMAGE


@pytest.fixture(autouse=True)
def need_compose() -> None:
    """Skip, with the reason, where there is no Compose."""
    if composes.program() is None:
        pytest.skip("there is no Docker Compose here: apt-get install docker-compose")


def of_project(engine: str, project: str) -> list[str]:
    """Containers, networks and volumes of a Compose project."""
    filters = {"label": f"com.docker.compose.project={project}"}
    with contextlib.closing(engines.client(engine)) as api:
        found: list[Any] = [*api.containers(all=True, filters=filters), *api.networks(filters=filters)]
        found += api.volumes(filters=filters)["Volumes"] or []
        return [str(each.get("Names") or each.get("Name")) for each in found]


@contextlib.contextmanager
def running(file: Path, project: str, engine: str, scratch: Path, **environment: str) -> Generator[Compose]:
    """A Compose project that is up; afterwards it is down, and nothing of it is left."""
    compose = Compose(file, project, engine, scratch, **environment)
    try:
        compose.run("up", "--detach")
        yield compose
    except BaseException:
        sys.stderr.write(compose.run("logs", "--no-color", expect=None)[-20_000:])
        raise
    finally:
        compose.run("down", "--volumes")
    assert of_project(engine, project) == []


def rows(compose: Compose, service: str, path: str) -> list[dict[str, Any]]:
    """The rows that a file sink has written inside a service."""
    read = "import pathlib, sys; p = pathlib.Path(sys.argv[1]); sys.stdout.write(p.read_text() if p.exists() else '')"
    said = compose.run("exec", "-T", service, "python", "-c", read, path)
    return [json.loads(line) for line in said.splitlines()]


def test_the_image_is_small_and_not_root(image: str, engine: str):
    """It has every program, no pip and nothing of the development, and its user is nobody."""
    with contextlib.closing(engines.client(engine)) as api:
        made = api.inspect_image(image)
        base = api.inspect_image(images.BASE_IMAGE)
        assert made["Config"]["User"] == "65532:65532"
        assert made["Size"] - base["Size"] < LARGEST_BYTES
        look = (
            "import importlib.util, os, shutil;"
            "services = ['flowctl-' + name for name in ('registry', 'health', 'orchestrator', 'agent', 'notify')];"
            "print([p for p in ('flowctl', 'nats-server', *services) if not shutil.which(p)],"
            " [m for m in ('pip', 'pytest', 'hatchling') if importlib.util.find_spec(m)], os.getuid())"
        )
        container = api.create_container(image, ["python", "-c", look], host_config=api.create_host_config(read_only=True))
        api.start(container)
        assert api.wait(container)["StatusCode"] == 0
        said = api.logs(container).decode()
        api.remove_container(container)
    assert said == "[] [] 65532\n"


def test_three_nats_servers_and_each_service_apart(image: str, engine: str, tmp_path: Path):
    """The Compose file as it is: a pipeline runs on it, a killed NATS server costs no event, and down leaves nothing."""
    with running(ROOT / "deploy" / "compose.yaml", "flowctl-plane", engine, tmp_path, FLOWCTL_IMAGE=image) as compose:
        until(lambda: "error" not in compose.flowctl("doctor", expect=None), "a plane that is well", timeout_s=60, every_s=1)
        compose.flowctl("doctor")
        compose.flowctl("up", "--detach", "--yes", "-", said=PIPELINE)
        until(lambda: len(rows(compose, "agent", "/var/lib/flowctl/rows.jsonl")) > 100, "some events")
        with contextlib.closing(engines.client(engine)) as api:
            api.kill(compose.id_of("nats-1"), "KILL")
        until(lambda: '"completed"' in compose.flowctl("status", "orders", "--json", expect=None), "every event", timeout_s=60)
        numbers = {row["seq"] for row in rows(compose, "agent", "/var/lib/flowctl/rows.jsonl")}
        assert numbers == set(range(2000))
        compose.flowctl("verify")


def test_an_exported_pipeline_runs(image: str, engine: str, tmp_path: Path):
    """`flowctl export compose` of the quickstart, as it was written: the sink has every result; made anew it is the same host."""
    here, folder = tmp_path / "here", tmp_path / "quickstart"
    for each in (here, folder):
        shutil.copytree(ROOT / "examples" / "quickstart", each, ignore=shutil.ignore_patterns("out"))
        (each / "out").mkdir()
        (each / "out").chmod(0o777)  # the container's user is nobody's here
    with control_plane(tmp_path) as flowctl:
        flowctl.run("up", str(here / "pipeline.yaml"))
        words = ["export", "compose", str(folder / "pipeline.yaml"), "--image", image, "--writable", "out"]
        file = flowctl.write("compose.yaml", flowctl.run(*words).stdout)
    expected = (here / "out" / "expensive.jsonl").read_text().splitlines()
    results = folder / "out" / "expensive.jsonl"
    with running(file, "flowctl-exported", engine, tmp_path) as compose:
        for again in (False, True):
            if again:
                results.unlink()
                compose.run("up", "--detach", "--force-recreate")
            until(lambda: "is completed" in compose.run("logs", "--no-color"), "the end of the pipeline", timeout_s=90, every_s=1)
            assert sorted(results.read_text().splitlines()) == sorted(expected)
