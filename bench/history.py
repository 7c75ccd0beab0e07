"""A long past for a journal, as a fleet would have written it: the same seed gives the same entries, byte for byte.

Pipelines are submitted one after another; of those that run, somebody commits a checkpoint, fails a probe, falls silent, crashes
and is started again, is scaled; hosts are lost and come back; a pipeline is stopped and submitted anew.
"""

import random
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from flowctl.ids import InstanceId
from flowctl.journal import chain
from flowctl.journal.chain import Link
from flowctl.journal.events import (
    Aggregate,
    CheckpointCommitted,
    ComponentAssigned,
    ComponentExited,
    ComponentProbed,
    ComponentRegistered,
    ComponentStarted,
    ComponentStarting,
    ComponentStatusChanged,
    ComponentUnassigned,
    HostJoined,
    HostLost,
    HostRecovered,
    JournalEvent,
    PipelineStatusChanged,
    PipelineStopRequested,
    PipelineSubmitted,
)
from flowctl.journal.log import Draft, Head
from flowctl.spec.model import Pipeline

ENTRIES_PER_PIPELINE: Final = 1_000
"""So a million entries tell of 1,000 pipelines with 10,000 instances."""
HOSTS: Final = 20

_START_NS: Final = 1_760_000_000_000_000_000


def _spec(name: str) -> Pipeline:
    """A source, two processors (one with four replicas), a sink with four: ten instances."""
    environment = {"REGION": "eu-central-1", "LOG_LEVEL": "info", "QUEUE": f"https://queues.example/{name}"}
    spec: dict[str, Any] = {
        "sources": [{"id": "orders", "command": ["/opt/app/bin/orders", "--topic", name], "env": environment}],
        "processors": [
            {"id": "parse", "command": ["/opt/app/bin/parse"], "inputs": ["orders"], "env": environment},
            {
                "id": "enrich",
                "command": ["/opt/app/bin/enrich", "--cache", "1000"],
                "inputs": ["parse"],
                "replicas": 4,
                "partition_by": "id",
                "config": {"fields": ["customer", "country", "currency"]},
                "restart": {"max_attempts": 20},
            },
        ],
        "sinks": [{"id": "store", "command": ["/opt/app/bin/store"], "inputs": ["enrich"], "replicas": 4, "env": environment}],
    }
    return msgspec.convert({"apiVersion": "flowctl/v1", "kind": "Pipeline", "metadata": {"name": name}, "spec": spec}, Pipeline)


