"""Every example runs as a user would run it: the real CLI, real processes, and the result that its comments promise."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
UP_S = 60.0


class Checkout:
    """A copy of the examples, and a control plane of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.examples = directory / "examples"
        for name in ("examples", "proto"):
            shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("node_modules", "out", "__pycache__"))
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("FLOWCTL_")}
        self.env["FLOWCTL_REGISTRY_LISTEN"] = "127.0.0.1:0"
        self.env["FLOWCTL_STATE_DIR"] = str(directory / "state")
        self.env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), self.env["PATH"]])

    def flowctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flowctl_cli", *arguments],
            cwd=self.directory,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=UP_S,
            check=False,
        )

    def up(self, pipeline: str) -> None:
        """Run the pipeline to its end."""
        done = self.flowctl("up", f"examples/{pipeline}")
        assert done.returncode == 0, done.stdout + done.stderr

    def rows(self, result: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.examples / result).read_text().splitlines()]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    copy = Checkout(tmp_path_factory.mktemp("checkout"))
    started = copy.flowctl("server", "--detach")
    assert started.returncode == 0, started.stderr
    yield copy
    copy.flowctl("server", "stop", "--pipelines")


def test_fan_out_gives_every_receiver_every_event(checkout: Checkout):
    """What two filters let through is exactly what they should of what the third receiver has in full."""
    checkout.up("shapes/fan-out.yaml")
    everything = checkout.rows("shapes/out/fan-out/all.jsonl")
    assert [row["seq"] for row in everything] == list(range(1000))
    assert checkout.rows("shapes/out/fan-out/hot.jsonl") == [row for row in everything if row["temperature"] > 30]
    assert checkout.rows("shapes/out/fan-out/cold.jsonl") == [row for row in everything if row["temperature"] < 0]


def test_fan_in_keeps_the_order_of_each_source(checkout: Checkout):
    """Events of three sources are mixed, none is missing, and each source's are in its order."""
    checkout.up("shapes/fan-in.yaml")
    rows = checkout.rows("shapes/out/fan-in/everything.jsonl")
    for station in ("north", "south"):
        assert [row["payload"]["seq"] for row in rows if row["id"].startswith(f"{station}.0:")] == list(range(500))
    strikes = [int(row["id"].split(":")[1].split("/")[0]) for row in rows if row["id"].startswith("strikes.0:")]
    assert len(strikes) == 10_000
    assert strikes == sorted(strikes)


def test_diamond_brings_every_event_on_both_ways(checkout: Checkout):
    """2,000 numbers on two ways are 4,000 events, each once."""
    checkout.up("shapes/diamond.yaml")
    rows = checkout.rows("shapes/out/diamond/both.jsonl")
    for way in ("low", "high"):
        assert [row["seq"] for row in rows if row["way"] == way] == list(range(2000))
    assert len(rows) == 4000


def test_components_in_python(checkout: Checkout):
    """Sources, processors and sinks as functions and as classes work together."""
    checkout.up("python/pipeline.yaml")
    with sqlite3.connect(checkout.examples / "python/out/events.db") as database:
        rows = dict(database.execute("SELECT id, payload FROM events"))
    database.close()
    squares = {json.loads(payload)["square"] for key, payload in rows.items() if key.startswith("squares.0:")}
    assert squares == {n * n for n in range(0, 100, 2)}
    assert sum(key.endswith("/smooth.0") for key in rows) == 100
    # A busy machine may end a window by its time: together they have every step all the same.
    assert sum(json.loads(payload)["steps"] for key, payload in rows.items() if key.endswith("/stretches.0")) == 100


def test_programs_as_processors(checkout: Checkout):
    """sed and a script, neither of which knows flowctl, process the strikes above 250 knots."""
    checkout.up("exec/pipeline.yaml")
    lines = (ROOT / "examples/quickstart/birdstrikes.csv").read_text().splitlines()[1:]
    fast = [line.split(",") for line in lines]
    expected = [f"{row[1].upper()} at {row[13]} knots: {row[8]}" for row in fast if row[13] and int(row[13]) >= 250]
    assert [row["text"] for row in checkout.rows("exec/out/fast.jsonl")] == expected


def test_quickstart_demo(checkout: Checkout):
    """The demo checks its own result, shows the journal's story and exits with 0, twice."""
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "examples/quickstart/demo.py"],
            cwd=checkout.directory,
            env=checkout.env,
            capture_output=True,
            text=True,
            timeout=UP_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "10,000 rows in, 209 strikes out" in done.stdout
        assert done.stdout.count("PipelineSubmitted") == 1


def test_the_data_is_what_it_is_said_to_be():
    """The checksum in DATA.md is that of the file."""
    import hashlib

    digest = hashlib.sha256((ROOT / "examples/quickstart/birdstrikes.csv").read_bytes()).hexdigest()
    assert digest in (ROOT / "examples/quickstart/DATA.md").read_text()
