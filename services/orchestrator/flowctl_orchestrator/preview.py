"""What would a submission do to a running pipeline, and does that still hold? Pure; nothing is written."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, cast

import msgspec

from flowctl.api import PreviewView, Step
from flowctl.decision import Rejected
from flowctl.fleet import Fleet
from flowctl.ids import InstanceId
from flowctl.journal.events import Aggregate, ComponentAssigned, ComponentUnassigned, PipelineSubmitted
from flowctl.journal.log import Entry
from flowctl.spec.model import Component, Pipeline
from flowctl_orchestrator.decide import decide_submit
from flowctl_orchestrator.lifecycle import is_live
from flowctl_orchestrator.placement import loads
from flowctl_orchestrator.plan import plan_pipeline


def preview(fleet: Fleet, pipeline: Pipeline, now_ns: int, *, fresh: bool = False) -> PreviewView | Rejected:
    """What would become of every instance if this were submitted now? The refusal, if it would be refused.

    The fleet is left as it is. What is replaced one after the other is shown as the whole that it comes to, each step on the
    host where it would start if the hosts stay as they are.
    """
    decision = decide_submit(fleet, pipeline, source="", fresh=fresh)
    if isinstance(decision, Rejected):
        return decision
    before = fleet.pipelines.get(pipeline.name)
    runs = before is not None and is_live(before)
    submitted = next((draft.event for draft in decision if isinstance(draft.event, PipelineSubmitted)), None)
    if submitted is None:
        steps = _kept(fleet, pipeline)
        return PreviewView(
            pipeline=pipeline.name, revision=before.revision if before else 1, change="unchanged", seq=fleet.seq, steps=steps
        )
    sketch = Fleet(seq=fleet.seq, time_ns=now_ns, hosts=fleet.hosts)
    if before is not None:
        sketch.pipelines[pipeline.name] = deepcopy(before)
    sketch.add(deepcopy(instance) for instance in fleet.members.get(pipeline.name, ()))
    for draft in decision:
        sketch.apply(Entry(sketch.seq + 1, now_ns, "", draft.aggregate, draft.event))
    return PreviewView(
        pipeline=pipeline.name,
        revision=submitted.revision,
        change="changed" if runs else "created",
        seq=fleet.seq,
        steps=list(_steps(fleet, sketch, pipeline, now_ns)),
    )


def moved(fleet: Fleet, name: str, since_seq: int) -> str | None:
    """What has changed since that sequence that a preview of the pipeline stands on? None if nothing has."""
    state = fleet.pipelines.get(name)
    if state is not None and max(state.command_seq, state.status_seq) > since_seq:
        return f"pipeline {name} has changed (journal entry {max(state.command_seq, state.status_seq)})"
    for instance in fleet.instances_of(name):
        seq = instance.assignment.seq if instance.assignment is not None else instance.withdrawn_seq
        if seq > since_seq:
            return f"{instance.id} was assigned anew (journal entry {seq})"
    for host in fleet.hosts.values():
        if max(host.seq, host.drain_seq) > since_seq:
            return f"host {host.name} has changed (journal entry {max(host.seq, host.drain_seq)})"
    return None


def changed_fields(before: Component, after: Component) -> list[str]:
    """Which fields differ, down to the keys of mappings: ``config.path``, ``restart.max_attempts``."""
    return list(_differences(msgspec.to_builtins(before), msgspec.to_builtins(after), ""))


def _differences(before: object, after: object, path: str) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        old, new = cast("Mapping[str, Any]", before), cast("Mapping[str, Any]", after)
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif before != after:
        yield path


def _kept(fleet: Fleet, pipeline: Pipeline) -> list[Step]:
    state = fleet.pipelines[pipeline.name]
    found: list[Step] = []
    for id_, _, _ in state.instance_ids():
        instance = fleet.instances.get(id_)
        assignment = instance.assignment if instance is not None else None
        found.append(Step(instance=str(id_), action="keep", host=assignment.host if assignment is not None else ""))
    return found


def _steps(fleet: Fleet, sketch: Fleet, pipeline: Pipeline, now_ns: int) -> Iterator[Step]:
    """Play the plan on the sketch, every replaced instance healthy at once, and compare with what is there now."""
    assigned: dict[str, ComponentAssigned] = {}
    stopped: list[str] = []
    name = pipeline.name
    waiting: Mapping[InstanceId, str] = {}
    load = loads(fleet)
    for _ in range(2 + len(sketch.members.get(name, ())) + sum(1 for _ in sketch.pipelines[name].instance_ids())):
        made = plan_pipeline(sketch, name, now_ns, load=load)
        waiting = made.waiting
        if not made.drafts:
            break
        for draft in made.drafts:
            sketch.apply(Entry(sketch.seq + 1, now_ns, "", draft.aggregate, draft.event))
            key = ".".join(draft.aggregate.key)
            if isinstance(draft.event, ComponentAssigned):
                assigned[key] = draft.event
                _heal(sketch, draft.aggregate)
            elif isinstance(draft.event, ComponentUnassigned):
                stopped.append(key)
                _end(sketch, draft.aggregate)
    for id_, _, component in sketch.pipelines[name].instance_ids():
        key = str(id_)
        instance = fleet.instances.get(id_)
        present = instance.assignment if instance is not None else None
        event = assigned.get(key)
        if event is None:
            needs = waiting.get(id_, "") if present is None else ""
            action = "keep" if present is not None else "start"
            yield Step(instance=key, action=action, host=present.host if present is not None else "", waiting_for=needs)
        elif present is None or (instance is not None and instance.completed):
            yield Step(instance=key, action="start", host=event.host)
        else:
            fields = changed_fields(present.component, component)
            yield Step(instance=key, action="replace", host=event.host, fields=fields, rolling=event.rolling)
    for key in stopped:
        yield Step(instance=key, action="stop")


def _heal(sketch: Fleet, aggregate: Aggregate) -> None:
    """As if the instance had been started under its new assignment and were well."""
    instance = sketch.instances[aggregate.instance]
    assignment = instance.assignment
    if assignment is None:
        return
    instance.run, instance.status, instance.run_host = "running", "healthy", assignment.host
    instance.run_assignment = assignment.seq


def _end(sketch: Fleet, aggregate: Aggregate) -> None:
    """As if the instance had ended."""
    sketch.instances[aggregate.instance].run = "exited"
