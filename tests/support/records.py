"""Journals as they lie in a stream, made in memory: chained, sealed, the same for the same seed."""

import random
from collections.abc import Sequence
from typing import Final

from flowctl.fleet import Fleet
from flowctl.ids import InstanceId
from flowctl.journal import chain, codec
from flowctl.journal.events import (
    Aggregate,
    CheckpointCommitted,
    ComponentAssigned,
    ComponentExited,
    ComponentStarted,
    ComponentStarting,
    HostJoined,
    PipelineScaled,
    PipelineStatusChanged,
    PipelineSubmitted,
    SealPlaced,
)
from flowctl.journal.log import Draft, Record
from flowctl.spec.model import Component
from support.stories import spec_of

EPOCH_NS: Final = 1_700_000_000_000_000_000
STEP_NS: Final = 250_000_000


class Scribe:
    """Writes a journal in memory, as the services would: each entry chained, its time a quarter of a second after the last."""

    def __init__(self, seed: int = 1) -> None:
        self.fleet = Fleet()
        self.records: list[Record] = []
        self._rng = random.Random(seed)

    def write(self, *drafts: Draft, actor: str = "test") -> None:
        """Append these."""
        heads = {draft.aggregate: self.fleet.head(draft.aggregate) for draft in drafts}
        now_ns = EPOCH_NS + (len(self.records) + 1) * STEP_NS
        links = chain.link(drafts, heads, actor=actor, correlation="c-1", new_id=self._new_id, wall_ns=now_ns)
        for link in links:
            stored = link.stored
            self.put(codec.record(len(self.records) + 1, now_ns, stored.subject, stored.headers, stored.data))

    def put(self, record: Record) -> None:
        """Append what may be anything."""
        self.records.append(record)
        self.fleet.fold(codec.decode(record.seq, record.time_ns, record.subject, record.headers, record.data))

    def seal(self) -> None:
        """Seal what is there."""
        event = SealPlaced(upto=self.fleet.seq, digest=self.fleet.journal_digest)
        self.write(Draft(Aggregate.of_seals(), event, self.fleet.seq))

    def _new_id(self) -> str:
        return f"{self._rng.getrandbits(128):032x}"


def journal(count: int, *, seed: int = 1, seal_every: int = 100, last_seal: bool = True) -> list[Record]:
    """So many entries of a few pipelines with their instances and hosts, sealed now and then and (``last_seal``) at the end."""
    scribe, rng = Scribe(seed), random.Random(seed)
    names = [f"p{n}" for n in range(1 + count // 200)]
    for name in names:
        scribe.write(Draft(Aggregate.of_pipeline(name), PipelineSubmitted(revision=1, pipeline=spec_of(name), source="ü")))
    scribe.write(Draft(Aggregate.of_host("h1"), HostJoined(agent="a", address="10.0.0.1", drivers=["process"])))
    while len(scribe.records) < count - last_seal:
        if seal_every and len(scribe.records) % seal_every == seal_every - 1:
            scribe.seal()
            continue
        scribe.write(_something(scribe, rng, rng.choice(names)))
    if last_seal:
        scribe.seal()
    return scribe.records


def _something(scribe: Scribe, rng: random.Random, name: str) -> Draft:
    instance = InstanceId(name, rng.choice(["numbers", "double", "keep"]), rng.randrange(2))
    aggregate, number = Aggregate.of_instance(instance), len(scribe.records)
    component = Component(id=instance.component, command=["x"])
    event = rng.choice(
        [
            ComponentAssigned(host="h1", kind="source", driver="process", revision=1, component=component, reason="free"),
            ComponentStarting(host="h1", incarnation=number, assignment=number),
            ComponentStarted(host="h1", incarnation=number, handle=str(number)),
            ComponentExited(host="h1", incarnation=number, assignment=number, code=rng.randrange(3)),
            CheckpointCommitted(incarnation=number, position=number),
            None,
        ]
    )
    if event is not None:
        return Draft(aggregate, event, rng.randrange(number))
    pipeline = Aggregate.of_pipeline(name)
    if rng.random() < 0.5:
        return Draft(pipeline, PipelineScaled(component="double", replicas=rng.randint(1, 5)))
    return Draft(pipeline, PipelineStatusChanged(status=rng.choice(["running", "degraded"]), reason="because"))


def folded(records: Sequence[Record]) -> Fleet:
    """The fold of these."""
    fleet = Fleet()
    for record in records:
        fleet.fold(codec.decode(record.seq, record.time_ns, record.subject, record.headers, record.data))
    return fleet