class History:
    """Writes the past. ``links`` are endless; their sequences count from 1 and the chains begin with the first."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self._heads: dict[Aggregate, Head] = {}
        self._seq = 0
        self._runs: dict[str, int] = {}
        self._assignments: dict[InstanceId, tuple[int, str]] = {}
        self._incarnations: dict[InstanceId, int] = {}
        self._positions: dict[InstanceId, int] = {}
        self._running: list[InstanceId] = []
        self._specs: dict[str, Pipeline] = {}

    def links(self) -> Iterator[Link]:
        """The entries in order, ready to be stored."""
        for number in range(HOSTS):
            host = f"host-{number}"
            joined = HostJoined(agent=f"agent-{host}", address=f"10.0.0.{number}", drivers=["process"], labels={"zone": "a"})
            yield self._link(Aggregate.of_host(host), joined)
        while True:
            if self._seq >= len(self._specs) * ENTRIES_PER_PIPELINE:
                yield from self._submit(f"pipeline-{len(self._specs)}")
            yield from self._something()

    def _submit(self, name: str) -> Iterator[Link]:
        spec = self._specs.setdefault(name, _spec(name))
        run = self._runs[name] = self._runs.get(name, 0) + 1
        yield self._link(
            Aggregate.of_pipeline(name), PipelineSubmitted(revision=run, run=run, pipeline=spec, source="orders.yaml")
        )
        for kind, component in spec.components():
            for index in range(component.replicas):
                instance = InstanceId(name, component.id, index)
                host = f"host-{self._random.randrange(HOSTS)}"
                yield self._of(
                    instance,
                    ComponentAssigned(host=host, kind=kind, driver="process", revision=run, component=component),
                )
                self._assignments[instance] = (self._seq, host)
                yield from self._start(instance)
                if run == 1:
                    self._running.append(instance)
        yield self._link(Aggregate.of_pipeline(name), PipelineStatusChanged(status="running", previous="deploying"))

    def _start(self, instance: InstanceId) -> Iterator[Link]:
        assignment, host = self._assignments[instance]
        number = self._incarnations[instance] = self._incarnations.get(instance, 0) + 1
        yield self._of(instance, ComponentStarting(host=host, incarnation=number, assignment=assignment))
        yield self._of(instance, ComponentStarted(host=host, incarnation=number, handle=str(self._random.randrange(1 << 22))))
        kind = {"orders": "source", "store": "sink"}.get(instance.component, "processor")
        yield self._of(
            instance,
            ComponentRegistered(
                incarnation=number,
                kind=kind,  # type: ignore[arg-type]
                boot_id=f"{self._random.getrandbits(128):032x}",
                address=f"10.0.0.{self._random.randrange(HOSTS)}:{self._random.randrange(30_000, 60_000)}",
                name=instance.component,
                version="1.4.2",
                output_types=["order.parsed"],
            ),
        )

    def _something(self) -> Iterator[Link]:
        """What happens next, and to whom."""
        chance = self._random
        instance = chance.choice(self._running)
        number = self._incarnations[instance]
        assignment, host = self._assignments[instance]
        what = chance.random()
        if what < 0.55:
            source = InstanceId(instance.pipeline, "orders", 0)
            position = self._positions[source] = self._positions.get(source, 0) + chance.randrange(1, 5_000)
            yield self._of(
                source, CheckpointCommitted(incarnation=self._incarnations[source], position=position, cursor="bzoxNzI4")
            )
        elif what < 0.75:
            silent = ComponentStatusChanged(
                incarnation=number,
                status="unhealthy",
                previous="healthy",
                reason="no heartbeat for 30.2 s",
                silence_s=30.2,
                last_heartbeat_ms=chance.randrange(1 << 40),
            )
            yield self._of(instance, silent)
            yield self._of(
                instance,
                ComponentStatusChanged(incarnation=number, status="healthy", previous="unhealthy", reason="heartbeats again"),
            )
        elif what < 0.93:
            gone = ComponentExited(
                host=host, incarnation=number, assignment=assignment, code=chance.randrange(1, 4), restart_in_s=0.5
            )
            yield self._of(instance, gone)
            yield from self._start(instance)
        elif what < 0.98:
            yield self._of(instance, ComponentProbed(incarnation=number, healthy=False, detail="503 Service Unavailable"))
            yield self._of(instance, ComponentProbed(incarnation=number, healthy=True))
        elif what < 0.995:
            yield self._link(Aggregate.of_host(host), HostLost(silence_s=30.4))
            yield self._link(Aggregate.of_host(host), HostRecovered())
        else:
            yield from self._replace(instance.pipeline)

    def _replace(self, name: str) -> Iterator[Link]:
        """The pipeline is stopped and runs again from the beginning."""
        yield self._link(Aggregate.of_pipeline(name), PipelineStopRequested(reason="flowctl down"))
        for instance in [each for each in self._assignments if each.pipeline == name]:
            assignment, host = self._assignments[instance]
            yield self._of(instance, ComponentUnassigned(reason="the pipeline is to stop"))
            yield self._of(
                instance,
                ComponentExited(
                    host=host, incarnation=self._incarnations[instance], assignment=assignment, code=0, expected=True
                ),
            )
        yield self._link(Aggregate.of_pipeline(name), PipelineStatusChanged(status="stopped", previous="stopping"))
        yield from self._submit(name)

    def _of(self, instance: InstanceId, event: JournalEvent) -> Link:
        return self._link(Aggregate.of_instance(instance), event)

    def _link(self, aggregate: Aggregate, event: JournalEvent) -> Link:
        self._seq += 1
        head = self._heads.get(aggregate, Head.EMPTY)
        [link] = chain.link(
            [Draft(aggregate, event, head.seq)],
            {aggregate: head},
            actor="bench",
            correlation="",
            new_id=lambda: f"{self._random.getrandbits(128):032x}",
            wall_ns=_START_NS + self._seq * 1_000_000,
        )
        self._heads[aggregate] = Head(self._seq, link.stored.hash)
        return link
