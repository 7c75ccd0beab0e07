"""What a full edge does: block holds the source back with flat memory, drop gives events up, counts them and says so."""

import json
import signal
import time

import psutil

from flowctl.control.v1.control_pb2 import DIRECTION_OUT, WHEN_FULL_DROP, EdgeMetrics, GroupMetrics
from support.registry_fake import Node
from support.stream_fleet import Fleet, Stage, eventually

COUNT = 60_000


def last_groups(fleet: Fleet, component: str) -> dict[str, GroupMetrics]:
    """What the instance said last of its downstream components."""
    return {group.component: group for group in fleet.registry.known[component, 0].heartbeats[-1].groups}


def last_edges(fleet: Fleet, component: str) -> dict[str, EdgeMetrics]:
    """What the instance said last of the edges that it sends on, by peer."""
    edges = fleet.registry.known[component, 0].heartbeats[-1].edges
    return {edge.peer: edge for edge in edges if edge.direction == DIRECTION_OUT}


def warnings(fleet: Fleet, component: str) -> list[str]:
    """What the instance warned of drops."""
    entries = [json.loads(line) for line in fleet.log(component).splitlines() if line.startswith("{")]
    return [entry["message"] for entry in entries if entry["level"] == "warning" and "when_full: drop" in entry["message"]]


def test_a_slow_sink_with_drop_loses_exactly_what_is_counted(stage: Stage):
    """Beside a fast sink that blocks: the fast one gets everything, the source is not held back, the slow one's losses add up.

    Behind a processor, so that acknowledgements in order would hold the source back if the slow sink were waited for.
    """
    fleet = stage(
        numbers=Node("source"),
        same=Node("processor", ("numbers",)),
        fast=Node("sink", ("same",)),
        slow=Node("sink", ("same",), when_full=WHEN_FULL_DROP),
    )
    fleet.start("store", "slow", config={**stage.out("slow"), "pause_s": 1.0})
    fleet.start("store", "fast", config=stage.out("fast"))
    fleet.start("same", "same")
    fleet.start("numbers", "numbers", config={"count": COUNT})
    eventually(lambda: (stage.directory / "fast").exists() and len(stage.ids("fast")) >= COUNT, "all of it in the fast sink", 60)
    early = len(stage.ids("slow")) if (stage.directory / "slow").exists() else 0
    assert early < COUNT / 2, "the slow sink would have kept up: nothing was proved"
    for component in ("numbers", "same", "fast", "slow"):
        assert fleet.wait(component) == 0, fleet.log(component)[-3000:]
    group = last_groups(fleet, "same")["slow"]
    delivered = stage.ids("slow")
    assert group.dropped_total > 0
    assert len(delivered) == len(set(delivered)) == group.acked_total == COUNT - group.dropped_total
    assert (group.offered_total, group.in_flight) == (COUNT, 0)
    assert last_edges(fleet, "same")["slow.0"].dropped_total == group.dropped_total == fleet.totals("same")["dropped_total"]
    assert last_groups(fleet, "same")["fast"].dropped_total == 0
    assert fleet.registry.checkpoints["numbers", 0][-1][0] == COUNT - 1
    said = warnings(fleet, "same")
    assert 1 <= len(said) <= 4, said
    assert said[0].startswith("slow does not keep up and its input says when_full: drop")


def test_a_drop_input_that_keeps_up_loses_nothing(stage: Stage):
    """While its edge never fills, an input with drop gets everything, across a kill -9 of the sink too."""
    fleet = stage(numbers=Node("source"), store=Node("sink", ("numbers",), when_full=WHEN_FULL_DROP))
    fleet.start("store", "store", config=stage.out("out"))
    fleet.start("numbers", "numbers", config={"count": 5_000, "pause_s": 0.01, "burst": 50})
    eventually(lambda: (stage.directory / "out").exists() and len(stage.ids("out")) > 500, "events")
    fleet.kill("store")
    fleet.start("store", "store", config=stage.out("out"))
    assert fleet.wait("numbers") == fleet.wait("store") == 0
    assert set(stage.ids("out")) == {f"numbers.0:{n}" for n in range(5_000)}
    assert fleet.totals("numbers")["dropped_total"] == 0


def test_a_frozen_drop_sink_holds_nobody_up(stage: Stage):
    """SIGSTOP of a sink with drop: the other sink goes on getting everything, and the sender's memory stays flat."""
    fleet = stage(
        payloads=Node("source"), fast=Node("sink", ("payloads",)), frozen=Node("sink", ("payloads",), when_full=WHEN_FULL_DROP)
    )
    source = psutil.Process(fleet.start("payloads", "payloads", config={"count": 100_000_000, "size": 1_000}).pid)
    fleet.start("discard", "fast")
    fleet.start("discard", "frozen")
    eventually(lambda: fleet.totals("frozen").get("events_in_total", 0) > 1_000, "events in the sink to be frozen")
    fleet.running["frozen", 0].send_signal(signal.SIGSTOP)
    eventually(lambda: fleet.totals("payloads").get("dropped_total", 0) > 10_000, "drops")
    before, size = fleet.totals("fast").get("events_in_total", 0), source.memory_info().rss
    eventually(lambda: fleet.totals("fast").get("events_in_total", 0) > before + 200_000, "events in the other sink")
    assert source.memory_info().rss < size + 24 * 1024 * 1024
    fleet.running["frozen", 0].send_signal(signal.SIGCONT)


def test_one_event_a_second_holds_the_source_back_with_flat_memory(stage: Stage):
    """A blocking edge to a sink that takes an event a second: the source stops at the outboxes' bounds and nobody grows."""
    fleet = stage(payloads=Node("source"), same=Node("processor", ("payloads",)), slow=Node("sink", ("same",)))
    started = [
        fleet.start("payloads", "payloads", config={"count": 100_000_000, "size": 1_000}),
        fleet.start("same", "same"),
        fleet.start("crawl", "slow"),
    ]
    processes = [psutil.Process(process.pid) for process in started]
    outs: list[float] = []

    def stands_still() -> bool:
        outs.append(fleet.totals("payloads").get("events_out_total", 0))
        time.sleep(0.3)
        return outs[-1] > 0 and len(outs) > 5 and len(set(outs[-5:])) == 1

    eventually(stands_still, "a source that waits", 60)
    sizes = [process.memory_info().rss for process in processes]
    outs.clear()
    deadline = time.monotonic() + 5
    eventually(lambda: time.monotonic() > deadline, "five seconds of waiting")
    assert fleet.totals("payloads")["events_out_total"] <= 2 * (8_192 + 1_024)
    assert fleet.totals("payloads")["in_flight"] <= 8_192 + 1_024
    for process, size in zip(processes, sizes, strict=True):
        assert process.memory_info().rss < size + 4 * 1024 * 1024
        assert size < 200 * 1024 * 1024
    assert last_edges(fleet, "payloads")["same.0"].oldest_seconds > 3
