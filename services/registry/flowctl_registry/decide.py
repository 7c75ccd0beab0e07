"""May this instance register, beat, deregister or commit, and what is to be journalled for it? Pure.

An instance is *managed* while a live pipeline has it or a host is assigned to it: then its agent alone starts incarnations.
Everything else is *external*: a program that somebody started by hand, for which the newest run counts.
"""

import base64
from typing import Final

from flowctl.decision import Decision, Rejected
from flowctl.fleet import Fleet, Instance
from flowctl.ids import InstanceId
from flowctl.journal.events import (
    Aggregate,
    CheckpointCommitted,
    ComponentDeregistered,
    ComponentEvent,
    ComponentRegistered,
)
from flowctl.journal.log import Draft
from flowctl.spec.model import Kind
from flowctl_registry.requests import Caller, Commit, Deregister, Register

REGISTER_FIRST: Final = "register first"


def register(fleet: Fleet, request: Register) -> Decision:
    """May this program be the instance that it says it is? Nothing to append if the journal says the same already."""
    caller = request.caller
    instance = fleet.instances.get(caller.instance)
    if (refused := _place_refused(fleet, instance, request)) is not None:
        return refused
    managed = _managed(fleet, instance, caller.instance)
    if instance is None or instance.incarnation == 0:
        return _not_started(caller, 0) if managed else [_draft(caller.instance, _registered(request))]
    if caller.incarnation < instance.incarnation:
        return superseded(instance)
    if caller.incarnation > instance.incarnation:
        if managed:
            return _not_started(caller, instance.incarnation)
        return [_draft(caller.instance, _registered(request))]
    return _register_again(instance, request, managed=managed)


def _register_again(instance: Instance, request: Register, *, managed: bool) -> Decision:
    """The incarnation that the journal knows: its first registration, a repetition, or another program with its number."""
    caller = request.caller
    if instance.outdated:
        return of_earlier_run(instance)
    causation = instance.run_assignment if managed else 0
    previous = instance.registration.event if instance.registration else None
    if instance.run == "exited":
        return Rejected("precondition", f"incarnation {caller.incarnation} of {instance.id} has exited")
    if previous is None:
        return [_draft(instance.id, _registered(request), causation)]
    same_run = previous.boot_id == request.boot_id
    if managed and not same_run:
        return Rejected(
            "exists",
            f"{instance.id} incarnation {caller.incarnation} is registered by another program (boot {previous.boot_id})",
            "each start of a program needs an incarnation of its own",
        )
    if instance.run == "ending" and (managed or same_run):
        return Rejected("precondition", f"incarnation {caller.incarnation} of {instance.id} has deregistered")
    registered = _registered(request)
    if registered == previous and instance.run == "running":
        return []
    return [_draft(instance.id, registered, causation)]


def deregister(fleet: Fleet, request: Deregister) -> Decision:
    """Is there a registration that can end? Saying the same twice is no error."""
    instance = fleet.instances.get(request.caller.instance)
    if instance is not None and instance.run == "ending" and instance.incarnation == request.caller.incarnation:
        repeated = instance.completed == (request.reason == "completed")
        return [] if repeated else Rejected("precondition", f"{instance.id} has deregistered already, for another reason")
    if (refused := _unknown(fleet, request.caller)) is not None:  # what an earlier run has left may say that it ends, too
        return refused
    event = ComponentDeregistered(incarnation=request.caller.incarnation, reason=request.reason, detail=request.detail)
    return [_draft(request.caller.instance, event, _cause_of_end(fleet, fleet.instances[request.caller.instance], request))]


def _cause_of_end(fleet: Fleet, instance: Instance, request: Deregister) -> int:
    """The entry that led to a good-bye: what took the assignment away, the last input's completion, or the assignment itself."""
    assignment = instance.assignment
    if assignment is None:
        return instance.withdrawn_seq
    if request.reason == "completed":
        inputs = {each.from_ for each in assignment.component.upstreams}
        members = fleet.members.get(instance.id.pipeline, ())
        completed = max((each.completed_seq for each in members if each.completed and each.id.component in inputs), default=0)
        return completed or assignment.seq
    return assignment.seq


