"""`flowctl tap`: live events of a running pipeline, seen by an onlooker who disturbs nobody."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.flowctl import COMMAND, Flowctl, control_plane, until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def flowctl(tmp_path: Path) -> Generator[Flowctl]:
    """A control plane of this test's own."""
    with control_plane(tmp_path) as running:
        yield running


def running(flowctl: Flowctl, rate: int, *, count: int | None = None) -> None:
    """A pipeline numbers → twice → result that runs, at so many events a second (0: as many as can be)."""
    config: dict[str, Any] = {**({"rate": rate} if rate else {}), **({"count": count} if count else {})}
    sink = {"id": "result", "command": ["python", "discard.py"], "inputs": ["twice"]}
    flowctl.write(
        "discard.py", "from flowctl_sdk import Event, run, sink\n\n\n@sink\ndef discard(event: Event): ...\n\n\nrun(discard)\n"
    )
    text = {
        "apiVersion": "flowctl/v1",
        "kind": "Pipeline",
        "metadata": {"name": "live"},
        "spec": {
            "sources": [{"id": "numbers", "type": "generator", "config": config}],
            "processors": [
                {"id": "twice", "type": "map", "inputs": ["numbers"], "config": {"select": "{twice: seq}"}},
            ],
            "sinks": [sink],
        },
    }
    flowctl.run("up", str(flowctl.write("pipeline.json", json.dumps(text))), "--detach", "--wait")


def test_events_of_every_kind_of_component(flowctl: Flowctl):
    """A source's and a processor's own events, a sink's inputs; filtered, limited, as JSON and for people; and every mistake."""
    running(flowctl, 200)
    lines = flowctl.run("tap", "live.numbers", "--limit", "20", "--json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert [set(event) for event in events] == [{"id", "time", "type", "metadata", "payload"}] * 20
    first = events[0]["payload"]["seq"]
    assert [event["id"] for event in events] == [f"numbers.0:{n}" for n in range(first, first + 20)]
    sink = flowctl.run("tap", "live.result", "--limit", "3", "--json").stdout.splitlines()
    assert all(json.loads(line)["id"].endswith("/twice.0") for line in sink)
    filtered = flowctl.run("tap", "live.twice.0", "--filter", "ends_with(to_string(twice), '7')", "--limit", "3", "--json")
    assert all(json.loads(line)["payload"]["twice"] % 10 == 7 for line in filtered.stdout.splitlines())
    whole = flowctl.run("tap", "live.twice", "--envelope", "--filter", "ends_with(id, '1/twice.0')", "--limit", "2")
    assert [line.split(" ")[2].endswith("1/twice.0") for line in whole.stdout.splitlines()] == [True, True]
    for words, code, said in (
        (["live"], 2, "names no component"),
        (["live.nope"], 1, "has no component 'nope'"),
        (["live.numbers.3"], 1, "there is no instance live.numbers.3"),
        (["nope.numbers"], 1, "no pipeline 'nope'"),
        (["live.numbers", "--filter", "a["], 2, "is not a JMESPath expression"),
        (["live.numbers", "--envelope"], 2, "there is no --filter"),
        (["live.numbers", "--rate", "0"], 2, "--rate"),
    ):
        failed = flowctl.run("tap", *words, expect=code)
        assert said in failed.stderr, failed.stderr
    flowctl.run("down", "live")
    gone = flowctl.run("tap", "live.numbers", expect=1)
    assert "live.numbers is not running: live.numbers.0 is" in gone.stderr


def test_a_tap_goes_on_after_a_restart(flowctl: Flowctl):
    """kill -9 of the tapped component: the tap says so, dials its next incarnation, and ends with 130 on Ctrl-C."""
    running(flowctl, 100)
    with (flowctl.directory / "seen").open("w") as seen, (flowctl.directory / "said").open("w") as said:
        tap = subprocess.Popen(
            [*COMMAND, "tap", "live.twice", "--json"], stdout=seen, stderr=said, env=flowctl.environment, cwd=flowctl.directory
        )
    flowctl.children.append(tap)  # pyright: ignore[reportArgumentType] - it prints bytes, into files

    def count() -> int:
        return (flowctl.directory / "seen").read_bytes().count(b"\n")

    until(lambda: count() > 10, "events")
    os.kill(int(flowctl.instances()["live.twice.0"]["handle"]), signal.SIGKILL)
    until(lambda: "is back: incarnation 2 at" in (flowctl.directory / "said").read_text(), "the tap to be back")
    before = count()
    until(lambda: count() > before + 10, "events of the next incarnation")
    tap.send_signal(signal.SIGINT)
    assert tap.wait(20) == 130
    assert "Traceback" not in (flowctl.directory / "said").read_text()


def test_a_reader_who_has_had_enough(flowctl: Flowctl):
    """A closed pipe ends the tap quietly."""
    running(flowctl, 100)
    tap = flowctl.start("tap", "live.numbers", "--json")
    assert tap.stdout is not None
    assert json.loads(tap.stdout.readline())["id"].startswith("numbers.0:")
    tap.stdout.close()
    assert tap.wait(20) == 0


def test_a_tap_ends_with_its_component(flowctl: Flowctl):
    """A finite pipeline that completes ends the tap with 0."""
    running(flowctl, 100, count=400)
    tap = flowctl.start("tap", "live.numbers", "--json")
    out, _ = tap.communicate(timeout=60)
    assert tap.returncode == 0
    assert '"numbers.0:399"' in out


def test_a_tap_that_never_reads_slows_nobody(flowctl: Flowctl):
    """At full speed, with a tap that is frozen: the stream goes on as fast as before and memory stays flat."""
    running(flowctl, 0)

    def sent() -> tuple[float, float]:
        live = flowctl.instances("live")["live.numbers.0"]["live"]
        return live["metrics"]["events_out_total"], time.monotonic() - live["heartbeat_age_s"]

    def rate_over(seconds: float) -> float:
        before, at = sent()
        after, later = until(lambda: found if (found := sent())[1] > at + seconds else None, "heartbeats", timeout_s=60)
        return (after - before) / (later - at)

    until(lambda: flowctl.instances("live")["live.numbers.0"]["live"], "a heartbeat")
    untapped = rate_over(4)
    source = psutil.Process(int(flowctl.instances()["live.numbers.0"]["handle"]))
    tap = flowctl.start("tap", "live.numbers", "--json", "--rate", "10000")
    assert tap.stdout is not None
    assert tap.stdout.readline()
    tap.send_signal(signal.SIGSTOP)
    time.sleep(1.0)
    before = source.memory_info().rss
    # The machine's own unrest is large; a stream that waited for the tap would stand still.
    assert rate_over(6) > untapped / 3
    assert source.memory_info().rss - before < 16 * 1024 * 1024
    tap.kill()
