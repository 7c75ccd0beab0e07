"""`flowctl up` as a user types it: one command, real programs, a result."""

import json
import signal
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

from support.flowctl import Flowctl, control_plane, until
from support.pipelines import component, linear, numbers_in, pipeline, rows

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def flowctl(tmp_path: Path) -> Generator[Flowctl]:
    """A control plane of this test's own."""
    with control_plane(tmp_path) as running:
        yield running


def exactly(count: int) -> Counter[int]:
    """Every number once."""
    return Counter(range(count))


def test_a_finite_pipeline_completes_and_up_returns_0(flowctl: Flowctl, tmp_path: Path):
    """`up` starts everything, waits until all is in the sink, and leaves nothing running."""
    out = tmp_path / "out.jsonl"
    file = flowctl.write("pipeline.yaml", linear("tiny", out, count=2000))
    done = flowctl.run("up", str(file))
    assert "completed" in done.stdout + done.stderr
    assert numbers_in(out) == exactly(2000)
    assert all(row["double"] == 2 * row["n"] for row in rows(out))
    until(lambda: not flowctl.processes(), "the end of the server that up had started")


def test_a_second_run_starts_from_the_beginning(flowctl: Flowctl, tmp_path: Path):
    """A completed pipeline that is started again runs again; a stopped one would resume."""
    out = tmp_path / "out.jsonl"
    file = flowctl.write("pipeline.yaml", linear("again", out, count=50))
    flowctl.run("up", str(file))
    flowctl.run("up", str(file))
    assert numbers_in(out) == Counter(dict.fromkeys(range(50), 2))


