"""Which entries made something what it is: its own latest ones, and what each of them came of. Pure.

A chain is found by walking: ``entries_of_instance`` and its likes say where to begin, ``missing`` which entries are to be fetched
next, until none is. Each entry then is a ``Step``: a sentence, and the rule by which it was decided.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from flowctl.fleet import Fleet, Instance, PipelineState
from flowctl.ids import InstanceId
from flowctl.journal.events import (
    ComponentAssigned,
    ComponentDeregistered,
    ComponentExited,
    ComponentFailed,
    ComponentProbed,
    ComponentRegistered,
    ComponentStarted,
    ComponentStarting,
    ComponentStatusChanged,
    ComponentUnassigned,
    HostLost,
    JournalEvent,
    PipelineStatusChanged,
)
from flowctl.journal.log import Entry
from flowctl.journal.subjects import JOURNAL_ROOT, TOKENS
from flowctl.sentences import sentence
from flowctl.spec.model import Component

MAX_STEPS: Final = 60
"""A longer chain is cut; nothing that flowctl does makes one."""

TELLING: Final[tuple[type[JournalEvent], ...]] = (
    ComponentAssigned,
    ComponentUnassigned,
    ComponentStarting,
    ComponentStarted,
    ComponentRegistered,
    ComponentDeregistered,
    ComponentStatusChanged,
    ComponentProbed,
    ComponentExited,
    ComponentFailed,
)
"""The entries of an instance that change its state; checkpoints, of which there may be a million, do not."""

_OF_AN_INCARNATION = (
    ComponentStarting,
    ComponentStarted,
    ComponentRegistered,
    ComponentDeregistered,
    ComponentStatusChanged,
    ComponentProbed,
    ComponentExited,
)
_PIPELINE_RULES: Final = {
    "running": "a pipeline runs when every instance is registered and healthy",
    "degraded": "a running pipeline is degraded while an instance is not as it should be",
    "stopping": "it was asked to end: sources first, and whoever reads from them when they are gone",
    "stopped": "it was asked to end, and nothing of it runs any more",
    "completed": "a pipeline is complete when every instance has nothing more to do",
    "failed": "a pipeline fails when an instance does for good",
}


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a chain. ``rule`` is by which it was decided, empty if there is nothing to say."""

    seq: int
    time_ns: int
    type: str
    actor: str
    correlation: str
    causation: int
    sentence: str
    rule: str = ""


def subjects_of_instance(instance: InstanceId) -> tuple[str, ...]:
    """Where to read an instance's telling entries: NATS subjects."""
    return tuple(f"{JOURNAL_ROOT}.component.{instance}.{TOKENS[event][1]}" for event in TELLING)


def begin_of(instance: Instance) -> int:
    """The entry with which the instance's present state begins: no telling entry before it matters but as a cause."""
    assigned = instance.assignment or instance.withdrawn
    begin = assigned.seq if assigned is not None else 0
    return min(begin, instance.run_assignment) if instance.active and instance.run_assignment else begin


def entries_of_instance(fleet: Fleet, instance: Instance, own: Sequence[Entry]) -> list[int]:
    """Where an instance's chain begins, of its ``own`` telling entries since ``begin_of`` in order of sequence."""
    state = fleet.pipelines.get(instance.id.pipeline)
    chosen = set(commands(state))
    if instance.assignment is not None:
        chosen.add(instance.assignment.seq)
    elif instance.withdrawn is not None:
        chosen |= {instance.withdrawn.seq, instance.withdrawn_seq}
    if instance.failure is not None:
        chosen.add(instance.failure_seq)
    judged: list[int] = []
    for entry in own:
        event = entry.event
        if not isinstance(event, _OF_AN_INCARNATION) or event.incarnation != instance.incarnation:
            continue
        if isinstance(event, ComponentStatusChanged | ComponentProbed):
            judged.append(entry.seq)  # of many only the last: it names the one before if that led to it
        else:
            chosen.add(entry.seq)
    chosen |= {seq for seq in judged[-1:] if instance.run == "running"}
    host = fleet.hosts.get(instance.assignment.host) if instance.assignment is not None else None
    if host is not None and (host.status != "up" or _waited_for(state, instance, host.seq)):
        chosen.add(host.seq)
    return sorted(chosen - {0})


def _waited_for(state: PipelineState | None, instance: Instance, joined_seq: int) -> bool:
    """Whether the host came only after the command: then the assignment had waited for it."""
    assignment = instance.assignment
    return state is not None and assignment is not None and state.command_seq < joined_seq < assignment.seq


