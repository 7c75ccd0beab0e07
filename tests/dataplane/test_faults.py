"""Whatever is killed, nothing is lost; whatever is slow or away, the rest behaves."""

import json
import signal
import time
import urllib.error
import urllib.request
from collections import Counter

import psutil
import pytest

from support.registry_fake import FakeRegistry, Node
from support.stream_fleet import Fleet, Stage, eventually

COUNT = 30_000
PACED: dict[str, object] = {"count": COUNT, "pause_s": 0.005, "burst": 100}


def line(stage: Stage) -> Fleet:
    fleet = stage(numbers=Node("source"), same=Node("processor", ("numbers",)), store=Node("sink", ("same",)))
    fleet.start("numbers", "numbers", config=PACED)
    fleet.start("same", "same")
    fleet.start("store", "store", config=stage.out("out"))
    return fleet


def stored(stage: Stage) -> int:
    path = stage.directory / "out"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def nothing_lost(stage: Stage, fleet: Fleet, count: int = COUNT) -> None:
    for component in ("numbers", "same", "store"):
        assert fleet.wait(component) == 0, fleet.log(component)[-3000:]
    assert set(stage.ids("out")) == {f"numbers.0:{n}/same.0" for n in range(count)}
    assert fleet.registry.checkpoints["numbers", 0][-1][0] == count - 1


@pytest.mark.parametrize("victim", ["numbers", "same", "store"])
def test_kill_nine(stage: Stage, victim: str):
    """kill -9 of a source, processor or sink, twice, and a start at the next incarnation: every event arrives."""
    fleet = line(stage)
    program = {"numbers": ("numbers", PACED), "same": ("same", None), "store": ("store", stage.out("out"))}[victim]
    for mark in (3_000, 8_000):
        eventually(lambda mark=mark: stored(stage) > mark, f"{mark} events in the sink")
        fleet.kill(victim)
        fleet.start(program[0], victim, config=program[1])
    nothing_lost(stage, fleet)


def test_relinks_quickly(stage: Stage):
    """Events flow again within a second after a killed processor has registered anew."""
    fleet = line(stage)
    eventually(lambda: stored(stage) > 2_000, "events in the sink")
    fleet.kill("same")
    before = stored(stage)
    fleet.start("same", "same")
    eventually(lambda: fleet.registry.known["same", 0].incarnation == 2, "the second incarnation")
    registered = time.monotonic()
    eventually(lambda: stored(stage) > before, "events again")
    assert time.monotonic() - registered < 1.0
    nothing_lost(stage, fleet)


def test_source_resumes(stage: Stage):
    """A source killed after a checkpoint starts behind it, not from the beginning."""
    fleet = line(stage)
    eventually(lambda: bool(fleet.registry.checkpoints.get(("numbers", 0))), "a checkpoint")
    fleet.kill("numbers")
    position = fleet.registry.checkpoints["numbers", 0][-1][0]
    assert position >= 0
    fleet.start("numbers", "numbers", config=PACED)
    nothing_lost(stage, fleet)
    assert fleet.totals("numbers")["events_out_total"] == COUNT - 1 - position


def test_registry_away(stage: Stage):
    """Data flows on while the registry is away, and the pipeline ends once it is back."""
    fleet = line(stage)
    eventually(lambda: stored(stage) > 1_000, "events in the sink")
    fleet.registry.pause()
    before = stored(stage)
    eventually(lambda: stored(stage) > before + 5_000, "events without a registry")
    fleet.registry.start()
    nothing_lost(stage, fleet)


def test_registry_forgets(stage: Stage):
    """An instance that the registry does not know any more registers again."""
    fleet = line(stage)
    eventually(lambda: bool(fleet.totals("same")), "a heartbeat")
    fleet.registry.forget("same", 0)
    eventually(lambda: [r.instance.component for r in fleet.registry.registrations].count("same") == 2, "a second registration")
    nothing_lost(stage, fleet)


def test_a_registry_that_lags_rolls_nothing_back(stage: Stage):
    """One that has read less of the journal does not know a new sink: that is passed over, and the sink's events are kept."""
    fleet = stage(numbers=Node("source"), store=Node("sink", ("numbers",)), other=Node("sink", ("numbers",)))
    fleet.start("store", "store", config=stage.out("out"))
    fleet.start("numbers", "numbers", config={"count": 3_000})
    eventually(lambda: stored(stage) == 3_000, "all events in the first sink")

    def lags(registry: FakeRegistry) -> None:
        registry.behind = 100
        registry.graph["other"].inputs = ()

    def is_back(registry: FakeRegistry) -> None:
        registry.behind = 0
        registry.graph["other"].inputs = ("numbers",)

    fleet.registry.update(lags)
    eventually(lambda: "registry that lags" in fleet.log("numbers"), "the old topology")
    fleet.registry.update(is_back)
    fleet.start("store", "other", config=stage.out("other"))
    assert fleet.wait("numbers") == fleet.wait("store") == fleet.wait("other") == 0
    assert len(set(stage.ids("other"))) == 3_000


