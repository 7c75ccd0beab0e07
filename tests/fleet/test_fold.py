"""The fold of the journal into a fleet: total, idempotent, the same whatever way it goes, fenced, and cheap."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl.fleet import HOST_LIFECYCLE, MAX_QUARANTINE, RUN_LIFECYCLE, Fleet
from flowctl.ids import InstanceId
from flowctl.instance import _FOLDS, Instance  # pyright: ignore[reportPrivateUsage] - its completeness is a rule
from flowctl.journal.events import (
    EVENT_TYPES,
    Aggregate,
    CheckpointCommitted,
    ComponentAssigned,
    ComponentDeregistered,
    ComponentEvent,
    ComponentExited,
    ComponentFailed,
    ComponentLettersRedriven,
    ComponentProbed,
    ComponentRedriveRequested,
    ComponentRegistered,
    ComponentStarted,
    ComponentStarting,
    ComponentStatusChanged,
    ComponentUnassigned,
    HostDrainCancelled,
    HostDrainRequested,
    HostJoined,
    HostLeft,
    HostLost,
    HostReconnected,
    HostRecovered,
    JournalEvent,
    PipelineScaled,
    PipelineStatusChanged,
    PipelineStopRequested,
    PipelineSubmitted,
    SealPlaced,
)
from flowctl.journal.log import Entry, Poison, Unknown
from flowctl.journal.subjects import TOKENS
from support.ledger import Ledger, component, linear

ONE = InstanceId("orders", "numbers", 0)
ASSIGNED = ComponentAssigned(host="h1", kind="source", driver="process", revision=1, component=component("numbers"))

small = st.integers(0, 4)
words = st.sampled_from(["", "a", "h1", "h2"])
statuses = st.sampled_from(["healthy", "unhealthy", "unknown"])
phases = st.sampled_from(["deploying", "running", "degraded", "stopping", "completed", "stopped", "failed"])

COMPONENT_EVENTS: dict[type[Any], st.SearchStrategy[Any]] = {
    ComponentAssigned: st.builds(
        ComponentAssigned,
        host=words,
        kind=st.just("source"),
        driver=st.just("process"),
        revision=small,
        component=st.just(component("numbers")),
    ),
    ComponentUnassigned: st.builds(ComponentUnassigned, reason=words),
    ComponentStarting: st.builds(ComponentStarting, host=words, incarnation=small, assignment=small),
    ComponentStarted: st.builds(ComponentStarted, host=words, incarnation=small, handle=words),
    ComponentRegistered: st.builds(ComponentRegistered, incarnation=small, kind=st.just("source"), boot_id=words, address=words),
    ComponentDeregistered: st.builds(
        ComponentDeregistered, incarnation=small, reason=st.sampled_from(["completed", "stopped", "failed"])
    ),
    ComponentStatusChanged: st.builds(
        ComponentStatusChanged, incarnation=small, status=statuses, previous=statuses, reason=words
    ),
    ComponentProbed: st.builds(ComponentProbed, incarnation=small, healthy=st.booleans()),
    ComponentExited: st.builds(ComponentExited, host=words, incarnation=small, assignment=small, code=st.none() | small),
    ComponentFailed: st.builds(ComponentFailed, host=words, assignment=small, reason=words),
    CheckpointCommitted: st.builds(CheckpointCommitted, incarnation=small, position=small),
    ComponentRedriveRequested: st.builds(ComponentRedriveRequested, letters=st.lists(small)),
    ComponentLettersRedriven: st.builds(
        ComponentLettersRedriven, incarnation=small, letters=st.lists(small), outcome=st.sampled_from(["delivered", "failed"])
    ),
}
PIPELINE_EVENTS: dict[type[Any], st.SearchStrategy[Any]] = {
    PipelineSubmitted: st.builds(
        PipelineSubmitted, revision=small, run=small, pipeline=st.sampled_from([linear(), linear(replicas=3)])
    ),
    PipelineScaled: st.builds(PipelineScaled, component=st.sampled_from(["numbers", "nobody"]), replicas=st.integers(-2, 10**15)),
    PipelineStopRequested: st.builds(PipelineStopRequested, reason=words),
    PipelineStatusChanged: st.builds(PipelineStatusChanged, status=phases, reason=words),
}
HOST_EVENTS: dict[type[Any], st.SearchStrategy[Any]] = {
    HostJoined: st.builds(HostJoined, agent=words, address=words, drivers=st.just(["process"])),
    HostLost: st.builds(HostLost, silence_s=st.floats(30, 40)),
    HostRecovered: st.just(HostRecovered()),
    HostReconnected: st.builds(HostReconnected, away_s=st.floats(0, 100)),
    HostLeft: st.builds(HostLeft, reason=words),
    HostDrainRequested: st.builds(HostDrainRequested, reason=words),
    HostDrainCancelled: st.just(HostDrainCancelled()),
}
SEAL_EVENTS: dict[type[Any], st.SearchStrategy[Any]] = {
    SealPlaced: st.builds(SealPlaced, upto=st.integers(0, 50), digest=words),
}
events = st.one_of(*COMPONENT_EVENTS.values(), *PIPELINE_EVENTS.values(), *HOST_EVENTS.values(), *SEAL_EVENTS.values())
aggregates = st.sampled_from(
    [
        None,
        Aggregate.of_instance(ONE),
        Aggregate.of_instance(InstanceId("orders", "double", 0)),
        Aggregate.of_pipeline("orders"),
        Aggregate.of_host("h1"),
        Aggregate.of_seals(),
    ]
)


@st.composite
def placed(draw: st.DrawFn) -> tuple[Aggregate | None, JournalEvent | Unknown | Poison]:
    """Mostly an event where it belongs; sometimes anything anywhere."""
    if draw(st.integers(0, 9)) == 0:
        return draw(aggregates), draw(events | st.just(Unknown("x")) | st.just(Poison("broken")))
    event = draw(events)
    where = {
        "component": Aggregate.of_instance(ONE),
        "pipeline": Aggregate.of_pipeline("orders"),
        "host": Aggregate.of_host("h1"),
        "seal": Aggregate.of_seals(),
    }
    return where[TOKENS[type(event)][0]], event


@st.composite
def journals(draw: st.DrawFn) -> list[Entry]:
    """Any entries in sequence, their times not always in order."""
    return [
        Entry(seq, draw(st.integers(1, 1000)), "subject", aggregate, event, hash=str(seq))
        for seq, (aggregate, event) in enumerate(draw(st.lists(placed(), max_size=40)), start=1)
    ]


def fold(entries: list[Entry], fleet: Fleet | None = None) -> Fleet:
    """The state after these entries."""
    fleet = fleet or Fleet()
    for entry in entries:
        fleet.apply(entry)
    return fleet


def check(fleet: Fleet) -> None:
    """What is true of every state."""
    assert sum(len(members) for members in fleet.members.values()) == len(fleet.instances)
    for id_, instance in fleet.instances.items():
        assert instance.id == id_
        assert any(instance is member for member in fleet.members[id_.pipeline])
        assert instance.phase
        assert instance.run in RUN_LIFECYCLE
        assert not (instance.status == "healthy" and not instance.active), "nothing that ended is healthy"
        assert not instance.address or instance.run == "running"
        assert instance.assignment is None or instance.assignment.seq <= fleet.seq
        assert instance.checkpoint is None or instance.checkpoint.incarnation > instance.run_floor
    for state in fleet.pipelines.values():
        assert 3 <= len(list(state.instance_ids())) <= 1_002
        assert state.run_seq <= state.submitted_seq
    for host in fleet.hosts.values():
        assert host.status in HOST_LIFECYCLE


@given(journals())
def test_any_journal_leaves_a_valid_state(entries: list[Entry]):
    """Whatever is written, in whatever order: the fold does not raise, and its state makes sense after each entry."""
    fleet = Fleet()
    for entry in entries:
        fleet.apply(entry)
        check(fleet)


@given(journals(), st.integers(0, 40))
def test_folding_again_or_in_parts_changes_nothing(entries: list[Entry], cut: int):
    """An entry counts once; a prefix and then the rest is the whole; the digest says so."""
    whole = fold(entries)
    digest = whole.digest()
    parts = fold(entries[cut:], fold(entries[:cut]))
    assert parts == whole
    assert parts.digest() == digest
    assert fold(entries, whole).digest() == digest


@given(journals())
def test_older_incarnations_and_assignments_are_history(entries: list[Entry]):
    """Nothing that a superseded incarnation or assignment says changes the instance."""
    fleet = fold(entries)
    fleet.instances.setdefault(ONE, Instance(ONE))
    instance = fleet.instances[ONE]
    instance.incarnation, seq = instance.incarnation + 5, fleet.seq
    before = Fleet(instances={ONE: instance}).digest()
    old = instance.incarnation - 1
    stale: list[ComponentEvent] = [
        ComponentStarting(host="h", incarnation=old, assignment=1),
        ComponentStarted(host="h", incarnation=old, handle="x"),
        ComponentRegistered(incarnation=old, kind="source", boot_id="z"),
        ComponentDeregistered(incarnation=old, reason="completed"),
        ComponentStatusChanged(incarnation=old, status="healthy", previous="unknown", reason="x"),
        ComponentProbed(incarnation=old, healthy=False),
        ComponentExited(host="h", incarnation=old, assignment=1),
        CheckpointCommitted(incarnation=old, position=99),
        ComponentFailed(host="h", assignment=seq + 99, reason="x"),
    ]
    kept = instance.seq, instance.since_ns
    for event in stale:
        fleet.apply(Entry(fleet.seq + 1, 1, "s", Aggregate.of_instance(ONE), event))
    instance.seq, instance.since_ns = kept
    assert Fleet(instances={ONE: instance}).digest() == before


def test_tables_are_complete():
    """Every event type has a fold, a strategy in these tests, and a place in the tables."""
    assert set(_FOLDS) == set(COMPONENT_EVENTS) == set(ComponentEvent.__args__)
    assert {*COMPONENT_EVENTS, *PIPELINE_EVENTS, *HOST_EVENTS, *SEAL_EVENTS} == set(EVENT_TYPES)
    for table in (RUN_LIFECYCLE, HOST_LIFECYCLE):
        assert {state for moves in table.values() for state in moves.values()} <= set(table)


def test_the_digest_does_not_depend_on_the_order_of_dictionaries():
    """The same state reached with other insertion orders has the same digest, and any difference shows."""
    ledger = Ledger()
    for name in ("b", "a"):
        ledger.write(InstanceId("p", name, 0), ASSIGNED)
    other = Fleet(seq=ledger.fleet.seq, time_ns=ledger.fleet.time_ns, journal_digest=ledger.fleet.journal_digest)
    other.add(ledger.fleet.instances[id_] for id_ in sorted(ledger.fleet.instances))
    other.heads = dict(sorted(ledger.fleet.heads.items()))
    digest = ledger.fleet.digest()
    assert other.digest() == digest
    other.instances[InstanceId("p", "a", 0)].restarts = 1
    assert other.digest() != digest


def running(ledger: Ledger) -> Instance:
    """An instance that was assigned, started and registered."""
    [assigned] = ledger.write(ONE, ASSIGNED)
    ledger.write(
        ONE,
        ComponentStarting(host="h1", incarnation=1, assignment=assigned.seq),
        ComponentStarted(host="h1", incarnation=1, handle="42"),
        ComponentRegistered(incarnation=1, kind="source", boot_id="b", address="x:1"),
    )
    return ledger.fleet.instances[ONE]


def test_a_late_registration_does_not_revive():
    """A repeated registration that arrives after the good-bye or the exit makes nothing healthy, nor undoes a completion."""
    ledger = Ledger()
    instance = running(ledger)
    again = ComponentRegistered(incarnation=1, kind="source", boot_id="b", address="x:1")
    ledger.write(ONE, ComponentDeregistered(incarnation=1, reason="completed"), again)
    assert (instance.completed, instance.status, instance.phase) == (True, "unknown", "completed")
    ledger.write(ONE, ComponentExited(host="h1", incarnation=1, assignment=1, code=0), again)
    ledger.write(ONE, ComponentStatusChanged(incarnation=1, status="healthy", previous="unknown", reason="x"))
    assert (instance.run, instance.status, instance.phase) == ("exited", "unknown", "completed")


def test_a_program_started_by_hand_may_come_back():
    """Whoever is assigned to nobody may end and register again under the same number, as another boot."""
    ledger = Ledger()
    ledger.write(ONE, ComponentRegistered(incarnation=1, kind="source", boot_id="b"))
    ledger.write(ONE, ComponentDeregistered(incarnation=1, reason="completed"))
    ledger.write(ONE, ComponentRegistered(incarnation=1, kind="source", boot_id="c"))
    assert ledger.fleet.instances[ONE].phase == "running"


def test_what_a_replaced_assignment_completes_does_not_count():
    """A changed component is to run even if its predecessor completes in the meantime."""
    ledger = Ledger()
    instance = running(ledger)
    ledger.write(ONE, ASSIGNED, ComponentDeregistered(incarnation=1, reason="completed"))
    assert not instance.completed
    assert instance.wanted


def test_a_new_run_forgets():
    """Checkpoints, completion, failure and assignment of the run before are history, and so is what its programs still say."""
    ledger = Ledger()
    ledger.write("orders", PipelineSubmitted(revision=1, pipeline=linear()))
    instance = running(ledger)
    ledger.write(ONE, CheckpointCommitted(incarnation=1, position=5))
    ledger.write("orders", PipelineSubmitted(revision=2, pipeline=linear()))
    assert instance.checkpoint is not None
    ledger.write("orders", PipelineSubmitted(revision=2, run=2, pipeline=linear()))
    ledger.write(ONE, CheckpointCommitted(incarnation=1, position=6))
    assert (instance.checkpoint, instance.assignment, instance.completed) == (None, None, False)
    assert ledger.fleet.pipelines["orders"].run_seq == ledger.entries[-2].seq


def test_what_is_left_of_an_earlier_run_serves_nobody():
    """A program of the run before that still runs is nobody's upstream in the new one, and completes nothing there."""
    ledger = Ledger()
    ledger.write("orders", PipelineSubmitted(revision=1, pipeline=linear()))
    instance = running(ledger)
    assert instance.address
    ledger.write("orders", PipelineSubmitted(revision=1, run=2, pipeline=linear()))
    assert (instance.outdated, instance.address) == (True, "")
    ledger.write(ONE, ComponentDeregistered(incarnation=1, reason="completed"))
    assert not instance.completed
    ledger.write(ONE, ASSIGNED, ComponentStarting(host="h1", incarnation=2, assignment=ledger.fleet.seq + 1))
    assert not instance.outdated


