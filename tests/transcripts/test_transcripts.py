"""Recorded incidents: put an exported journal (and the settings that it ran with, ``<name>.json``) into this folder, and what was
decided then is decided again in every test run."""

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from flowctl import api
from flowctl.fleet import Fleet
from flowctl.ids import InstanceId
from flowctl.journal.events import (
    ComponentAssigned,
    ComponentExited,
    ComponentStarting,
    ComponentStatusChanged,
    HostLost,
    PipelineStopRequested,
)
from flowctl.journal.heartbeats import ServiceBeat, StoredBeat
from flowctl.journal.log import Entry
from flowctl_cli.replaying import sources
from flowctl_cli.replaying.replay import replay
from flowctl_cli.replaying.report import Report
from flowctl_cli.replaying.timeline import merged
from flowctl_health.decide import Patience

HERE = Path(__file__).parent
BUNDLES = sorted(HERE.glob("*.zip"))
TOLERANCE_S = 2.5


def patience_of(bundle: Path) -> Patience:
    """As the services were set then."""
    beside = bundle.with_suffix(".json")
    settings: dict[str, float] = json.loads(beside.read_text()) if beside.exists() else {}
    return Patience.of(settings.get("silence_s", 30.0), settings.get("host_silence_s"))


async def events_of(bundle: Path) -> tuple[list[Entry], list[StoredBeat]]:
    """What a bundle holds."""
    entries: list[Entry] = []
    beats: list[StoredBeat] = []
    async with sources.of_file(bundle) as recording:
        async for each in recording.events:
            if isinstance(each, StoredBeat):
                beats.append(each)
            else:
                entries.append(each)
    return entries, beats


async def again(
    entries: Sequence[Entry],
    beats: Sequence[StoredBeat],
    patience: Patience,
    *,
    what_if: bool = False,
    tolerance_s: float = TOLERANCE_S,
) -> Report:
    """The decisions over these, once more."""

    async def each(items: Sequence[Entry] | Sequence[StoredBeat]) -> AsyncIterator[Entry | StoredBeat]:
        for item in items:
            yield item

    events = merged(each(entries), each(beats))  # pyright: ignore[reportArgumentType] - each yields what it was given
    changed = {"silence_s": patience.instance_s} if what_if else {}
    return await replay(Fleet(), events, patience, tolerance_s=tolerance_s, changed=changed)


def at(entries: Sequence[Entry], kind: type, number: int = 0) -> int:
    """The place of the entry of that type."""
    return [place for place, entry in enumerate(entries) if isinstance(entry.event, kind)][number]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.stem)
async def test_the_same_is_decided_again(bundle: Path):
    """Every decision of health monitor, orchestrator and agents follows again from what was recorded."""
    async with sources.of_file(bundle) as recording:
        report = await replay(recording.fleet, recording.events, patience_of(bundle), tolerance_s=TOLERANCE_S, changed={})
    assert report.differences == []
    assert sum(count.recorded for count in report.decisions.values()) > 10
    assert all(count.same == count.recorded for count in report.decisions.values())


def test_the_recordings_hold_what_they_are_named_for():
    """A crash with its restarts, a silence, a host that was lost."""
    assert {bundle.stem for bundle in BUNDLES} >= {"crash", "silence", "host-lost"}


async def test_another_placement_is_the_first_difference():
    """A host that the placement does not give: shown with both versions and its sequence."""
    bundle = HERE / "crash.zip"
    entries, beats = await events_of(bundle)
    place = at(entries, ComponentAssigned, 1)
    event = entries[place].event
    assert isinstance(event, ComponentAssigned)
    entries[place] = msgspec.structs.replace(entries[place], event=msgspec.structs.replace(event, host="h9"))
    first = (await again(entries, beats, patience_of(bundle))).differences[0]
    assert (first.service, first.seq) == ("orchestrator", entries[place].seq)
    assert first.recorded is not None
    assert first.recorded["host"] == "h9"
    assert first.decided is not None
    assert first.decided["host"] == "h1"


async def test_a_back_off_that_the_policy_does_not_give_is_a_difference():
    """Within the jitter it is none."""
    bundle = HERE / "crash.zip"
    entries, beats = await events_of(bundle)
    place = at(entries, ComponentExited)
    event = entries[place].event
    assert isinstance(event, ComponentExited)
    assert event.restart_in_s is not None
    within = msgspec.structs.replace(event, restart_in_s=round(event.restart_in_s * 1.01, 3))
    beyond = msgspec.structs.replace(event, restart_in_s=event.restart_in_s * 3)
    for changed, expected in ((within, []), (beyond, [entries[place].seq])):
        entries[place] = msgspec.structs.replace(entries[place], event=changed)
        report = await again(entries, beats, patience_of(bundle))
        assert [each.seq for each in report.differences if each.service == "agent" and each.seq == entries[place].seq] == expected


async def test_a_start_before_its_time_is_a_difference():
    """An agent that does not wait for the back-off."""
    bundle = HERE / "crash.zip"
    entries, beats = await events_of(bundle)
    exited, started = at(entries, ComponentExited), at(entries, ComponentStarting, 3)
    entries[started] = msgspec.structs.replace(entries[started], time_ns=entries[exited].time_ns)
    report = await again(entries, beats, patience_of(bundle))
    found = [each for each in report.differences if each.seq == entries[started].seq]
    assert [each.service for each in found] == ["agent"]
    assert "it would still wait for restart in" in found[0].why


