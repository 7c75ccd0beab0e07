"""Every shape of pipeline adds up, edge by edge and exactly, with a component killed in the middle: `flowctl status --edges`."""

import os
import signal
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from support.flowctl import Flowctl, control_plane, until
from support.pipelines import component, numbers_in, pipeline, rows

pytestmark = pytest.mark.timeout(180)

COUNT = 6_000


@pytest.fixture
def flowctl(tmp_path: Path) -> Generator[Flowctl]:
    """A control plane of this test's own."""
    with control_plane(tmp_path, heartbeat_interval_s="1") as running:
        yield running


def count(component_id: str) -> dict[str, Any]:
    """A source of ``COUNT`` numbers."""
    return component(component_id, "count", config={"count": COUNT, "rate": 500})


def keep(component_id: str, directory: Path, *inputs: str) -> dict[str, Any]:
    """A sink that writes to ``<component_id>.jsonl``."""
    return component(component_id, "keep", *inputs, config={"path": str(directory / f"{component_id}.jsonl")})


Shape = Callable[[Path], dict[str, Any]]

SHAPES: dict[str, Shape] = {
    "linear": lambda out: {
        "sources": [count("numbers")],
        "processors": [component("middle", "double", "numbers")],
        "sinks": [keep("last", out, "middle")],
    },
    "fan-out": lambda out: {
        "sources": [count("numbers")],
        "processors": [component("middle", "double", "numbers")],
        "sinks": [keep("last", out, "middle"), keep("other", out, "middle")],
    },
    "fan-in": lambda out: {
        "sources": [count("numbers"), count("more")],
        "processors": [component("middle", "double", "numbers", "more")],
        "sinks": [keep("last", out, "middle")],
    },
    "diamond": lambda out: {
        "sources": [count("numbers")],
        "processors": [component("middle", "double", "numbers"), component("beside", "double", "numbers")],
        "sinks": [keep("last", out, "middle", "beside")],
    },
    "replicas": lambda out: {
        "sources": [count("numbers")],
        "processors": [component("middle", "double", "numbers", replicas=3, partition_by="payload.n")],
        "sinks": [keep("last", out, "middle")],
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_edge_adds_up_after_a_kill(flowctl: Flowctl, tmp_path: Path, shape: str):
    """kill -9 of a processor and of a sink while events flow: nothing is lost, and in the end every edge balances exactly."""
    text = pipeline("shape", **SHAPES[shape](tmp_path))
    flowctl.run("up", "--detach", str(flowctl.write("pipeline.yaml", text)))
    out = tmp_path / "last.jsonl"
    until(lambda: len(rows(out)) > 100, "events")
    handles = {name: each["handle"] for name, each in flowctl.instances().items()}
    for victim in ("middle", "last"):
        before = len(rows(out))
        until(lambda before=before: len(rows(out)) > before + 200, "more events")
        os.kill(int(handles[f"shape.{victim}.0"]), signal.SIGKILL)
    flowctl.run("status", "shape", "--edges")
    flowctl.until_status("shape", "completed")
    assert set(numbers_in(out)) == set(range(COUNT))

    def balanced() -> list[dict[str, Any]] | None:
        found = flowctl.json("status", "shape", "--edges")["pipelines"][0]
        assert found["violations"] == []
        exact = all(edge["balance"] == "balanced" for edge in found["edges"])
        return found["edges"] if exact else None

    edges = until(balanced, "every edge balanced", timeout_s=10)
    for edge in edges:
        sent, received = edge["sent"], edge["received"]
        assert sent["in_flight"] == received["in_flight"] == 0
        assert sum(sent["delivery_buckets"]) == sent["acked_total"]
    told = flowctl.run("status", "shape", "--edges").stdout
    assert told.count("✓") == len(edges)
    assert "✗" not in told
