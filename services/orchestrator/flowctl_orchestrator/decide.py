"""May this command be obeyed, and what is to be written then? Pure: one function a command."""

from collections.abc import Sequence
from typing import Final

from flowctl.decision import Decision, Rejected
from flowctl.fleet import MAX_REPLICAS, Fleet, Instance, PipelineState
from flowctl.ids import InstanceId
from flowctl.journal.chain import MAX_DRAFTS
from flowctl.journal.events import (
    Aggregate,
    ComponentAssigned,
    PipelineScaled,
    PipelineStopRequested,
    PipelineSubmitted,
)
from flowctl.journal.log import Draft
from flowctl.spec.checks import MAX_INSTANCES
from flowctl.spec.model import Component, Pipeline
from flowctl.spec.problems import did_you_mean
from flowctl_orchestrator.lifecycle import desired, is_live, short
from flowctl_orchestrator.placement import Nowhere, driver_of, loads, place

RESUBMIT_HINT: Final = "run it again with `flowctl up`"


def decide_submit(fleet: Fleet, pipeline: Pipeline, *, source: str, fresh: bool) -> Decision:
    """May this pipeline run? Empty if it runs already, exactly so.

    After a submission the pipeline is what its file says: a change of scale that was made since is undone. The same run goes on
    from its checkpoints, unless the one before has completed or ``fresh`` asks for a new one.
    """
    name = pipeline.name
    state = fleet.pipelines.get(name)
    if state is None:
        return _submitted(pipeline, revision=1, run=1, source=source)
    if fresh and not state.ended:
        return Rejected(
            "precondition",
            f"pipeline {name} is {state.status}: it cannot begin anew while it runs",
            hint=f"stop it first with `flowctl down {name}`",
        )
    same = pipeline == state.pipeline and not _rescaled(state)
    if same and is_live(state):
        return []
    begins = fresh or has_finished(fleet, state)
    return _submitted(pipeline, revision=state.revision + (0 if same else 1), run=state.run + (1 if begins else 0), source=source)


def has_finished(fleet: Fleet, state: PipelineState) -> bool:
    """Whether the pipeline's run has nothing more to do."""
    if state.status == "completed":
        return True
    return state.status == "stopped" and all(instance.completed for instance in desired(fleet, state))


def _rescaled(state: PipelineState) -> bool:
    return any(state.replicas_of(component) != component.replicas for _, component in state.pipeline.components())


def _submitted(pipeline: Pipeline, *, revision: int, run: int, source: str) -> Decision:
    event = PipelineSubmitted(revision=revision, pipeline=pipeline, run=run, source=source)
    return [Draft(Aggregate.of_pipeline(pipeline.name), event)]


def decide_stop(fleet: Fleet, name: str, *, reason: str) -> Decision:
    """May this pipeline be told to end? Empty if it has ended, or is about to."""
    state = fleet.pipelines.get(name)
    if state is None:
        return _no_pipeline(fleet, name)
    if not is_live(state):
        return []
    return [Draft(Aggregate.of_pipeline(name), PipelineStopRequested(reason=reason), state.submitted_seq)]


def decide_scale(fleet: Fleet, name: str, component_id: str, replicas: int) -> Decision:
    """May this component have so many instances? Empty if it has."""
    found = _live_component(fleet, name, component_id)
    if isinstance(found, Rejected):
        return found
    state, component = found
    if replicas < 1:
        return Rejected(
            "invalid",
            f"{name}.{component_id} cannot be scaled to {replicas}: a component has at least one instance",
            hint=f"stop the pipeline with `flowctl down {name}`, or take the component out of its file",
        )
    if replicas > MAX_REPLICAS:
        return Rejected("invalid", f"{name}.{component_id} cannot be scaled to {replicas}: at most {MAX_REPLICAS} are allowed")
    if component.ports is not None and replicas > 1:
        return Rejected(
            "precondition",
            f"{name}.{component_id} has fixed ports, which only one instance can have",
            hint="take `ports` out of the pipeline file, so that each instance takes free ones",
        )
    others = sum(state.replicas_of(other) for _, other in state.pipeline.components() if other.id != component_id)
    if others + replicas > MAX_INSTANCES:
        return Rejected("precondition", f"pipeline {name} would have {others + replicas} instances, more than {MAX_INSTANCES}")
    if state.replicas_of(component) == replicas:
        return []
    return [Draft(Aggregate.of_pipeline(name), PipelineScaled(component=component_id, replicas=replicas), state.submitted_seq)]


