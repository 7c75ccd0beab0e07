"""Who are an instance's neighbours? Pure.

The answer is the same for every instance of a component, so it is computed once a component and shared. Instances that were
scaled away stay upstreams until they have ended: what they have sent must still be acknowledged.
"""

import msgspec

from flowctl.fleet import Fleet, Instance, PipelineState
from flowctl.ids import InstanceId
from flowctl.spec.model import Component, Input


class Link(msgspec.Struct, frozen=True):
    """One instance to receive events from; ``address`` is empty while it is not up, ``incarnation`` 0 before its first start."""

    instance: InstanceId
    incarnation: int
    address: str
    completed: bool
    drop_when_full: bool


class Peer(msgspec.Struct, frozen=True):
    """One instance that will dial in."""

    instance: InstanceId
    incarnation: int


class Group(msgspec.Struct, frozen=True):
    """One component that receives the events; its instances share them, by key if ``partition_by`` is set."""

    component: str
    instances: tuple[Peer, ...]
    partition_by: str
    drop_when_full: bool


class Topology(msgspec.Struct, frozen=True):
    """Everything that a component's instances need to know of their neighbours, in the order of the pipeline file."""

    upstreams: tuple[Link, ...] = ()
    downstreams: tuple[Group, ...] = ()


def topology_of(fleet: Fleet, pipeline_name: str, component_id: str) -> Topology:
    """The neighbours of every instance of the component; nobody for one that no pipeline has."""
    pipeline = fleet.pipelines.get(pipeline_name)
    if pipeline is None:
        return Topology()
    component = pipeline.pipeline.component(component_id) or _removed(fleet, pipeline_name, component_id)
    if component is None:
        return Topology()
    upstreams = tuple(link for entry in component.upstreams for link in _links(fleet, pipeline, entry))
    return Topology(upstreams, tuple(_groups(fleet, pipeline, component_id)))


def neighbours(fleet: Fleet, pipeline_name: str, component_id: str) -> tuple[list[str], list[str]]:
    """The ids of the components that the component receives from and sends to."""
    pipeline = fleet.pipelines.get(pipeline_name)
    component = pipeline.pipeline.component(component_id) if pipeline is not None else None
    if pipeline is None or component is None:
        return [], []
    downstream = [other.id for _, other in pipeline.pipeline.components() if _input(other, component_id) is not None]
    return [entry.from_ for entry in component.upstreams], downstream


def _removed(fleet: Fleet, pipeline: str, component: str) -> Component | None:
    """A component that the newest revision lacks, as its instances were started: they drain what they were given."""
    assignment = next(
        (instance.assignment for instance in _instances(fleet, pipeline, component, 0) if instance.assignment), None
    )
    return assignment.component if assignment is not None else None


def _links(fleet: Fleet, pipeline: PipelineState, entry: Input) -> list[Link]:
    component = pipeline.pipeline.component(entry.from_)
    replicas = pipeline.replicas_of(component) if component is not None else 0
    links: list[Link] = []
    for index in range(replicas):
        instance_id = InstanceId(pipeline.name, entry.from_, index)
        links.append(_link(instance_id, fleet.instances.get(instance_id), entry))
    leaving = _instances(fleet, pipeline.name, entry.from_, replicas)
    return links + [_link(instance.id, instance, entry) for instance in leaving if instance.active and not instance.completed]


def _link(instance_id: InstanceId, instance: Instance | None, entry: Input) -> Link:
    drop = entry.when_full == "drop"
    if instance is None:
        return Link(instance_id, 0, "", completed=False, drop_when_full=drop)
    return Link(instance_id, instance.incarnation, instance.address, instance.completed, drop)


def _groups(fleet: Fleet, pipeline: PipelineState, component_id: str) -> list[Group]:
    groups: list[Group] = []
    for _, component in pipeline.pipeline.components():
        entry = _input(component, component_id)
        if entry is None:
            continue
        ids = [InstanceId(pipeline.name, component.id, index) for index in range(pipeline.replicas_of(component))]
        peers = tuple(Peer(each, known.incarnation if (known := fleet.instances.get(each)) else 0) for each in ids)
        groups.append(Group(component.id, peers, component.partition_by or "", entry.when_full == "drop"))
    return groups


def _input(component: Component, from_: str) -> Input | None:
    return next((entry for entry in component.upstreams if entry.from_ == from_), None)


def _instances(fleet: Fleet, pipeline: str, component: str, first: int) -> list[Instance]:
    """The component's instances from number ``first`` on that the journal has heard of."""
    found: list[Instance] = []
    while (instance := fleet.instances.get(InstanceId(pipeline, component, first + len(found)))) is not None:
        found.append(instance)
    return found