def test_a_checkpoint_never_goes_back():
    """Within an incarnation the fold keeps the furthest; the next incarnation may begin where it must."""
    ledger = Ledger()
    instance = running(ledger)
    ledger.write(ONE, CheckpointCommitted(incarnation=1, position=9), CheckpointCommitted(incarnation=1, position=4))
    assert instance.checkpoint is not None
    assert instance.checkpoint.position == 9
    ledger.write(ONE, ComponentStarting(host="h1", incarnation=2, assignment=1), CheckpointCommitted(incarnation=2, position=4))
    assert instance.checkpoint.position == 4


def test_the_quarantine_is_bounded():
    """A flood of poison is counted, and remembered only up to a limit."""
    fleet = Fleet()
    for seq in range(1, MAX_QUARANTINE + 100):
        fleet.apply(Entry(seq, 1, "x", None, Poison("broken")))
    assert fleet.poison_total == MAX_QUARANTINE + 99
    assert len(fleet.quarantine) == MAX_QUARANTINE


@pytest.mark.parametrize("instances", [1, 1_000])
def test_folding_is_cheap(instances: int):
    """A million entries must rebuild in a minute, decoding included: the fold itself takes a few microseconds an entry."""
    ids = [InstanceId("orders", "numbers", index) for index in range(instances)]
    entries: list[Entry] = []
    for round_ in range(1, 20_000 // (7 * instances) + 2):
        for id_ in ids:
            story: list[JournalEvent] = [
                ComponentStarting(host="h1", incarnation=round_, assignment=1),
                ComponentStarted(host="h1", incarnation=round_, handle="42"),
                ComponentRegistered(incarnation=round_, kind="source", boot_id="b", address="x:1"),
                *(CheckpointCommitted(incarnation=round_, position=position) for position in (1, 2, 3)),
                ComponentExited(host="h1", incarnation=round_, assignment=1, code=1),
            ]
            for event in story:
                entries.append(Entry(len(entries) + 1, len(entries), "s", Aggregate.of_instance(id_), event, hash="a" * 64))
    best = min(_seconds(entries) for _ in range(3)) / len(entries)
    assert best < 10e-6, f"{best * 1e6:.1f} µs an entry"


def _seconds(entries: list[Entry]) -> float:
    start = time.process_time()  # what else the machine does is not the fold's fault
    fold(entries)
    return time.process_time() - start


def test_redriven_letters_are_remembered_with_their_outcome():
    """What is to be redriven stays so over restarts until it is settled; settling what was not asked for changes nothing."""
    ledger = Ledger()
    ledger.write(ONE, ComponentRedriveRequested(letters=[7, 9, 12]))
    ledger.write(ONE, ComponentLettersRedriven(incarnation=1, letters=[9, 50], outcome="delivered"))
    ledger.write(ONE, ComponentLettersRedriven(incarnation=1, letters=[12], outcome="failed", error="ValueError: x"))
    instance = ledger.fleet.instances[ONE]
    assert (instance.redriving, instance.redriven) == ({7}, {9})
    ledger.write(ONE, ComponentRedriveRequested(letters=[9, 12]))
    assert (instance.redriving, instance.redriven) == ({7, 9, 12}, set())