Shape = tuple[list[str], dict[str, list[str]], dict[str, list[str]], int]
SHAPES: dict[str, Shape] = {
    "source straight to sink": (["a"], {}, {"keep": ["a"]}, 1),
    "linear": (["a"], {"p": ["a"]}, {"keep": ["p"]}, 1),
    "fan-in": (["a", "b"], {"p": ["a", "b"]}, {"keep": ["p"]}, 2),
    "diamond": (["a"], {"p": ["a"], "q": ["a"]}, {"keep": ["p", "q"]}, 2),
    "several inputs of one sink": (["a", "b"], {"p": ["a"]}, {"keep": ["p", "b"]}, 2),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_delivers_everything(flowctl: Flowctl, tmp_path: Path, shape: str):
    """`inputs` alone decides the routing; each path delivers each event."""
    sources, processors, sinks, times = SHAPES[shape]
    out = tmp_path / "out.jsonl"
    text = pipeline(
        "shape",
        sources=[component(each, "count", config={"count": 500}) for each in sources],
        processors=[component(each, "double", *inputs) for each, inputs in processors.items()],
        sinks=[component(each, "keep", *inputs, config={"path": str(out)}) for each, inputs in sinks.items()],
    )
    flowctl.run("up", str(flowctl.write("pipeline.yaml", text)))
    assert numbers_in(out) == Counter(dict.fromkeys(range(500), times))


def test_fan_out_gives_every_sink_everything(flowctl: Flowctl, tmp_path: Path):
    """Three sinks of one source: each gets all events."""
    outs = {f"keep{n}": tmp_path / f"out{n}.jsonl" for n in range(3)}
    text = pipeline(
        "fan",
        sources=[component("a", "count", config={"count": 500})],
        sinks=[component(each, "keep", "a", config={"path": str(path)}) for each, path in outs.items()],
    )
    flowctl.run("up", str(flowctl.write("pipeline.yaml", text)))
    for path in outs.values():
        assert numbers_in(path) == exactly(500)


def test_replicas_share_the_work_by_key(flowctl: Flowctl, tmp_path: Path):
    """Four replicas with partition_by: each event goes to one of them, the same key always to the same."""
    out = tmp_path / "out.jsonl"
    text = pipeline(
        "keyed",
        sources=[component("a", "count", config={"count": 2000})],
        processors=[component("p", "double", "a", replicas=4, partition_by="payload.n")],
        sinks=[component("keep", "keep", "p", config={"path": str(out)})],
    )
    flowctl.run("up", str(flowctl.write("pipeline.yaml", text)))
    assert numbers_in(out) == exactly(2000)
    assert {row["by"] for row in rows(out)} == {f"p.{index}" for index in range(4)}


def test_the_day_of_an_operator(flowctl: Flowctl, tmp_path: Path):
    """Detached: status, logs, watch, history, scale, restart and down, each from another shell."""
    out = tmp_path / "out.jsonl"
    file = flowctl.write("pipeline.yaml", linear("orders", out, count=1_000_000, rate=200))
    flowctl.run("up", "--detach", "--wait", str(file))
    assert flowctl.pipeline("orders")["status"] == "running"
    assert "orders.double.0" in flowctl.run("status").stdout
    until(lambda: rows(out), "events in the sink")
    watch = flowctl.start("watch", "orders", "--json")
    logs = flowctl.start("logs", "orders", "-f")

    flowctl.run("scale", "orders.double=3")
    flowctl.until_status("orders", "running")
    assert sorted(name for name in flowctl.instances() if "double" in name) == [f"orders.double.{n}" for n in range(3)]
    before = flowctl.instances()["orders.double.0"]
    flowctl.run("restart", "orders.double.0")
    until(
        lambda: (
            (now := flowctl.instances()["orders.double.0"])["incarnation"] > before["incarnation"] and now["phase"] == "running"
        ),
        "a new incarnation",
    )
    flowctl.run("scale", "orders.double=1")
    until(lambda: "orders.double.2" not in {n for n, v in flowctl.instances().items() if v["phase"] == "running"}, "one replica")

    last = rows(out)[-1]["n"]
    until(lambda: rows(out)[-1]["n"] > last, "events after all of this")
    flowctl.run("down", "orders")
    assert flowctl.pipeline("orders")["status"] == "stopped"
    delivered = numbers_in(out)
    assert set(delivered) == set(range(max(delivered) + 1)), "nothing may be lost by scaling, restarting or stopping"

    kinds = [entry["type"] for entry in flowctl.history("orders")]
    for kind in ("PipelineSubmitted", "ComponentAssigned", "ComponentRegistered", "PipelineScaled", "PipelineStopRequested"):
        assert kind in kinds
    assert "the same decisions follow" in flowctl.run("replay").stdout
    for child in (watch, logs):
        child.send_signal(signal.SIGINT)
    watched = watch.communicate(timeout=20)[0]
    assert any(json.loads(line)["type"] == "PipelineScaled" for line in watched.splitlines() if line.startswith("{"))
    logs.communicate(timeout=20)
    text = flowctl.run("logs", "orders").stdout
    assert "orders.double.0" in text or "double.0" in text, "the output of ended instances stays readable"


def test_a_stopped_pipeline_resumes_where_it_was(flowctl: Flowctl, tmp_path: Path):
    """down, then up: the source goes on from its checkpoint."""
    out = tmp_path / "out.jsonl"
    file = flowctl.write("pipeline.yaml", linear("resume", out, count=3000, rate=1000))
    flowctl.run("up", "--detach", str(file))
    until(lambda: len(rows(out)) > 100, "some events")
    flowctl.run("down", "resume")
    so_far = numbers_in(out)
    assert len(so_far) < 3000
    flowctl.run("up", str(file))
    delivered = numbers_in(out)
    assert set(delivered) == set(range(3000))
    assert delivered == exactly(3000), "a drained stop leaves nothing to send twice"


def test_ctrl_c_drains_and_stops(flowctl: Flowctl, tmp_path: Path):
    """The first Ctrl-C ends the pipeline in order; up says so with exit code 130."""
    out = tmp_path / "out.jsonl"
    file = flowctl.write("pipeline.yaml", linear("drain", out, count=1_000_000, rate=500))
    up = flowctl.start("up", str(file))
    until(lambda: len(rows(out)) > 50, "some events")
    up.send_signal(signal.SIGINT)
    output = up.communicate(timeout=60)[0]
    assert up.returncode == 130, output
    delivered = numbers_in(out)
    assert delivered == exactly(max(delivered) + 1)
    until(lambda: not flowctl.processes(), "the end of everything")


def test_a_changed_file_replaces_only_what_changed(flowctl: Flowctl, tmp_path: Path):
    """`up changed.yaml` on a running pipeline leaves the unchanged instances alone."""
    out = tmp_path / "out.jsonl"
    file = flowctl.write("pipeline.yaml", linear("change", out, count=1_000_000, rate=200))
    flowctl.run("up", "--detach", "--wait", str(file))
    before = flowctl.instances()
    flowctl.write("pipeline.yaml", linear("change", out, count=1_000_000, rate=200, env={"COLOUR": "blue"}))
    flowctl.run("up", "--detach", "--wait", str(file))
    until(lambda: flowctl.instances()["change.double.0"]["incarnation"] == 2, "the replacement")
    after = flowctl.until_status("change", "running") and flowctl.instances()
    assert after["change.numbers.0"]["handle"] == before["change.numbers.0"]["handle"]
    assert after["change.keep.0"]["handle"] == before["change.keep.0"]["handle"]
    flowctl.run("down", "change")
    delivered = numbers_in(out)
    assert set(delivered) == set(range(max(delivered) + 1))


def test_a_component_is_taken_out_of_a_running_pipeline_and_nothing_is_lost(flowctl: Flowctl, tmp_path: Path):
    """What the one that is gone had not passed on goes straight to the one that it fed; the source is not restarted."""
    out = tmp_path / "out.jsonl"
    file = flowctl.write("pipeline.yaml", linear("shorter", out, count=1_000_000, rate=5_000))
    flowctl.run("up", "--detach", "--wait", str(file))
    until(lambda: len(numbers_in(out)) > 1_000, "events through all three")
    before = flowctl.instances()
    sources = [component("numbers", "count", config={"count": 1_000_000, "rate": 5_000})]
    sinks = [component("keep", "keep", "numbers", config={"path": str(out)})]
    flowctl.write("pipeline.yaml", pipeline("shorter", sources=sources, sinks=sinks))
    flowctl.run("up", "--detach", "--wait", str(file))
    until(lambda: "shorter.double.0" not in flowctl.instances(), "the end of the one taken out")
    there = len(numbers_in(out))
    until(lambda: len(numbers_in(out)) > there + 1_000, "events through the two that are left")
    assert flowctl.instances()["shorter.numbers.0"]["handle"] == before["shorter.numbers.0"]["handle"]
    flowctl.run("down", "shorter")
    delivered = numbers_in(out)
    assert set(delivered) == set(range(max(delivered) + 1))
