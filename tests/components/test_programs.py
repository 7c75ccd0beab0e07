"""The components as programs: exit codes for bad configurations, and every event once whatever is killed."""

import contextlib
import functools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowctl.spec.catalog import CATALOG
from support.flowctl import Flowctl, control_plane, until
from support.programs_of import program_of

MODULES = sorted(entry.module_of(kind) for entry in CATALOG.values() for kind in entry.summaries)

PIPELINE = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata: {{name: {name}}}
spec:
  sources:
    - {{id: numbers, type: generator, config: {{count: {count}, rate: {rate}}}}}
  processors:
    - {{id: twice, type: map, inputs: [numbers], config: {{select: "[seq, seq]", each: true}}}}
  sinks:
    - {{id: result, type: file, inputs: [twice, numbers], config: {{path: result.jsonl, envelope: true, rotate_bytes: 100000}}}}
"""


@pytest.mark.parametrize("module", MODULES)
def test_a_bad_configuration_exits_with_2(module: str, tmp_path: Path):
    """One sentence that names the field, no traceback, exit code 2."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("FLOWCTL_")},
        "FLOWCTL_CONFIG": '{"no_such_field": 1, "path": "x", "where": "x", "url": "http://x", "command": ["true"]}',
        "FLOWCTL_HEALTH_LISTEN": "127.0.0.1:0",
        "FLOWCTL_LISTEN": "127.0.0.1:0",
    }
    done = subprocess.run(
        [sys.executable, "-m", module], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2, done.stderr
    assert re.search(r"config: there is no field '\w+' here", done.stderr), done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def flowctl(tmp_path: Path) -> Iterator[Flowctl]:
    with control_plane(tmp_path) as own:
        yield own


def test_every_event_once_whatever_is_killed(flowctl: Flowctl):
    """kill -9 of source, processor and sink, twice each, while data flows: rotated files hold every event of the run once."""
    count = 16_000
    pipeline = flowctl.write("pipeline.yaml", PIPELINE.format(name="once", count=count, rate=2_000))
    flowctl.run("up", str(pipeline), "--detach", "--wait")
    stored = 0
    for victim in ("result", "twice", "numbers") * 2:
        stored = until(functools.partial(stored_beyond, flowctl.directory, stored + 500), "progress")
        until(functools.partial(program_of, flowctl, victim), f"{victim} to run").kill()
    flowctl.until_status("once", "completed", timeout_s=60)
    assert flowctl.pipeline("once")["status"] == "completed"
    ids = [json.loads(line)["id"] for path in flowctl.directory.glob("result.jsonl*") for line in path.read_text().splitlines()]
    expected = [f"numbers.0:{n}{way}" for n in range(count) for way in ("", "/twice.0", "/twice.1")]
    assert len(ids) == len(expected)
    assert set(ids) == set(expected)


def stored_beyond(directory: Path, lines: int) -> int:
    """How many lines the sink has written, once they are more than this; else 0."""
    with contextlib.suppress(FileNotFoundError):
        found = sum(path.read_bytes().count(b"\n") for path in directory.glob("result.jsonl*"))
        return found if found > lines else 0
    return 0
