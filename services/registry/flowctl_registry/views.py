"""What the registry answers about an instance. Pure."""

import msgspec

from flowctl.fleet import Fleet, Instance
from flowctl.ids import InstanceId
from flowctl.journal.events import ComponentRegistered, Status
from flowctl.spec.model import Kind
from flowctl_registry.links import neighbours
from flowctl_registry.requests import Filter


class ComponentView(msgspec.Struct, frozen=True, kw_only=True):
    """One instance as an outsider sees it. Times are Unix nanoseconds by the journal, 0 if never."""

    instance: InstanceId
    incarnation: int
    kind: Kind | None
    status: Status
    phase: str
    reason: str
    host: str
    address: str
    registered: ComponentRegistered | None
    registered_ns: int
    last_heartbeat_ns: int
    upstream: list[str]
    downstream: list[str]


def component_view(fleet: Fleet, instance: Instance, *, last_heartbeat_ns: int, unknown_since_s: float | None) -> ComponentView:
    """One instance. ``unknown_since_s``: for how many seconds the journal has not answered, None if it does."""
    registration = instance.registration
    status, reason = instance.status, instance.status_reason
    if unknown_since_s is not None:
        status, reason = "unknown", f"the journal has not answered for {unknown_since_s:.0f} s; it was {status} before"
    upstream, downstream = neighbours(fleet, instance.id.pipeline, instance.id.component)
    return ComponentView(
        instance=instance.id,
        incarnation=instance.incarnation,
        kind=kind_of(instance),
        status=status,
        phase=instance.phase,
        reason=reason,
        host=instance.run_host or (instance.assignment.host if instance.assignment else ""),
        address=instance.address,
        registered=registration.event if registration else None,
        registered_ns=registration.time_ns if registration else 0,
        last_heartbeat_ns=last_heartbeat_ns,
        upstream=upstream,
        downstream=downstream,
    )


def kind_of(instance: Instance) -> Kind | None:
    """What an instance is, as far as anybody has said."""
    if instance.registration is not None:
        return instance.registration.event.kind
    return instance.assignment.kind if instance.assignment is not None else None


def matching(fleet: Fleet, wanted: Filter) -> list[Instance]:
    """The instances that the filter asks for, in order of their ids."""
    found = [
        instance
        for instance in fleet.instances.values()
        if wanted.pipeline in (None, instance.id.pipeline) and (wanted.kind is None or wanted.kind == kind_of(instance))
    ]
    return sorted(found, key=lambda instance: instance.id)
