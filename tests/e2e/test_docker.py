"""Whole pipelines in containers of a real engine, and beside processes of the same host."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from support import engine as engines
from support import images
from support.flowctl import COMMAND, Flowctl, control_plane, until
from support.pipelines import component, numbers_in, pipeline, rows

# The docker package leaves a socket to the garbage collector when an engine or a container ends in the middle of an answer.
pytestmark = [pytest.mark.timeout(180), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]

PROGRAMS = f"{images.HOME}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages/programs"


@pytest.fixture
def flowctl(engine: str, tmp_path: Path) -> Generator[Flowctl]:
    """A control plane of this test's own whose agent offers both drivers; nothing of it may be left in the engine."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)  # the container's user is nobody's here
    with control_plane(
        tmp_path, name="h1", docker_host=engine, drivers="process,docker", docker_image=images.PYTHON_IMAGE
    ) as running:
        yield running
    assert leftovers(engine, tmp_path) == []


def leftovers(url: str, directory: Path) -> list[str]:
    """Containers, networks and volumes of the control plane in that directory, and of the second agent in it."""
    return [name for state in ("state", "state/h2") for name in leftovers_of(url, directory / state)]


def leftovers_of(url: str, state: Path) -> list[str]:
    """Containers, networks and volumes of one agent."""
    path = state / "containers" / "owner"
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
    """A process, a container, a process; numbers at a rate end when the file ``go`` is there."""
    last_after = {"last_after": str(directory / "go")} if rate else {}
    return pipeline(
        name,
        sources=[component("numbers", "count", config={"count": count, "rate": rate, **last_after})],
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


@contextlib.contextmanager
def second_agent(flowctl: Flowctl, log: Path) -> Generator["subprocess.Popen[str]"]:
    """An agent process of its own, the host ``h2``; whoever enters twice has it restarted."""
    server = flowctl.server
    command = [*COMMAND, "agent", "--nats", server["nats_url"], "--name", "h2", "--registry", server["registry"]]
    own = {"FLOWCTL_STATE_DIR": str(flowctl.state / "h2"), "FLOWCTL_NATS_MONITOR_URL": server["nats_monitor_url"]}
    with log.open("a") as file:
        agent = subprocess.Popen(command, env={**flowctl.environment, **own}, stdout=file, stderr=subprocess.STDOUT, text=True)
    flowctl.children.append(agent)
    until(lambda: any(host["name"] == "h2" and host["status"] == "up" for host in flowctl.json("hosts")), "h2 to join")
    yield agent


def on_h2(name: str, tmp_path: Path, *, count: int) -> str:
    """A process and two containers, all on the second host; the numbers end when the file ``go`` is there."""
    place = {"placement": {"host": "h2"}}
    numbers = {"count": count, "rate": 400, "last_after": str(tmp_path / "go")}
    out = {"container": {"volumes": [{"source": str(tmp_path / "out"), "target": "/out"}]}}
    return pipeline(
        name,
        sources=[component("numbers", "count", config=numbers, **place)],
        processors=[contained("double", "double", "numbers", **place)],
        sinks=[contained("keep", "keep", "double", config={"path": "/out/rows"}, **place, **out)],
    )


def owners(flowctl: Flowctl) -> dict[str, tuple[str, int]]:
    """What each instance runs as: the container or process, and its incarnation; nothing until all of that is known."""
    found = {name: (each["handle"], each["incarnation"]) for name, each in flowctl.instances().items()}
    return found if all(handle for handle, _ in found.values()) else {}


def test_a_killed_agent_finds_its_containers_again(flowctl: Flowctl, tmp_path: Path, engine: str):
    """kill -9: data goes on without it; the next one has the same containers as the same incarnations; no event is lost."""
    flowctl.run("server", "--detach")
    with second_agent(flowctl, tmp_path / "h2.log") as first:
        flowctl.run("up", "--detach", "--wait", str(flowctl.write("pipeline.yaml", on_h2("adopt", tmp_path, count=8000))))
        until(lambda: len(rows(tmp_path / "out" / "rows")) > 100, "some events")
        before = until(lambda: owners(flowctl), "what everything runs as")
        first.kill()
        first.wait()
    at = len(rows(tmp_path / "out" / "rows"))
    until(lambda: len(rows(tmp_path / "out" / "rows")) > at + 200, "data that flows without an agent")
    with contextlib.closing(engines.client(engine)) as api:
        running = {each["Id"][:12] for each in api.containers(filters={"label": "flowctl.pipeline=adopt"})}
    assert running == {handle for name, (handle, _) in before.items() if "numbers" not in name}
    with second_agent(flowctl, tmp_path / "h2.log"):
        until(lambda: (tmp_path / "h2.log").read_text().count("adopted") >= 3, "an agent that has taken over")
        assert owners(flowctl) == before
        (tmp_path / "go").touch()
        flowctl.until_status("adopt", "completed")
        assert set(numbers_in(tmp_path / "out" / "rows")) == set(range(8000))
        starts = [entry for entry in flowctl.history("adopt") if entry["type"] == "ComponentStarting"]
        assert len(starts) == 3
        until(lambda: not leftovers(engine, tmp_path), "an engine without anything of the pipeline")


def test_a_killed_container_is_seen_at_once_and_started_again(flowctl: Flowctl, tmp_path: Path, engine: str):
    """kill -9 of the program in a container: in the journal within a second, restarted as the next incarnation, nothing lost."""
    flowctl.run("up", "--detach", "--wait", str(flowctl.write("pipeline.yaml", mixed("crash", tmp_path, count=4000, rate=400))))
    until(lambda: len(rows(tmp_path / "out" / "rows")) > 200, "some events")
    handle, incarnation = until(lambda: owners(flowctl), "what everything runs as")["crash.double.0"]
    with contextlib.closing(engines.client(engine)) as api:
        pid = api.inspect_container(handle)["State"]["Pid"]
    killed_at = time.time()
    os.kill(pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    flowctl.until_status("crash", "completed")
    assert set(numbers_in(tmp_path / "out" / "rows")) == set(range(4000))
    entries = [entry for entry in flowctl.history("crash") if entry["instance"] == "crash.double.0"]
    crash = next(entry for entry in entries if entry["type"] == "ComponentExited")
    assert (crash["data"]["signal"], crash["data"].get("expected", False)) == (signal.SIGKILL, False)
    assert crash["time_ms"] / 1000 - killed_at < 1.0
    starts = [entry["data"]["incarnation"] for entry in entries if entry["type"] == "ComponentStarting"]
    assert starts == [incarnation, incarnation + 1]


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
