"""Windows in real processes: nothing is lost, they end when nothing follows, and after a crash they are cut as before."""

import json
import signal
from pathlib import Path

import pytest

from support.registry_fake import Node
from support.stream_fleet import Fleet, Stage, eventually


def windows(path: Path) -> dict[str, list[int]]:
    """The windows in a store's file by their id; a window that came twice must have been the same."""
    found: dict[str, list[int]] = {}
    for line in path.read_bytes().splitlines():
        name, _, payload = line.partition(b" ")
        numbers = json.loads(payload)["n"]
        assert found.setdefault(name.decode(), numbers) == numbers
    return found


def tens(stage: Stage) -> Fleet:
    return stage(numbers=Node("source"), tens=Node("processor", ("numbers",)), store=Node("sink", ("tens",)))


def test_windows_by_count(stage: Stage):
    """Ten by ten, the last one shorter because the stream ends; each has the id of its last event; the counters add up."""
    fleet = tens(stage)
    fleet.start("store", "store", config=stage.out("out"))
    fleet.start("tens", "tens")
    fleet.start("numbers", "numbers", config={"count": 10_004})
    for name in ("numbers", "tens", "store"):
        assert fleet.wait(name) == 0, fleet.log(name)[-3000:]
    found = windows(stage.directory / "out")
    expected = {f"numbers.0:{n + 9}/tens.0": list(range(n, n + 10)) for n in range(0, 10_000, 10)}
    assert found == {**expected, "numbers.0:10003/tens.0": [10_000, 10_001, 10_002, 10_003]}
    totals = fleet.totals("tens")
    assert (totals["events_in_total"], totals["events_out_total"], totals["in_hand"]) == (10_004, 1_001, 0)
    assert totals["filtered_total"] + totals["processed_total"] == 10_004


@pytest.mark.parametrize("victim", ["tens", "store"])
def test_a_crash_replays_the_unfinished_window(stage: Stage, victim: str):
    """kill -9 of the processor or of who takes the windows, three times: every event is in one, and they are cut as before."""
    fleet = tens(stage)
    fleet.start("store", "store", config=stage.out("out"))
    fleet.start("tens", "tens")
    fleet.start("numbers", "numbers", config={"count": 3_000, "pause_s": 0.01, "burst": 7})
    stored = 0
    for _ in range(3):
        path = stage.directory / "out"
        eventually(lambda floor=stored, path=path: path.exists() and len(path.read_bytes().splitlines()) > floor + 20, "windows")
        stored = len(path.read_bytes().splitlines())
        fleet.kill(victim)
        fleet.start(victim, victim, config=stage.out("out"))
    for name in ("numbers", "tens", "store"):
        assert fleet.wait(name) == 0, fleet.log(name)[-3000:]
    assert windows(stage.directory / "out") == {f"numbers.0:{n + 9}/tens.0": list(range(n, n + 10)) for n in range(0, 3_000, 10)}


def test_windows_by_time(stage: Stage):
    """A window ends when its time is over, though it could hold more; together they have every event."""
    fleet = stage(numbers=Node("source"), moments=Node("processor", ("numbers",)), store=Node("sink", ("moments",)))
    fleet.start("store", "store", config=stage.out("out"))
    fleet.start("moments", "moments")
    fleet.start("numbers", "numbers", config={"count": 1_000, "pause_s": 0.1, "burst": 100})
    for name in ("numbers", "moments", "store"):
        assert fleet.wait(name) == 0, fleet.log(name)[-3000:]
    sizes = [json.loads(line.partition(b" ")[2])["n"] for line in (stage.directory / "out").read_bytes().splitlines()]
    assert sum(sizes) == 1_000
    assert len(sizes) > 2


def test_an_open_window_is_finished_when_asked_to_stop(stage: Stage):
    """SIGTERM: what has been received goes on as a shorter window before the instance ends."""
    fleet = tens(stage)
    fleet.start("store", "store", config=stage.out("out"))
    process = fleet.start("tens", "tens")
    fleet.start("numbers", "numbers", config={"count": 100, "pause_s": 4, "burst": 24})
    path = stage.directory / "out"
    eventually(lambda: path.exists() and len(path.read_bytes().splitlines()) == 2, "two windows")
    process.send_signal(signal.SIGTERM)
    assert fleet.wait("tens") == 0, fleet.log("tens")[-3000:]
    assert windows(path)["numbers.0:24/tens.0"] == [20, 21, 22, 23, 24]


def test_a_window_that_cannot_be_kept_is_refused(stage: Stage):
    """More events than an upstream may keep: exit code 2 and a sentence with the limit."""
    fleet = stage(numbers=Node("source"), many=Node("processor", ("numbers",)), store=Node("sink", ("many",)))
    fleet.start("too_many", "many")
    assert fleet.wait("many") == 2
    assert "Window(count=5000): a window has 1 to 4,096 events" in fleet.log("many")
