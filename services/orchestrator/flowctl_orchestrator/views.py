"""The fleet as an operator sees it. Pure; says what the journal knows, and since when it is not known any more."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from flowctl import api
from flowctl.errors import NotFoundError
from flowctl.fleet import Fleet, Host, Instance, PipelineState
from flowctl.ids import InstanceId
from flowctl.spec.containers import loosened
from flowctl.spec.model import Component, Kind
from flowctl.spec.problems import did_you_mean
from flowctl_orchestrator.lifecycle import desired, is_live, is_present, shortfall
from flowctl_orchestrator.placement import is_well, loads
from flowctl_orchestrator.plan import plan_pipeline
from flowctl_orchestrator.waiting import exit_text

_MS = 1_000_000


class Circumstances(msgspec.Struct, frozen=True):
    """What is not in the fleet: for what instances wait, whose planning fails, and since when the journal is silent."""

    waiting: Mapping[InstanceId, str]
    troubles: Mapping[str, str]
    unknown_since_ns: int | None = None


def answer(
    fleet: Fleet,
    now_ns: int,
    *,
    pipeline: str | None = None,
    troubles: Mapping[str, str] | None = None,
    unknown_since_ns: int | None = None,
) -> api.StatusView:
    """What an orchestrator says that knows this much, when it is ``now_ns``: everything, or one pipeline.

    ``troubles`` are the plans that failed before, by pipeline.

    Raises:
        NotFoundError: there is no such pipeline.
    """
    if pipeline is not None and pipeline not in fleet.pipelines:
        raise NotFoundError(f"there is no pipeline {pipeline[:80]!r}", hint=did_you_mean(pipeline, fleet.pipelines))
    waiting: dict[InstanceId, str] = {}
    known = dict(troubles or {})
    load = loads(fleet)
    for name in [pipeline] if pipeline is not None else list(fleet.pipelines):
        try:
            waiting |= plan_pipeline(fleet, name, now_ns, load=load).waiting
        except Exception as error:  # noqa: BLE001 - one pipeline's trouble is shown, and hides no other
            known[name] = str(error) or type(error).__name__
    return status_view(fleet, now_ns, Circumstances(waiting, known, unknown_since_ns), pipeline=pipeline)


SHOWN_QUARANTINE: Final = 10


def status_view(fleet: Fleet, now_ns: int, around: Circumstances, *, pipeline: str | None = None) -> api.StatusView:
    """Everything, or one pipeline (nothing if there is none of that name)."""
    names = sorted(fleet.pipelines) if pipeline is None else [name for name in (pipeline,) if name in fleet.pipelines]
    load = loads(fleet)
    return api.StatusView(
        seq=fleet.seq,
        time_ms=now_ns // _MS,
        pipelines=[pipeline_view(fleet, fleet.pipelines[name], around) for name in names],
        hosts=[host_view(fleet.hosts[name], load[name], around) for name in sorted(fleet.hosts)],
        unknown_since_ms=None if around.unknown_since_ns is None else around.unknown_since_ns // _MS,
        unknown_entries=fleet.unknown_total,
        quarantined_entries=fleet.poison_total,
        quarantine=[
            api.QuarantinedView(seq=each.seq, subject=each.subject[:200], reason=each.reason[:200])
            for each in fleet.quarantine[:SHOWN_QUARANTINE]
        ],
    )


def pipeline_view(fleet: Fleet, state: PipelineState, around: Circumstances) -> api.PipelineView:
    """One pipeline: the instances that it should have, in file order, then those that are still about to end."""
    wanted: dict[InstanceId, tuple[Kind, Component]] = {id_: (kind, each) for id_, kind, each in state.instance_ids()}
    leaving = [each for each in fleet.instances_of(state.name) if each.id not in wanted and is_present(each)]
    views = [_instance_view(fleet.instances.get(id_) or Instance(id_), *what, state, around) for id_, what in wanted.items()]
    for instance in leaving:
        assignment = instance.assignment or instance.withdrawn
        if assignment is not None:
            views.append(_instance_view(instance, assignment.kind, assignment.component, state, around))
    spec: dict[str, Any] = msgspec.to_builtins(state.pipeline)
    lost = around.unknown_since_ns is not None and not state.ended
    return api.PipelineView(
        name=state.name,
        status="unknown" if lost else state.status,
        reason=f"the journal does not answer; last known: {state.status}" if lost else _reason(fleet, state, around),
        revision=state.revision,
        run=state.run,
        since_ms=state.status_since_ns // _MS,
        submitted_ms=state.submitted_ns // _MS,
        source=state.source,
        instances=views,
        spec=spec,
    )


def _reason(fleet: Fleet, state: PipelineState, around: Circumstances) -> str:
    """Why the status is what it is now; the journal has why it became so."""
    trouble = around.troubles.get(state.name)
    if trouble is not None:
        return f"it cannot be planned: {trouble}"
    if is_live(state):
        missing = [each for each in desired(fleet, state) if not each.completed and not is_well(each)]
        return shortfall(missing) if missing else state.status_reason
    return state.status_reason


def _instance_view(
    instance: Instance, kind: Kind, component: Component, state: PipelineState, around: Circumstances
) -> api.InstanceView:
    assignment = instance.assignment or instance.withdrawn
    waiting = around.waiting.get(instance.id, "")
    placed = instance.assignment is not None or instance.active or not is_live(state)
    lost = around.unknown_since_ns is not None and (instance.active or instance.wanted)
    exit_ = instance.last_exit
    return api.InstanceView(
        instance=str(instance.id),
        component=component.id,
        index=instance.id.index,
        kind=kind,
        phase=instance.phase if placed or instance.completed or instance.failure is not None else "waiting",
        status="unknown" if lost else instance.status,
        reason=f"the journal does not answer; last known: {instance.status}" if lost else _instance_reason(instance),
        waiting_for=waiting,
        incarnation=instance.incarnation,
        host=instance.assignment.host if instance.assignment is not None else instance.run_host,
        runs_on=instance.run_host if instance.active else "",
        handle=instance.handle if instance.active else "",
        address=instance.address,
        since_ms=instance.since_ns // _MS,
        restarts=instance.restarts,
        last_exit=exit_text(exit_) if exit_ is not None else "",
        checkpoint=instance.checkpoint.position if instance.checkpoint is not None else None,
        revision=assignment.revision if assignment is not None else 0,
        loosened=loosened(component),
    )


def _instance_reason(instance: Instance) -> str:
    return instance.failure.reason if instance.failure is not None else instance.status_reason


def host_view(host: Host, instances: int, around: Circumstances) -> api.HostView:
    """One host; ``instances`` is how many it is to keep running."""
    lost = around.unknown_since_ns is not None
    return api.HostView(
        name=host.name,
        status="unknown" if lost else host.status,
        address=host.joined.address,
        drivers=list(host.joined.drivers),
        labels=dict(host.joined.labels),
        since_ms=host.since_ns // _MS,
        reason=f"the journal does not answer; last known: {host.status}" if lost else _host_reason(host),
        instances=instances,
        drained=host.drain is not None,
    )


def _host_reason(host: Host) -> str:
    if host.drain is None:
        return host.reason
    why = f": {host.drain.reason}" if host.drain.reason else ""
    return f"{host.reason}; drained{why}" if host.reason else f"drained{why}"
