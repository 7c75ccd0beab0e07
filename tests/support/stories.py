"""Fleets made of a few facts, for tests of pure decisions; no journal, no clock."""

from typing import Any, Final

import msgspec

from flowctl.fleet import Fleet
from flowctl.ids import InstanceId
from flowctl.journal.events import (
    Aggregate,
    ComponentAssigned,
    ComponentRegistered,
    ComponentStarted,
    ComponentStarting,
    JournalEvent,
    PipelineSubmitted,
)
from flowctl.journal.log import Entry
from flowctl.spec.model import Component, Kind, Pipeline

EPOCH_NS: Final = 1_700_000_000_000_000_000
SECOND_NS: Final = 1_000_000_000


def spec_of(name: str = "orders", **parts: list[dict[str, Any]]) -> Pipeline:
    """A pipeline: by default ``numbers`` → ``double`` (two instances) → ``keep``."""
    spec = parts or {
        "sources": [{"id": "numbers", "command": ["numbers"]}],
        "processors": [{"id": "double", "command": ["double"], "inputs": ["numbers"], "replicas": 2, "partition_by": "id"}],
        "sinks": [{"id": "keep", "command": ["keep"], "inputs": [{"from": "double", "when_full": "drop"}]}],
    }
    return msgspec.convert({"apiVersion": "flowctl/v1", "kind": "Pipeline", "metadata": {"name": name}, "spec": spec}, Pipeline)


class Story:
    """A fleet, and how it came about. Entries come a millisecond apart unless ``at_s`` (seconds since the epoch of the story)."""

    def __init__(self) -> None:
        self.fleet = Fleet()
        self.now_ns = EPOCH_NS

    def tell(self, aggregate: Aggregate, event: JournalEvent, *, at_s: float | None = None) -> int:
        """One more fact; its sequence."""
        self.now_ns = self.now_ns + 1_000_000 if at_s is None else EPOCH_NS + round(at_s * SECOND_NS)
        seq = self.fleet.seq + 1
        self.fleet.apply(Entry(seq, self.now_ns, "", aggregate, event, hash=f"{seq:064x}"))
        return seq

    def submit(self, pipeline: Pipeline | None = None, *, revision: int = 1, run: int = 1) -> None:
        """A pipeline is submitted."""
        pipeline = pipeline or spec_of()
        self.tell(Aggregate.of_pipeline(pipeline.name), PipelineSubmitted(revision=revision, run=run, pipeline=pipeline))

    def of(self, instance: InstanceId, event: JournalEvent, *, at_s: float | None = None) -> int:
        """A fact about an instance."""
        return self.tell(Aggregate.of_instance(instance), event, at_s=at_s)

    def assign(self, instance: InstanceId, kind: Kind) -> int:
        """An instance is assigned to host ``h1``; the assignment."""
        pipeline = self.fleet.pipelines.get(instance.pipeline)
        component = pipeline.pipeline.component(instance.component) if pipeline is not None else None
        component = component or Component(id=instance.component, command=["x"])
        return self.of(instance, ComponentAssigned(host="h1", kind=kind, driver="process", revision=1, component=component))

    def start(self, instance: InstanceId, kind: Kind, *, incarnation: int = 1) -> int:
        """The agent starts an incarnation under a new assignment; the assignment."""
        assignment = self.assign(instance, kind)
        self.of(instance, ComponentStarting(host="h1", incarnation=incarnation, assignment=assignment))
        self.of(instance, ComponentStarted(host="h1", incarnation=incarnation, handle="1"))
        return assignment

    def register(
        self, instance: InstanceId, kind: Kind, *, incarnation: int = 1, boot_id: str = "boot-1", at_s: float | None = None
    ) -> int:
        """A program registers at ``10.0.0.1:5000`` (a sink nowhere)."""
        address = "" if kind == "sink" else "10.0.0.1:5000"
        event = ComponentRegistered(incarnation=incarnation, kind=kind, boot_id=boot_id, address=address)
        return self.of(instance, event, at_s=at_s)


def orders(component: str, index: int = 0) -> InstanceId:
    """An instance of pipeline ``orders``."""
    return InstanceId("orders", component, index)
