"""Whole pipelines of real processes: everything arrives, everything is acknowledged, everybody ends."""

from collections import Counter

from flowctl.partition import partition
from support.registry_fake import Node
from support.stream_fleet import Fleet, Stage


def all_end_well(fleet: Fleet, *names: str) -> None:
    for name in names:
        for component, index in [key for key in fleet.running if key[0] == name]:
            assert fleet.wait(component, index) == 0, fleet.log(component, index)[-3000:]
    assert all(reason == "completed" for _, reason, _ in fleet.registry.deregistered)


def test_linear(stage: Stage):
    """In a line every event arrives once, in order, with the id that its way gives it; the checkpoint is the last position."""
    fleet = stage(numbers=Node("source"), double=Node("processor", ("numbers",)), store=Node("sink", ("double",)))
    fleet.start("store", "store", config=stage.out("out"))
    fleet.start("double", "double")
    fleet.start("numbers", "numbers", config={"count": 10_000})
    all_end_well(fleet, "numbers", "double", "store")
    assert stage.ids("out") == [f"numbers.0:{n}/double.0" for n in range(10_000)]
    assert fleet.registry.checkpoints["numbers", 0][-1] == (9_999, b"")


def test_source_straight_to_sink(stage: Stage):
    """A sink may stand right behind a source, here a plain generator."""
    fleet = stage(lines=Node("source"), store=Node("sink", ("lines",)))
    fleet.start("lines", "lines", config={"count": 3_000})
    fleet.start("store", "store", config=stage.out("out"))
    all_end_well(fleet, "lines", "store")
    assert stage.ids("out") == [f"lines.0:{n}" for n in range(3_000)]


def test_fan_out_fan_in_and_filter(stage: Stage):
    """In a diamond each branch gets every event; the counters say in = out + filtered, exactly."""
    fleet = stage(
        numbers=Node("source"),
        even=Node("processor", ("numbers",)),
        twice=Node("processor", ("numbers",)),
        store=Node("sink", ("even", "twice")),
        other=Node("sink", ("even",)),
    )
    fleet.start("numbers", "numbers", config={"count": 5_000})
    fleet.start("even", "even")
    fleet.start("twice", "twice")
    fleet.start("store", "store", config=stage.out("out"))
    fleet.start("store", "other", config=stage.out("other"))
    all_end_well(fleet, "numbers", "even", "twice", "store", "other")
    expected = Counter([f"numbers.0:{n}/even.0" for n in range(0, 5_000, 2)])
    assert Counter(stage.ids("other")) == expected
    expected.update(f"numbers.0:{n}/twice.{k}" for n in range(5_000) for k in (0, 1))
    assert Counter(stage.ids("out")) == expected
    even = fleet.totals("even")
    assert (even["events_in_total"], even["events_out_total"], even["filtered_total"]) == (5_000, 2_500, 2_500)
    assert fleet.totals("twice")["events_out_total"] == 10_000
    assert fleet.totals("store")["events_in_total"] == 12_500


def test_two_sources(stage: Stage):
    """Events of two sources keep their own ids and orders through one processor."""
    fleet = stage(a=Node("source"), b=Node("source", (), 2), same=Node("processor", ("a", "b")), store=Node("sink", ("same",)))
    fleet.start("numbers", "a", config={"count": 2_000})
    fleet.start("numbers", "b", 0, config={"count": 1_000})
    fleet.start("numbers", "b", 1, config={"count": 500})
    fleet.start("same", "same")
    fleet.start("store", "store", config=stage.out("out"))
    all_end_well(fleet, "a", "b", "same", "store")
    ids = stage.ids("out")
    for origin, count in (("a.0", 2_000), ("b.0", 1_000), ("b.1", 500)):
        assert [i for i in ids if i.startswith(origin)] == [f"{origin}:{n}/same.0" for n in range(count)]


def test_replicas_share_by_key(stage: Stage):
    """With partition_by an event's key decides the replica, as the written definition says."""
    fleet = stage(
        numbers=Node("source"),
        same=Node("processor", ("numbers",), 3, "payload.key"),
        store=Node("sink", ("same",), 2, "payload.key"),
    )
    fleet.start("numbers", "numbers", config={"count": 6_000, "keys": 50})
    for index in range(3):
        fleet.start("same", "same", index)
    for index in range(2):
        fleet.start("store", "store", index, config=stage.out(f"out{index}"))
    all_end_well(fleet, "numbers", "same", "store")
    for index in range(2):
        positions = [int(i.split(":")[1].split("/")[0]) for i in stage.ids(f"out{index}")]
        assert set(positions) == {n for n in range(6_000) if partition(str(n % 50).encode(), 2) == index}
        for key in range(50):
            of_key = [position for position in positions if position % 50 == key]
            assert of_key == sorted(of_key)


def test_replicas_share_whole_batches(stage: Stage):
    """Without partition_by the replicas share the batches, and each event goes to one of them."""
    fleet = stage(numbers=Node("source"), same=Node("processor", ("numbers",), 2), store=Node("sink", ("same",)))
    fleet.start("numbers", "numbers", config={"count": 20_000})
    for index in range(2):
        fleet.start("slow_same", "same", index)
    fleet.start("store", "store", config=stage.out("out"))
    all_end_well(fleet, "numbers", "same", "store")
    assert Counter(stage.ids("out")) == Counter(f"numbers.0:{n}/same.0" for n in range(20_000))
    shares = [fleet.totals("same", index)["events_in_total"] for index in range(2)]
    assert sum(shares) == 20_000
    assert min(shares) > 2_000