def test_slow_sink_holds_the_source_back(stage: Stage):
    """A slow sink slows the source: what is in flight is bounded, and so is memory."""
    fleet = stage(payloads=Node("source"), same=Node("processor", ("payloads",)), store=Node("sink", ("same",)))
    source = fleet.start("payloads", "payloads", config={"count": 10_000_000, "size": 1_000})
    processor = fleet.start("same", "same")
    fleet.start("store", "store", config={**stage.out("out"), "pause_s": 0.2})
    eventually(lambda: fleet.totals("payloads").get("events_out_total", 0) > 30_000, "enough events", 60)
    totals = fleet.totals("payloads")
    assert totals["in_flight"] <= 8_192 + 1_024
    assert totals["events_out_total"] - stored(stage) < 8_192 * 2
    for process in (source, processor):
        assert psutil.Process(process.pid).memory_info().rss < 150 * 1024 * 1024


def test_sigterm_drains(stage: Stage):
    """SIGTERM to all, sources first: what was emitted is stored and checkpointed, everybody says stopped and exits 0."""
    fleet = line(stage)
    eventually(lambda: stored(stage) > 2_000, "events in the sink")
    for component in ("numbers", "same", "store"):
        fleet.running[component, 0].send_signal(signal.SIGTERM)
        assert fleet.wait(component, timeout_s=10) == 0
    assert [reason for _, reason, _ in fleet.registry.deregistered] == ["stopped"] * 3
    emitted = int(fleet.totals("numbers")["events_out_total"])
    assert emitted < COUNT
    assert Counter(stage.ids("out")) == Counter(f"numbers.0:{n}/same.0" for n in range(emitted))
    assert fleet.registry.checkpoints["numbers", 0][-1][0] == emitted - 1


def test_a_restart_in_good_order_doubles_nothing(stage: Stage):
    """SIGTERM to a processor and to the sink while events flow, and a new start: no acknowledgement is lost with a stream."""
    fleet = line(stage)
    for component in ("same", "store", "same", "store"):
        goal = stored(stage) + 500
        eventually(lambda goal=goal: stored(stage) > goal, "events in the sink")
        fleet.running[component, 0].send_signal(signal.SIGTERM)
        assert fleet.wait(component, timeout_s=10) == 0
        fleet.start(component, component, config=stage.out("out"))
    nothing_lost(stage, fleet)
    assert len(stage.ids("out")) == COUNT