async def test_a_verdict_that_was_left_out_is_a_difference():
    """A monitor that had seen the silence and said nothing. (It ended soon: a tolerance that is longer forgives it.)"""
    bundle = HERE / "silence.zip"
    entries, beats = await events_of(bundle)
    kept = [entry for entry in entries if not isinstance(entry.event, ComponentStatusChanged)]
    report = await again(kept, beats, patience_of(bundle), tolerance_s=0.5)
    health = [each for each in report.differences if each.service == "health"]
    assert [each.recorded for each in health] == [None, None]
    assert [each.decided and each.decided["status"] for each in health] == ["unhealthy", "healthy"]


async def test_what_no_monitor_lived_to_see_is_no_difference():
    """Its own signs of life are somebody else's then, and with them the verdict is gone."""
    bundle = HERE / "silence.zip"
    entries, beats = await events_of(bundle)
    kept = [entry for entry in entries if not isinstance(entry.event, ComponentStatusChanged)]
    other = ServiceBeat("somebody", "else")
    is_monitor = [isinstance(each.beat, ServiceBeat) and each.beat.service == api.HEALTH for each in beats]
    unwatched = [
        msgspec.structs.replace(each, beat=other) if monitor else each for each, monitor in zip(beats, is_monitor, strict=True)
    ]
    assert unwatched != beats
    report = await again(kept, unwatched, patience_of(bundle), tolerance_s=0.5)
    assert [each for each in report.differences if each.service == "health"] == []


async def test_a_plan_that_nobody_carried_out_is_a_difference():
    """An orchestrator that never placed one of the instances while the pipeline was to run."""
    bundle = HERE / "crash.zip"
    entries, beats = await events_of(bundle)
    left = entries[at(entries, ComponentAssigned, 1)].aggregate
    running = entries[: at(entries, PipelineStopRequested)]
    report = await again([each for each in running if each.aggregate != left], beats, patience_of(bundle))
    found = [each for each in report.differences if each.subject == str(left) and each.service == "orchestrator"]
    assert [each.why for each in found] == ["it follows now, and was never recorded"]
    assert [each.decided and each.decided["type"] for each in found] == ["ComponentAssigned"]


async def test_a_verdict_without_a_silence_is_a_difference():
    """A monitor that marks who is heard."""
    bundle = HERE / "silence.zip"
    entries, beats = await events_of(bundle)
    place = at(entries, ComponentStatusChanged)
    spoken = [
        StoredBeat(each.seq, each.time_ns, each.beat) for each in beats if each.time_ns < entries[place].time_ns - 1_000_000_000
    ]
    event = entries[place].event
    assert isinstance(event, ComponentStatusChanged)
    hasty = msgspec.structs.replace(event, silence_s=1.0)
    early = msgspec.structs.replace(entries[place], time_ns=spoken[-1].time_ns - 4_000_000_000, event=hasty)
    report = await again([*entries[:place], early], spoken, patience_of(bundle))
    first = report.differences[0]
    assert (first.service, first.seq, first.decided) == ("health", entries[place].seq, None)


async def test_what_if_patience_were_shorter_or_longer():
    """The verdict comes earlier by as much, with what follows of it; or it does not come at all."""
    bundle = HERE / "silence.zip"
    entries, beats = await events_of(bundle)
    shorter = await again(entries, beats, Patience.of(2.5, 8.0), what_if=True)
    first = shorter.differences[0]
    assert (first.service, first.subject) == ("health", "orders.keep.0")
    assert first.decided_time_ns is not None
    assert 3.0 < (first.time_ns - first.decided_time_ns) / 1e9 < 4.0
    assert first.why.endswith("earlier now")
    assert any("status degraded" in line for line in first.then)
    longer = await again(entries, beats, Patience.of(60.0, 60.0), what_if=True)
    assert [each.decided for each in longer.differences if each.service == "health"] == [None, None]


async def test_where_heartbeats_are_gone_the_evidence_in_the_entries_counts():
    """It gives the same verdicts, is held against another patience, and the report says so."""
    bundle = HERE / "host-lost.zip"
    entries, _ = await events_of(bundle)
    report = await again(entries, [], patience_of(bundle))
    assert report.differences == []
    assert any("heartbeats of this time are gone" in text for text in report.notes)
    longer = await again(entries, [], Patience.of(60.0), what_if=True)
    assert entries[at(entries, HostLost)].seq in [each.seq for each in longer.differences if each.service == "health"]


async def test_the_recordings_name_no_place():
    """What is committed says nothing of the machine that it was made on."""
    for bundle in BUNDLES:
        entries, _ = await events_of(bundle)
        text = b"".join(entry.data for entry in entries)
        assert b"/work/" not in text
        assert b"/home/" not in text
        assert any(entry.aggregate is not None and entry.aggregate.kind == "component" for entry in entries)
        assert InstanceId("orders", "double", 0) in {
            entry.aggregate.instance for entry in entries if entry.aggregate is not None and entry.aggregate.kind == "component"
        }
