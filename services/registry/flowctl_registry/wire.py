"""``flowctl.control.v1`` messages to and from the plain structs."""

import base64
import functools
from typing import Final

from flowctl.control.v1 import control_pb2 as pb
from flowctl.errors import UserError
from flowctl.fleet import Checkpoint
from flowctl.ids import check_id
from flowctl.journal.events import DeregisterReason, Status
from flowctl.journal.heartbeats import EdgeCounters, GroupCounters, Heartbeat
from flowctl.journal.letters import StoredLetter
from flowctl.spec.model import Kind
from flowctl_registry import checks
from flowctl_registry.links import Topology
from flowctl_registry.requests import Caller, Commit, Deregister, Filter, Outcome, PutLetter, Register, Settlement
from flowctl_registry.views import ComponentView

KINDS: Final[dict[int, Kind]] = {pb.KIND_SOURCE: "source", pb.KIND_PROCESSOR: "processor", pb.KIND_SINK: "sink"}
KIND_NUMBERS: "dict[Kind, pb.Kind.ValueType]" = {
    "source": pb.KIND_SOURCE,
    "processor": pb.KIND_PROCESSOR,
    "sink": pb.KIND_SINK,
}
STATUSES: "dict[Status, pb.Status.ValueType]" = {
    "healthy": pb.STATUS_HEALTHY,
    "unhealthy": pb.STATUS_UNHEALTHY,
    "unknown": pb.STATUS_UNKNOWN,
}
REASONS: Final[dict[int, DeregisterReason]] = {
    pb.DEREGISTER_REASON_COMPLETED: "completed",
    pb.DEREGISTER_REASON_STOPPED: "stopped",
    pb.DEREGISTER_REASON_FAILED: "failed",
}
DIRECTIONS: Final[dict[int, str]] = {pb.DIRECTION_IN: "in", pb.DIRECTION_OUT: "out"}

# --- requests --------------------------------------------------------------------------------------------------------------


def caller(instance: pb.Instance) -> Caller:
    """Who asks.

    Raises:
        UserError: a part is not valid; so do all functions of this section.
    """
    if not instance.pipeline and not instance.component:
        raise UserError("instance is missing: say which pipeline, component, index and incarnation")
    return checks.checked_caller(instance.pipeline, instance.component, instance.index, instance.incarnation)


def register(request: pb.RegisterComponentRequest) -> Register:
    """A registration."""
    kind = KINDS.get(request.kind)
    if kind is None:
        raise UserError(f"kind is {request.kind}: expected KIND_SOURCE (1), KIND_PROCESSOR (2) or KIND_SINK (3)")
    metadata = request.metadata
    return checks.checked_register(
        Register(
            caller=caller(request.instance),
            kind=kind,
            boot_id=request.boot_id,
            address=request.address,
            health_endpoint=request.health_endpoint,
            name=metadata.name,
            version=metadata.version,
            description=metadata.description,
            output_types=list(metadata.output_types),
            labels=dict(metadata.labels),
        )
    )


def heartbeat(request: pb.HeartbeatRequest) -> Heartbeat:
    """A sign of life."""
    who = caller(request.instance)
    metrics = checks.checked_metrics(dict(request.metrics)) if request.metrics else {}
    edges = checks.checked_edges([_edge(edge) for edge in request.edges]) if request.edges else []
    groups = checks.checked_groups([_group(group) for group in request.groups]) if request.groups else []
    return Heartbeat(who.instance, who.incarnation, metrics, edges, groups, REASONS.get(request.ending, ""))


def _edge(edge: pb.EdgeMetrics) -> EdgeCounters:
    direction = DIRECTIONS.get(edge.direction)
    if direction is None:
        raise UserError(f"edges has the direction {edge.direction}: expected DIRECTION_IN (1) or DIRECTION_OUT (2)")
    return EdgeCounters(
        edge.peer,
        direction,
        edge.events_total,
        edge.bytes_total,
        edge.in_flight,
        edge.resent_total,
        edge.connected,
        edge.dropped_total,
        edge.acked_total,
        edge.superseded_total,
        edge.sender_incarnation,
        edge.epoch,
        edge.next_offset,
        edge.done_offset,
        edge.oldest_seconds,
        edge.source_lag_seconds,
        edge.credit_events,
        edge.credit_bytes,
        list(edge.delivery_buckets),
        edge.delivery_seconds_total,
    )


def _group(group: pb.GroupMetrics) -> GroupCounters:
    return GroupCounters(
        group.component, group.offered_total, group.acked_total, group.in_flight, group.dropped_total, group.skipped_total
    )


def deregister(request: pb.DeregisterRequest) -> Deregister:
    """A farewell."""
    reason = REASONS.get(request.reason)
    if reason is None:
        raise UserError(f"reason is {request.reason}: expected COMPLETED (1), STOPPED (2) or FAILED (3)")
    return checks.checked_deregister(Deregister(caller=caller(request.instance), reason=reason, detail=request.detail))


def commit(request: pb.CommitCheckpointRequest) -> Commit:
    """A checkpoint."""
    who = caller(request.instance)
    if not request.HasField("checkpoint"):
        raise UserError("checkpoint is missing")
    return checks.checked_commit(Commit(caller=who, position=request.checkpoint.position, cursor=request.checkpoint.cursor))


