"""Where a pipeline is in its lifecycle, and where it goes from there. Pure."""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from flowctl.fleet import Fleet, Instance, PipelineState
from flowctl.ids import InstanceId
from flowctl.journal.events import PipelineStatus
from flowctl_orchestrator.placement import is_well

Situation = Literal["finished", "asked_to_stop", "empty", "broken", "whole", "partial"]
"""What is the case: every instance has completed; somebody asked for the end; nothing runs or is to run any more; an instance
failed for good; every instance is well; not every one is."""

LIFECYCLE: Final[dict[PipelineStatus, dict[Situation, PipelineStatus]]] = {
    "deploying": {"finished": "completed", "asked_to_stop": "stopping", "broken": "failed", "whole": "running"},
    "running": {"finished": "completed", "asked_to_stop": "stopping", "broken": "failed", "partial": "degraded"},
    "degraded": {"finished": "completed", "asked_to_stop": "stopping", "broken": "failed", "whole": "running"},
    "stopping": {"empty": "stopped"},
    "completed": {},
    "stopped": {},
    "failed": {},
}
"""Status x situation -> status; what is not here changes nothing. A submission begins anew at ``deploying``."""

LIVE: Final[frozenset[PipelineStatus]] = frozenset({"deploying", "running", "degraded"})
"""Where a pipeline's instances are to run."""

MAX_NAMED: Final = 3


class Move(msgspec.Struct, frozen=True):
    """A change of status, with its reason and the sequence of the entry that led to it."""

    status: PipelineStatus
    reason: str
    causation: int


def is_live(state: PipelineState) -> bool:
    """Whether the pipeline's instances are to run."""
    return state.status in LIVE and state.stop_requested is None


def desired(fleet: Fleet, state: PipelineState) -> list[Instance]:
    """The pipeline's instances as they should be, in file order; those that the journal has not heard of yet are blank."""
    return [fleet.instances.get(id_) or Instance(id_) for id_, _, _ in state.instance_ids()]


def is_present(instance: Instance) -> bool:
    """Whether anything of the instance runs, or is to run, because somebody assigned it."""
    return (instance.active and instance.ever_assigned) or instance.wanted


def next_move(fleet: Fleet, state: PipelineState) -> Move | None:
    """Does the pipeline go on along its lifecycle now?"""
    transitions = LIFECYCLE[state.status]
    if not transitions:
        return None
    situation, reason, causation = _situation(fleet, state)
    to = transitions.get(situation)
    return Move(to, reason, causation) if to is not None else None


def _situation(fleet: Fleet, state: PipelineState) -> tuple[Situation, str, int]:
    instances = desired(fleet, state)
    if state.status == "stopping":
        members = fleet.members.get(state.name, ())
        if not any(is_present(instance) for instance in members):
            ended = max((max(member.last_exit_seq, member.withdrawn_seq) for member in members), default=0)
            return "empty", state.stop_requested.reason if state.stop_requested else "", max(state.stop_seq, ended)
        return "partial", "", 0
    if all(instance.completed for instance in instances):
        return "finished", "every instance has completed", max(instance.completed_seq for instance in instances)
    if state.stop_requested is not None:
        return "asked_to_stop", state.stop_requested.reason, state.stop_seq
    # What failed before the pipeline was submitted again is to be tried again, as soon as it has a host.
    failed = [each for each in instances if each.failure is not None and each.failure_seq > state.submitted_seq]
    if failed:
        first = min(failed, key=lambda instance: instance.failure_seq)
        reason = first.failure.reason if first.failure is not None else ""
        return "broken", f"{short(first.id)} failed: {reason}", first.failure_seq
    missing = [instance for instance in instances if not instance.completed and not is_well(instance)]
    if missing:
        return "partial", shortfall(missing), max(_reported(instance) for instance in missing)
    return "whole", "every instance is running", max(_reported(instance) for instance in instances)


def _reported(instance: Instance) -> int:
    """The last entry that changed how well it is."""
    assigned = instance.assignment.seq if instance.assignment is not None else 0
    return max(instance.status_seq, instance.completed_seq, instance.withdrawn_seq, assigned)


def shortfall(missing: Sequence[Instance]) -> str:
    """Which instances are not as they should be, and how they are; says nothing that changes with time alone."""
    named = [f"{short(instance.id)} is {_condition(instance)}" for instance in missing[:MAX_NAMED]]
    more = len(missing) - len(named)
    return "; ".join([*named, *([f"and {more} more"] if more else [])])


def _condition(instance: Instance) -> str:
    if instance.assignment is None:
        return "waiting for a host"
    if instance.current and instance.run == "running":
        return f"{instance.status}: {instance.status_reason}"
    return instance.phase


def short(instance: InstanceId) -> str:
    """An instance within its pipeline: ``numbers.0``."""
    return f"{instance.component}.{instance.index}"