def commands(state: PipelineState | None) -> list[int]:
    """The entries that say what is wanted of a pipeline."""
    if state is None:
        return []
    return [seq for seq in (state.run_seq, state.submitted_seq, state.scaled_seq, state.stop_seq) if seq]


def entries_of_pipeline(state: PipelineState) -> list[int]:
    """Where a pipeline's chain begins."""
    return sorted({*commands(state), state.status_seq} - {0})


def missing(known: Mapping[int, Entry], begins: Iterable[int]) -> list[int]:
    """The causes that have to be fetched before the chain is whole; empty when it is.

    A failure and the exit that led to it are written together, so the exit has to be looked for: it is the entry before.
    """
    wanted = {seq for seq in begins if seq not in known}
    wanted |= {entry.causation for entry in known.values() if entry.causation} - known.keys()
    wanted |= {entry.seq - 1 for entry in known.values() if isinstance(entry.event, ComponentFailed)} - known.keys()
    return sorted(wanted) if len(known) < MAX_STEPS else []


def steps(fleet: Fleet, known: Mapping[int, Entry], begins: Iterable[int], rules: Mapping[int, str] | None = None) -> list[Step]:
    """The chain, oldest entry first. ``rules`` says by sequence what only others can: why a host was chosen."""
    said = rules or {}
    begun = set(begins)
    led = {entry.causation for entry in known.values()}
    shown = [entry for entry in known.values() if entry.seq in begun or entry.seq in led or _ends_in_failure(entry, known)]
    return [_step(fleet, entry, said.get(entry.seq, "")) for entry in sorted(shown, key=lambda entry: entry.seq)]


def _ends_in_failure(entry: Entry, known: Mapping[int, Entry]) -> bool:
    """Whether it is the exit that was written together with the failure that came of it, and so could not be named by it."""
    after = known.get(entry.seq + 1)
    failed = after is not None and isinstance(after.event, ComponentFailed) and after.aggregate == entry.aggregate
    return failed and isinstance(entry.event, ComponentExited)


def _step(fleet: Fleet, entry: Entry, rule: str) -> Step:
    return Step(
        seq=entry.seq,
        time_ns=entry.time_ns,
        type=type(entry.event).__name__,
        actor=entry.actor,
        correlation=entry.correlation,
        causation=entry.causation,
        sentence=sentence(entry),
        rule=rule or rule_of(fleet, entry),
    )


def rule_of(fleet: Fleet, entry: Entry) -> str:
    """By which rule the entry was decided, as far as the entry and the file say."""
    event = entry.event
    component = _component(fleet, entry)
    match event:
        case PipelineStatusChanged():
            return _PIPELINE_RULES.get(event.status, "")
        case ComponentExited(expected=False) if component is not None:
            return _restart_rule(component, restarted=event.restart_in_s is not None)
        case ComponentFailed() if component is not None:
            return _restart_rule(component, restarted=False)
        case ComponentStatusChanged(status="unhealthy", silence_s=float()):
            return "an instance is unhealthy when it was silent for longer than the health monitor waits"
        case ComponentStatusChanged(status="unhealthy") if component is not None and component.health_check is not None:
            check = component.health_check
            return f"an instance is unhealthy when its health check fails {check.failures} times in a row"
        case ComponentStatusChanged(status="healthy"):
            return "an instance is healthy when its heartbeats arrive and no health check fails"
        case ComponentUnassigned(reason="the pipeline is stopped"):
            return "sources end first; whoever reads from them ends when they are gone"
        case HostLost():
            return "a host is lost when its agent was silent for longer than the health monitor waits"
        case _:
            return ""


def _component(fleet: Fleet, entry: Entry) -> Component | None:
    """The component as it was assigned, of the instance that the entry is about."""
    if entry.aggregate is None or entry.aggregate.kind != "component":
        return None
    instance = fleet.instances.get(entry.aggregate.instance)
    assigned = (instance.assignment or instance.withdrawn) if instance is not None else None
    return assigned.component if assigned is not None else None


def _restart_rule(component: Component, *, restarted: bool) -> str:
    restart = component.restart
    if restart.policy == "never":
        return "its restart policy is never"
    allowed = f"at most {restart.max_attempts} restarts within {restart.window_s:g} s"
    if not restarted:
        return f"its restart policy allows {allowed}; a program that refuses its configuration (exit code 2) is not restarted"
    return f"its restart policy is {restart.policy}: {allowed}, the first after {restart.backoff.initial_s:g} s"