def decide_restart(
    fleet: Fleet, name: str, component_id: str | None = None, index: int | None = None, *, upto_seq: int | None = None
) -> Decision:
    """May these instances be started anew? At most as many as fit into one append.

    ``upto_seq`` leaves those alone whose assignment is newer, so that the rest can be asked for by asking again.
    """
    chosen = _chosen(fleet, name, component_id, index)
    if isinstance(chosen, Rejected):
        return chosen
    state, instances = chosen
    old = [each for each in instances if each.assignment is not None and (upto_seq is None or each.assignment.seq <= upto_seq)]
    if not old:
        if upto_seq is not None and any(each.assignment is not None for each in instances):
            return []
        return Rejected("precondition", f"nothing of pipeline {name} has a host yet: there is nothing to restart")
    drafts: list[Draft] = []
    load = loads(fleet)
    for instance in old[:MAX_DRAFTS]:
        component = state.pipeline.component(instance.id.component)
        assignment = instance.assignment
        if component is None or assignment is None:
            continue
        driver = driver_of(state.pipeline, component)
        host = place(fleet.hosts, component, driver, load, prefer=assignment.host)
        if isinstance(host, Nowhere):
            return Rejected("precondition", f"{instance.id} cannot be restarted now: {host.reason}")
        event = ComponentAssigned(
            host=host,
            kind=assignment.kind,
            driver=driver,
            revision=state.revision,
            component=component,
            reason="restart requested",
            decided_on=fleet.seq,
        )
        drafts.append(Draft(Aggregate.of_instance(instance.id), event, assignment.seq))
    return drafts


def _chosen(
    fleet: Fleet, name: str, component_id: str | None, index: int | None
) -> tuple[PipelineState, Sequence[Instance]] | Rejected:
    """The instances that a restart means: those that have not completed."""
    if component_id is None:
        if index is not None:
            return Rejected("invalid", f"index {index} of which component of {name}?", hint="name the component too")
        state = _live(fleet, name)
        if isinstance(state, Rejected):
            return state
        instances = desired(fleet, state)
    else:
        found = _live_component(fleet, name, component_id)
        if isinstance(found, Rejected):
            return found
        state, component = found
        replicas = state.replicas_of(component)
        if index is not None and not 0 <= index < replicas:
            known = "0" if replicas == 1 else f"0 to {replicas - 1}"
            return Rejected("not_found", f"{name}.{component_id} has no instance {index}", hint=f"it has {known}")
        indexes = range(replicas) if index is None else [index]
        ids = [InstanceId(name, component_id, number) for number in indexes]
        instances = [fleet.instances.get(id_) or Instance(id_) for id_ in ids]
    going_on = [instance for instance in instances if not instance.completed]
    if not going_on:
        names = ", ".join(short(instance.id) for instance in instances[:3])
        return Rejected("precondition", f"{names} of pipeline {name} has completed: nothing more will come of it")
    return state, going_on


def _live(fleet: Fleet, name: str) -> PipelineState | Rejected:
    state = fleet.pipelines.get(name)
    if state is None:
        return _no_pipeline(fleet, name)
    if not is_live(state):
        status = state.status if state.ended else "stopping"
        return Rejected("precondition", f"pipeline {name} is {status}", hint=RESUBMIT_HINT)
    return state


def _live_component(fleet: Fleet, name: str, component_id: str) -> tuple[PipelineState, Component] | Rejected:
    state = fleet.pipelines.get(name)
    if state is None:
        return _no_pipeline(fleet, name)
    component = state.pipeline.component(component_id)
    if component is None:
        known = [each.id for _, each in state.pipeline.components()]
        hint = did_you_mean(component_id, known) or f"it has {', '.join(known[:10])}"
        return Rejected("not_found", f"pipeline {name} has no component {component_id[:80]!r}", hint=hint)
    live = _live(fleet, name)
    return live if isinstance(live, Rejected) else (live, component)


def _no_pipeline(fleet: Fleet, name: str) -> Rejected:
    hint = did_you_mean(name, fleet.pipelines) or "`flowctl status` lists those there are"
    return Rejected("not_found", f"there is no pipeline {name[:80]!r}", hint=hint)
