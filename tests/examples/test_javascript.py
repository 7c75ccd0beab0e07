"""A component in another language: the JavaScript example, made of the protos alone, in real pipelines."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.flowctl import Flowctl, until

ROOT = Path(__file__).parents[2]

STEADY = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: steady}
spec:
  sources:
    - {id: numbers, type: generator, config: {count: 6000, rate: 2000, fields: {Wildlife Size: Large, Wildlife Species: Dragon}}}
  processors:
    - {id: weigh, command: [node, processor.js], inputs: [numbers]}
    - {id: again, type: map, inputs: [weigh], config: {set: {checked: true}}}
  sinks:
    - {id: result, type: file, inputs: [again], config: {path: out/steady.jsonl, envelope: true}}
"""


def why_not() -> str:
    """Why the JavaScript example cannot run here; empty if it can."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            return f"there is no {program} on the PATH"
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"v(\d+)", version)
    return "" if found and int(found[1]) >= 18 else f"node is {version.strip()} and must be 18 or newer"


WHY_NOT = why_not()
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=f"the JavaScript example is not tried: {WHY_NOT}")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example in a copy of the repository's folders that it needs, with its packages."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("proto", "examples/javascript", "examples/quickstart"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("node_modules", "out", "__pycache__"))
    folder = copy / "examples/javascript"
    done = subprocess.run(["npm", "ci"], cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def flowctl(tmp_path: Path) -> Iterator[Flowctl]:
    control_plane = Flowctl(tmp_path)
    yield control_plane
    control_plane.run("server", "stop", "--pipelines", expect=None)


def test_a_processor_in_javascript(example: Path, flowctl: Flowctl):
    """10,000 strikes through Node: what it lets through, in order, is what the same rule gives in Python; and it completes."""
    flowctl.run("up", str(example / "pipeline.yaml"))
    weights = {"Small": 1, "Medium": 3, "Large": 10}
    with (ROOT / "examples/quickstart/birdstrikes.csv").open(newline="") as file:
        rows = [(row["Wildlife Species"], weights[row["Wildlife Size"]]) for row in csv.DictReader(file)]
    found = [json.loads(line) for line in (example / "out/weights.jsonl").read_text().splitlines()]
    assert [(row["species"], row["weight"]) for row in found] == [row for row in rows if row[1] >= 3]


def test_nothing_is_lost_when_it_is_killed(example: Path, flowctl: Flowctl):
    """kill -9 of Node while data flows: every event is in the sink once, under the id that the Python SDK would give it."""
    pipeline = example / "steady.yaml"
    pipeline.write_text(STEADY)
    result = example / "out/steady.jsonl"
    flowctl.run("up", str(pipeline), "--detach")
    until(lambda: result.exists() and result.stat().st_size > 50_000, "data in the sink")
    os.kill(the_node_of(example), signal.SIGKILL)
    until(lambda: "completed" in flowctl.run("status", "steady", expect=None).stdout, "the end of the pipeline", every_s=0.5)
    ids = [json.loads(line)["id"] for line in result.read_text().splitlines()]
    assert ids == [f"numbers.0:{n}/weigh.0/again.0" for n in range(6000)]


def the_node_of(example: Path) -> int:
    """The process id of the example's program."""
    found = [
        process.pid
        for process in psutil.process_iter(["name", "cwd", "cmdline"])
        if process.info["cwd"] == str(example) and (process.info["cmdline"] or [""])[0] == "node"
    ]
    assert len(found) == 1, found
    return found[0]


def test_the_lock_file_names_no_place_to_download_from():
    """npm takes the packages from whatever registry it is set up for, and checks them by hash."""
    text = (ROOT / "examples/javascript/package-lock.json").read_text()
    assert '"resolved"' not in text
    assert text.count('"integrity"') == text.count('"node_modules/')