def commit_checkpoint(fleet: Fleet, request: Commit) -> Decision:
    """Does this checkpoint carry on from the one before? Saying the same twice is no error."""
    caller = request.caller
    if (refused := admit(fleet, caller)) is not None:
        return refused
    instance = fleet.instances[caller.instance]
    registration = instance.registration
    if registration is not None and registration.event.kind != "source":
        return Rejected("invalid", f"{instance.id} is a {registration.event.kind}: only a source commits checkpoints")
    cursor = base64.b64encode(request.cursor).decode()
    last = instance.checkpoint
    if last is not None and last.incarnation == caller.incarnation:
        if request.position < last.position:
            return Rejected(
                "invalid", f"checkpoint {request.position} of {instance.id} lies before {last.position}, the last one"
            )
        if (request.position, cursor) == (last.position, last.cursor):
            return []
    committed = CheckpointCommitted(incarnation=caller.incarnation, position=request.position, cursor=cursor)
    return [_draft(instance.id, committed, instance.run_assignment)]


def admit(fleet: Fleet, caller: Caller) -> Rejected | None:
    """Why may this caller not speak for the instance now? None if it may. Asked for every heartbeat, so it only looks up."""
    if (unknown := _unknown(fleet, caller)) is not None:
        return unknown
    instance = fleet.instances[caller.instance]
    return of_earlier_run(instance) if instance.outdated else None


def _unknown(fleet: Fleet, caller: Caller) -> Rejected | None:
    """Why this caller's is not the registration that stands."""
    instance = fleet.instances.get(caller.instance)
    if instance is None or instance.incarnation == 0:
        return Rejected("not_found", f"{caller.instance} is not registered", REGISTER_FIRST)
    if caller.incarnation != instance.incarnation:
        if caller.incarnation < instance.incarnation:
            return superseded(instance)
        return Rejected("not_found", f"incarnation {caller.incarnation} of {caller.instance} is not registered", REGISTER_FIRST)
    match instance.run:
        case "running":
            return None
        case "ending":
            return Rejected("precondition", f"incarnation {caller.incarnation} of {caller.instance} has deregistered")
        case "exited":
            return Rejected("precondition", f"incarnation {caller.incarnation} of {caller.instance} has exited")
        case _:
            return Rejected("not_found", f"{caller.instance} is not registered", REGISTER_FIRST)


def superseded(instance: Instance) -> Rejected:
    """The refusal of an incarnation that is not the newest one."""
    return Rejected("superseded", f"{instance.id} is superseded by incarnation {instance.incarnation}")


def of_earlier_run(instance: Instance) -> Rejected:
    """The refusal of an incarnation that a new run of its pipeline has left behind."""
    return Rejected(
        "superseded", f"{instance.id} is superseded: incarnation {instance.incarnation} belongs to an earlier run of its pipeline"
    )


def _managed(fleet: Fleet, instance: Instance | None, instance_id: InstanceId) -> bool:
    pipeline = fleet.pipelines.get(instance_id.pipeline)
    return (pipeline is not None and not pipeline.ended) or (instance is not None and instance.assignment is not None)


def _place_refused(fleet: Fleet, instance: Instance | None, request: Register) -> Rejected | None:
    """Why the pipeline has no place for the instance; one that runs already keeps its place until it ends."""
    wanted = request.caller.instance
    runs = instance is not None and instance.active and instance.incarnation == request.caller.incarnation
    if instance is not None and instance.assignment is not None:
        return _kind_mismatch(wanted, instance.assignment.kind, request.kind)
    pipeline = fleet.pipelines.get(wanted.pipeline)
    if pipeline is None or pipeline.ended or runs:
        return None
    for kind, component in pipeline.pipeline.components():
        if component.id == wanted.component:
            replicas = pipeline.replicas_of(component)
            if wanted.index >= replicas:
                return Rejected(
                    "not_found", f"{wanted.pipeline}.{wanted.component} has {replicas} instances, none is number {wanted.index}"
                )
            return _kind_mismatch(wanted, kind, request.kind)
    return Rejected("not_found", f"pipeline {wanted.pipeline} has no component {wanted.component!r}")


def _kind_mismatch(instance: InstanceId, kind: Kind, said: Kind) -> Rejected | None:
    return None if said == kind else Rejected("invalid", f"{instance} is a {kind}, and the program says that it is a {said}")


def _not_started(caller: Caller, known: int) -> Rejected:
    has = f"the newest is {known}" if known else "it has not been started yet"
    return Rejected("precondition", f"incarnation {caller.incarnation} of {caller.instance} was not started by its agent: {has}")


def _registered(request: Register) -> ComponentRegistered:
    return ComponentRegistered(
        incarnation=request.caller.incarnation,
        kind=request.kind,
        boot_id=request.boot_id,
        address=request.address,
        health_endpoint=request.health_endpoint,
        name=request.name,
        version=request.version,
        description=request.description,
        output_types=request.output_types,
        labels=request.labels,
    )


def _draft(instance: InstanceId, event: ComponentEvent, causation: int = 0) -> Draft:
    return Draft(Aggregate.of_instance(instance), event, causation)
