"""Whole pipelines in containers of a real engine, and beside processes of the same host."""

import contextlib
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from support import engine as engines
from support.flowctl import Flowctl, control_plane, until
from support.pipelines import component, numbers_in, pipeline

# The docker package leaves a socket to the garbage collector when an engine or a container ends in the middle of an answer.
pytestmark = [pytest.mark.timeout(180), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]

PROGRAMS = f"{engines.HOME}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages/programs"


@pytest.fixture
def flowctl(engine: str, tmp_path: Path) -> Generator[Flowctl]:
    """A control plane of this test's own whose agent offers both drivers; nothing of it may be left in the engine."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)  # the container's user is nobody's here
    with control_plane(tmp_path, docker_host=engine, drivers="process,docker", docker_image=engines.PYTHON_IMAGE) as running:
        yield running
    assert leftovers(engine, tmp_path) == []


def leftovers(url: str, directory: Path) -> list[str]:
    """Containers, networks and volumes of the control plane."""
    path = directory / "state" / "containers" / "owner"
    if not path.exists():
        return []
    owner = path.read_text().strip()
    filters = {"label": f"flowctl.owner={owner}"}
    with contextlib.closing(engines.client(url)) as api:
        found: list[Any] = [*api.containers(all=True, filters=filters), *api.networks(filters=filters)]
        found += api.volumes(filters=filters)["Volumes"] or []
        return [str(each.get("Names") or each.get("Name")) for each in found]


def contained(component_id: str, program: str, *inputs: str, **fields: Any) -> dict[str, Any]:
    """A component that runs a program of the tests in a container."""
    container = {"pull": "never", **fields.pop("container", {})}
    command = ["python", f"{PROGRAMS}/{program}.py"]
    return component(component_id, program, *inputs, driver="docker", container=container, **fields) | {"command": command}


def mixed(name: str, directory: Path, *, count: int, rate: float = 0) -> str:
    """A process, a container, a process."""
    return pipeline(
        name,
        sources=[component("numbers", "count", config={"count": count, "rate": rate})],
        processors=[contained("double", "double", "numbers")],
        sinks=[component("keep", "keep", "double", config={"path": str(directory / "out" / "rows")})],
    )


def test_a_pipeline_of_containers_completes_and_leaves_nothing(flowctl: Flowctl, tmp_path: Path, engine: str):
    """Every event arrives, ready-made components run in flowctl's own image, and after the end the engine has nothing of it."""
    volume = {"source": str(tmp_path / "out"), "target": "/out"}
    text = pipeline(
        "boxes",
        sources=[
            {"id": "made", "type": "generator", "driver": "docker", "config": {"count": 500}, "container": {"pull": "never"}}
        ],
        sinks=[
            {
                "id": "kept",
                "type": "file",
                "driver": "docker",
                "inputs": ["made"],
                "config": {"path": "/out/rows.jsonl"},
                "container": {"pull": "never", "volumes": [volume]},
            }
        ],
    )
    flowctl.run("up", str(flowctl.write("pipeline.yaml", text)))
    assert len((tmp_path / "out" / "rows.jsonl").read_text().splitlines()) == 500
    until(lambda: not leftovers(engine, tmp_path), "an engine without anything of the pipeline")


def test_processes_and_containers_meet(flowctl: Flowctl, tmp_path: Path):
    """A process, a container and a process of one pipeline on one host: every event arrives."""
    flowctl.run("up", str(flowctl.write("pipeline.yaml", mixed("meet", tmp_path, count=1000))))
    assert set(numbers_in(tmp_path / "out" / "rows")) == set(range(1000))


def test_who_needs_too_much_memory_is_told_so(flowctl: Flowctl, tmp_path: Path):
    """The kernel's kill is seen at once and named in the history; what the file loosens is shown by status."""
    greedy = "import time; time.sleep(0.2); kept = [bytearray(1 << 20) for _ in range(400)]"
    source = {
        "id": "greedy",
        "command": ["python", "-c", greedy],
        "driver": "docker",
        "resources": {"memory_bytes": 64 * 1024 * 1024, "cpu": 0.5},
        "restart": {"policy": "never"},
        "container": {"pull": "never", "read_only": False, "capabilities": ["NET_RAW"]},
    }
    text = pipeline("hungry", sources=[source], sinks=[component("keep", "keep", "greedy", config={"path": str(tmp_path / "o")})])
    flowctl.run("up", "--detach", str(flowctl.write("pipeline.yaml", text)), expect=None)
    assert "more memory than it may use" in flowctl.until_status("hungry", "failed")["reason"]
    exits = [entry["data"] for entry in flowctl.history("hungry") if entry["type"] == "ComponentExited"]
    assert exits[0]["signal"] == signal.SIGKILL
    assert "more memory than it may use" in exits[0]["detail"]
    assert flowctl.instances()["hungry.greedy.0"]["loosened"] == ["writable root file system", "capabilities NET_RAW"]