def component_filter(request: pb.GetComponentsRequest) -> Filter:
    """Which instances to list."""
    if request.kind not in (pb.KIND_UNSPECIFIED, *KINDS):
        raise UserError(f"kind is {request.kind}: expected KIND_SOURCE (1), KIND_PROCESSOR (2), KIND_SINK (3) or none")
    pipeline = check_id(request.pipeline, "pipeline") if request.pipeline else None
    return Filter(pipeline=pipeline, kind=KINDS.get(request.kind))


def put_letter(request: pb.PutDeadLetterRequest) -> PutLetter:
    """An event that was given up on."""
    who = caller(request.instance)
    if not request.HasField("letter"):
        raise UserError("letter is missing")
    letter = request.letter
    return checks.checked_letter(
        PutLetter(
            caller=who,
            origin=letter.origin,
            position=letter.position,
            path=letter.path,
            payload=letter.payload,
            error=checks.cut(letter.error, checks.MAX_ERROR),
            attempts=letter.attempts,
            type=letter.type,
            time_ns=letter.time_ns,
            metadata=dict(letter.metadata),
        )
    )


def settlement(request: pb.SettleRedrivesRequest) -> Settlement:
    """What came of redriven letters."""
    who = caller(request.instance)
    outcomes = [
        Outcome(number=each.number, delivered=each.delivered, error=checks.cut(each.error, checks.MAX_ERROR))
        for each in request.outcomes
    ]
    return Settlement(caller=who, outcomes=checks.checked_outcomes(outcomes))


# --- answers ---------------------------------------------------------------------------------------------------------------


def registered(instance: str, interval_ms: int, checkpoint: Checkpoint | None) -> pb.RegisterComponentResponse:
    """The answer to a registration."""
    return pb.RegisterComponentResponse(
        component_id=instance,
        heartbeat_interval_ms=interval_ms,
        checkpoint=_checkpoint(checkpoint) if checkpoint is not None else None,
    )


def _checkpoint(checkpoint: Checkpoint) -> pb.Checkpoint:
    try:
        cursor = base64.b64decode(checkpoint.cursor, validate=True)
    except ValueError as error:
        # Only a foreign writer of the journal can have done this; starting from the beginning would be worse than not starting.
        raise RuntimeError("the journal's cursor of this checkpoint is not base64") from error
    return pb.Checkpoint(position=checkpoint.position, cursor=cursor)


def component(view: ComponentView) -> pb.Component:
    """An instance as it is shown."""
    said = view.registered
    metadata = pb.Metadata()
    if said is not None:
        metadata = pb.Metadata(
            name=said.name,
            version=said.version,
            description=said.description,
            output_types=said.output_types,
            labels=said.labels,
        )
    instance = view.instance
    return pb.Component(
        instance=pb.Instance(
            pipeline=instance.pipeline, component=instance.component, index=instance.index, incarnation=view.incarnation
        ),
        kind=KIND_NUMBERS[view.kind] if view.kind is not None else pb.KIND_UNSPECIFIED,
        status=STATUSES[view.status],
        phase=view.phase,
        address=view.address,
        health_endpoint=said.health_endpoint if said is not None else "",
        metadata=metadata,
        host=view.host,
        registered_at_ms=view.registered_ns // 1_000_000,
        last_heartbeat_ms=view.last_heartbeat_ns // 1_000_000,
        upstream=view.upstream,
        downstream=view.downstream,
        reason=view.reason,
    )


@functools.lru_cache(maxsize=1_024)
def topology(seq: int, links: Topology) -> pb.Topology:
    """The neighbours of a component; one message for all its watchers."""
    return pb.Topology(
        sequence=seq,
        upstreams=[
            pb.Upstream(
                instance=pb.Instance(
                    pipeline=link.instance.pipeline,
                    component=link.instance.component,
                    index=link.instance.index,
                    incarnation=link.incarnation,
                ),
                address=link.address,
                completed=link.completed,
                when_full=_when_full(drop=link.drop_when_full),
            )
            for link in links.upstreams
        ],
        downstreams=[
            pb.DownstreamGroup(
                component=group.component,
                instances=[
                    pb.Instance(
                        pipeline=peer.instance.pipeline,
                        component=peer.instance.component,
                        index=peer.instance.index,
                        incarnation=peer.incarnation,
                    )
                    for peer in group.instances
                ],
                partition_by=group.partition_by,
                when_full=_when_full(drop=group.drop_when_full),
            )
            for group in links.downstreams
        ],
    )


def _when_full(*, drop: bool) -> "pb.WhenFull.ValueType":
    return pb.WHEN_FULL_DROP if drop else pb.WHEN_FULL_BLOCK


def redrive(stored: StoredLetter | None) -> pb.Redrive:
    """A letter to be processed once more; None says that all of them were sent."""
    if stored is None:
        return pb.Redrive(caught_up=True)
    letter = stored.letter
    return pb.Redrive(
        number=stored.number,
        letter=pb.DeadLetter(
            origin=letter.origin,
            position=letter.position,
            path=letter.path,
            payload=stored.payload,
            time_ns=letter.time_ns,
            type=letter.type,
            metadata=letter.metadata,
            error=letter.error,
            attempts=letter.attempts,
        ),
    )