def scaled_pair(stage: Stage, *, keeps_leaving: bool, count: int = COUNT, pause_s: float = 0.0) -> Fleet:
    """Two replicas by key with events under way, the second of which was scaled away and asked to stop."""
    fleet = stage(numbers=Node("source"), same=Node("processor", ("numbers",), 2, "payload.key"), store=Node("sink", ("same",)))
    fleet.registry.keeps_leaving = keeps_leaving
    fleet.start("numbers", "numbers", config={**PACED, "count": count})
    fleet.start("same", "same", 0)
    fleet.start("same", "same", 1, FLOWCTL_STOP_TIMEOUT_S="60")
    fleet.start("store", "store", config={**stage.out("out"), "pause_s": pause_s})
    eventually(lambda: stored(stage) > min(2_000, count // 10), "events in the sink")

    def change(registry: FakeRegistry) -> None:
        registry.graph["same"].replicas = 1

    fleet.registry.update(change)
    fleet.running["same", 1].send_signal(signal.SIGTERM)
    return fleet


def test_scaled_away_hands_over(stage: Stage):
    """A replica that is scaled away works off what it was given, and nobody gets that again."""
    fleet = scaled_pair(stage, keeps_leaving=True)
    assert fleet.wait("same", 1, timeout_s=10) == 0
    nothing_lost(stage, fleet)
    assert len(stage.ids("out")) == COUNT


def test_scaled_away_with_nobody_left_to_acknowledge(stage: Stage):
    """Its downstreams have left it already: it does not wait for them, and others get what it had."""
    fleet = scaled_pair(stage, keeps_leaving=False, count=12_000, pause_s=1.0)
    assert fleet.wait("same", 1, timeout_s=10) == 0
    assert "not acknowledged; they will be sent again" in fleet.log("same", 1)
    nothing_lost(stage, fleet, 12_000)


def test_a_component_that_the_file_has_no_longer_acknowledges_nothing(stage: Stage):
    """It hears first that nobody is below it: its upstream keeps everything, and gives it to those that come in its place.

    Asked to stop, it does not wait for what nobody will acknowledge.
    """
    fleet = stage(numbers=Node("source"), same=Node("processor", ("numbers",)), store=Node("sink", ("same",)))
    fleet.start("same", "same")
    fleet.start("numbers", "numbers", config={"count": 10_000})
    eventually(lambda: fleet.totals("same").get("events_out_total", 0) > 8_000, "outputs that nobody acknowledges")

    def unread(registry: FakeRegistry) -> None:
        registry.graph["store"].inputs = ()

    def replaced(registry: FakeRegistry) -> None:
        registry.graph["store"].inputs = ("numbers",)
        registry.graph["same"].inputs = ()

    fleet.registry.update(unread)
    eventually(lambda: not fleet.registry.known["same", 0].heartbeats[-1].groups, "a heartbeat after the change")
    time.sleep(1.5)
    assert not fleet.registry.checkpoints.get(("numbers", 0))
    fleet.registry.update(replaced)
    asked = time.monotonic()
    fleet.running["same", 0].send_signal(signal.SIGTERM)
    assert fleet.wait("same") == 0
    assert time.monotonic() - asked < 4
    fleet.start("store", "store", config=stage.out("out"))
    assert fleet.wait("numbers") == fleet.wait("store") == 0
    assert sorted(stage.ids("out")) == sorted(f"numbers.0:{n}" for n in range(10_000))


def test_a_source_that_the_file_has_no_longer_stops_at_once(stage: Stage):
    """It waits for no acknowledgement, since none can come, and its checkpoint stays where it was."""
    fleet = stage(numbers=Node("source"), store=Node("sink", ("numbers",)))
    fleet.start("numbers", "numbers", config={"count": 100_000, "pause_s": 0.01, "burst": 50})
    eventually(lambda: fleet.totals("numbers").get("events_out_total", 0) > 200, "events that nobody acknowledges")

    def unread(registry: FakeRegistry) -> None:
        registry.graph["store"].inputs = ()

    fleet.registry.update(unread)
    asked = time.monotonic()
    fleet.running["numbers", 0].send_signal(signal.SIGTERM)
    assert fleet.wait("numbers") == 0
    assert time.monotonic() - asked < 4
    assert not fleet.registry.checkpoints.get(("numbers", 0))


def test_sigterm_has_a_deadline(stage: Stage):
    """A source whose events nobody acknowledges still ends within its stop timeout, and commits nothing that is not safe."""
    fleet = stage(numbers=Node("source"), store=Node("sink", ("numbers",)))
    fleet.start("numbers", "numbers", config={"count": 1_000_000}, FLOWCTL_STOP_TIMEOUT_S="1")
    eventually(lambda: fleet.totals("numbers").get("in_flight", 0) > 1_000, "a full outbox")
    fleet.running["numbers", 0].send_signal(signal.SIGTERM)
    assert fleet.wait("numbers", timeout_s=5) == 0
    assert not fleet.registry.checkpoints
    assert "not acknowledged; they will be sent again" in fleet.log("numbers")


def test_failing_event_ends_the_instance(stage: Stage):
    """on_error fail: one clear line with the event's id and the error, Deregister(FAILED), exit 1."""
    fleet = stage(numbers=Node("source"), fails=Node("processor", ("numbers",)), store=Node("sink", ("fails",)))
    fleet.start("numbers", "numbers", config={"count": 10})
    fleet.start("fails", "fails", config={"at": 7})
    fleet.start("store", "store", config=stage.out("out"))
    assert fleet.wait("fails") == 1
    detail = "event numbers.0:7 failed: ValueError: seven is right out"
    assert (("fails", 0), "failed", detail) in fleet.registry.deregistered
    errors = [entry for entry in map(json.loads, fleet.log("fails").splitlines()) if entry["level"] == "error"]
    assert [entry["message"] for entry in errors] == [detail]


def test_failing_event_is_tried_again(stage: Stage):
    """on_error retry: the event is tried again with back-off, and everything arrives."""
    fleet = stage(numbers=Node("source"), fails=Node("processor", ("numbers",)), store=Node("sink", ("fails",)))
    fleet.start("numbers", "numbers", config={"count": 10})
    on_error = {"action": "retry", "attempts": 3, "backoff": {"initial_s": 0.01}}
    fleet.start("fails", "fails", config={"at": 7, "times": 3}, FLOWCTL_ON_ERROR=json.dumps(on_error))
    fleet.start("store", "store", config=stage.out("out"))
    assert [fleet.wait(component) for component in ("numbers", "fails", "store")] == [0, 0, 0]
    assert stage.ids("out") == [f"numbers.0:{n}/fails.0" for n in range(10)]
    assert fleet.totals("fails")["errors_total"] == 3


def test_event_too_large(stage: Stage):
    """An event that does not fit into a message fails its source, naming size and limit; one just below passes."""
    limit = 4 * 1024 * 1024
    fleet = stage(payloads=Node("source"), store=Node("sink", ("payloads",)))
    fleet.start("payloads", "payloads", config={"count": 3, "size": limit - 200})
    fleet.start("store", "store", config=stage.out("out"))
    assert fleet.wait("payloads") == 0
    assert fleet.wait("store") == 0
    assert len(stage.ids("out")) == 3

    fleet = stage(payloads=Node("source"), store=Node("sink", ("payloads",)))
    fleet.start("payloads", "payloads", config={"count": 3, "size": limit})
    assert fleet.wait("payloads") == 1
    assert "event payloads.0:0 is too large: 4,194,3" in fleet.log("payloads")
    assert "4,194,304" in fleet.log("payloads")


def test_superseded(stage: Stage):
    """An instance whose newer incarnation has registered ends with 75 and deregisters nothing."""
    fleet = line(stage)
    eventually(lambda: stored(stage) > 500, "events in the sink")
    older = fleet.running["same", 0]
    fleet.start("same", "same")
    assert older.wait(10) == 75
    nothing_lost(stage, fleet)
    assert [key for key, _, _ in fleet.registry.deregistered].count(("same", 0)) == 1


def test_scale_down_and_up(stage: Stage):
    """A replica that leaves the topology leaves its unacknowledged events to the others; one that joins gets its share."""
    fleet = stage(numbers=Node("source"), same=Node("processor", ("numbers",), 2, "payload.key"), store=Node("sink", ("same",)))
    fleet.start("numbers", "numbers", config=PACED)
    fleet.start("same", "same", 0)
    fleet.start("same", "same", 1)
    fleet.start("store", "store", config=stage.out("out"))
    eventually(lambda: stored(stage) > 2_000, "events in the sink")
    fleet.kill("same", 1)
    eventually(lambda: stored(stage) > 2_500, "some more")

    def replicas(count: int) -> None:
        def change(registry: FakeRegistry) -> None:
            registry.graph["same"].replicas = count

        fleet.registry.update(change)

    replicas(1)
    before = stored(stage)
    eventually(lambda: stored(stage) > before + 3_000, "everything through the one that is left")
    replicas(3)
    fleet.start("same", "same", 1)
    fleet.start("same", "same", 2)
    for index in range(3):
        assert fleet.wait("same", index) == 0, fleet.log("same", index)[-2000:]
    nothing_lost(stage, fleet)
    assert fleet.totals("same", 2)["events_in_total"] > 0


def test_a_frozen_upstream(stage: Stage):
    """An upstream that hangs (SIGSTOP) is noticed within seconds although nothing was closed; after SIGCONT all goes on."""
    fleet = line(stage)
    eventually(lambda: stored(stage) > 1_000, "events in the sink")
    fleet.running["numbers", 0].send_signal(signal.SIGSTOP)
    eventually(lambda: "stream to numbers.0 ended" in fleet.log("same"), "the cut", 20)
    fleet.running["numbers", 0].send_signal(signal.SIGCONT)
    nothing_lost(stage, fleet)


@pytest.mark.parametrize("frozen", ["same", "store"])
def test_a_frozen_downstream(stage: Stage, frozen: str):
    """Behind a neighbour that hangs events wait, bounded; after SIGCONT all goes on and each arrives once."""
    fleet = line(stage)
    eventually(lambda: stored(stage) > 1_000, "events in the sink")
    fleet.running[frozen, 0].send_signal(signal.SIGSTOP)
    before = stored(stage)
    eventually(lambda: fleet.totals("numbers").get("in_flight", 0) > 4_000, "events that wait")
    # What had left the frozen one, or was in the sink already, may still be written.
    assert stored(stage) <= before + 8_192
    fleet.running[frozen, 0].send_signal(signal.SIGCONT)
    nothing_lost(stage, fleet)
    assert len(stage.ids("out")) == COUNT


def test_health_and_metrics(stage: Stage):
    """/health and /ready say 200 once registered and open; /metrics has the counters; nonsense is answered, not fatal."""
    fleet = line(stage)
    eventually(lambda: stored(stage) > 100, "events in the sink")
    health = next(r.health_endpoint for r in fleet.registry.registrations if r.instance.component == "same")
    for path in ("health", "ready"):
        with urllib.request.urlopen(f"http://{health}/{path}", timeout=5) as answer:
            assert answer.status == 200
    with urllib.request.urlopen(f"http://{health}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    assert 'flowctl_events_in_total{component="same.0"}' in text
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://{health}/nonsense", timeout=5)
