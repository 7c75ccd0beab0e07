"""The fleet: pipelines, instances and hosts as the journal tells them. A pure fold, shared by every service.

``Fleet.apply`` is total: any entry in any order leaves a valid state. What it does for one instance is ``flowctl.instance``.
A placement that was decided before something that it should have known is passed over, by every reader alike.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import field

from flowctl.ids import InstanceId
from flowctl.instance import (
    ACTIVE_RUN_STATES,
    RUN_LIFECYCLE,
    Assignment,
    Checkpoint,
    Instance,
    Phase,
    Registration,
    RunState,
    fold_instance,
)
from flowctl.journal import seals
from flowctl.journal.events import (
    Aggregate,
    AggregateKind,
    ComponentAssigned,
    ComponentUnassigned,
    HostDrainCancelled,
    HostDrainRequested,
    HostEvent,
    HostJoined,
    HostLeft,
    HostLost,
    HostReconnected,
    HostRecovered,
    JournalEvent,
    PipelineEvent,
    PipelineScaled,
    PipelineStatus,
    PipelineStatusChanged,
    PipelineStopRequested,
    PipelineSubmitted,
    SealPlaced,
)
from flowctl.journal.log import Entry, Head, Poison, Unknown
from flowctl.journal.subjects import TOKENS
from flowctl.spec.model import Component, Kind, Pipeline

__all__ = [
    "ACTIVE_RUN_STATES",
    "ENDED",
    "HOST_LIFECYCLE",
    "MAX_QUARANTINE",
    "MAX_REPLICAS",
    "RUN_LIFECYCLE",
    "Assignment",
    "Checkpoint",
    "Fleet",
    "Host",
    "HostStatus",
    "Instance",
    "Phase",
    "PipelineState",
    "Quarantined",
    "Registration",
    "RunState",
    "Seal",
    "fold_instance",
]

ENDED: Final[frozenset[PipelineStatus]] = frozenset({"completed", "stopped", "failed"})

MAX_QUARANTINE: Final = 1_000
MAX_REPLICAS: Final = 1_000


class PipelineState(msgspec.Struct):
    """One pipeline: its newest revision, and where it is in its lifecycle.

    ``…_seq`` is the journal sequence of the entry that said so, ``run_seq`` that of the submission that began the present run;
    ``correlation`` is the name that the last command gave to everything that comes of it.
    """

    name: str
    pipeline: Pipeline
    revision: int
    run: int
    submitted_seq: int
    submitted_ns: int
    run_seq: int = 0
    status: PipelineStatus = "deploying"
    status_reason: str = ""
    status_since_ns: int = 0
    status_seq: int = 0
    replicas: dict[str, int] = field(default_factory=dict[str, int])
    scaled_seq: int = 0
    stop_requested: PipelineStopRequested | None = None
    stop_seq: int = 0
    source: str = ""
    correlation: str = ""

    @property
    def ended(self) -> bool:
        """Whether it is completed, stopped or failed."""
        return self.status in ENDED

    @property
    def command_seq(self) -> int:
        """The last entry that said what is wanted: a submission, a change of scale or a request to stop."""
        return max(self.submitted_seq, self.scaled_seq, self.stop_seq)

    def replicas_of(self, component: Component) -> int:
        """How many instances a component is to have now."""
        return self.replicas.get(component.id, component.replicas)

    def instance_ids(self) -> Iterator[tuple[InstanceId, Kind, Component]]:
        """Every instance that the pipeline is to have, in file order."""
        for kind, component in self.pipeline.components():
            for index in range(self.replicas_of(component)):
                yield InstanceId(self.name, component.id, index), kind, component


HostStatus = Literal["up", "lost", "left"]

HOST_LIFECYCLE: Final[dict[HostStatus, dict[type[JournalEvent], HostStatus]]] = {
    "up": {HostLost: "lost", HostLeft: "left"},
    "lost": {HostRecovered: "up", HostLeft: "left"},
    "left": {},
}
"""State x event -> state; what is not here changes nothing. ``HostJoined`` makes a host ``up`` whatever it was."""


class Host(msgspec.Struct):
    """One machine with an agent. ``seq`` is the entry that gave it its status.

    ``drain`` is the request to empty it, as long as it stands; ``drain_seq`` the last entry that asked for that or took it back.
    """

    name: str
    joined: HostJoined
    status: HostStatus = "up"
    since_ns: int = 0
    reason: str = ""
    seq: int = 0
    drain: HostDrainRequested | None = None
    drain_seq: int = 0


class Quarantined(msgspec.Struct, frozen=True):
    """A poison entry's place and what is wrong with it."""

    seq: int
    subject: str
    reason: str


class Seal(msgspec.Struct, frozen=True):
    """The newest seal: entry ``seq`` says that the journal up to ``upto`` has this digest."""

    seq: int = 0
    upto: int = 0
    digest: str = seals.NOTHING
    time_ns: int = 0


class Fleet(msgspec.Struct):
    """Everything that the journal says, up to and including entry ``seq``.

    ``journal_digest`` is the digest of all those entries (``flowctl.journal.seals``), whatever they say.
    """

    seq: int = 0
    time_ns: int = 0
    pipelines: dict[str, PipelineState] = field(default_factory=dict[str, PipelineState])
    instances: dict[InstanceId, Instance] = field(default_factory=dict[InstanceId, Instance])
    hosts: dict[str, Host] = field(default_factory=dict[str, Host])
    heads: dict[Aggregate, Head] = field(default_factory=dict[Aggregate, Head])
    unknown_total: int = 0
    poison_total: int = 0
    quarantine: list[Quarantined] = field(default_factory=list[Quarantined])
    journal_digest: str = seals.NOTHING
    seal: Seal = Seal()
    members: dict[str, list[Instance]] = field(default_factory=dict[str, list[Instance]])
    """The instances by pipeline, in the order in which they were first heard of; derived from ``instances``."""

    def head(self, aggregate: Aggregate) -> Head:
        """Where the aggregate ends as far as this fold has read."""
        return self.heads.get(aggregate, Head.EMPTY)

    def instances_of(self, pipeline: str) -> list[Instance]:
        """The instances of a pipeline that the journal has heard of, in order of their ids."""
        return sorted(self.members.get(pipeline, ()), key=lambda instance: instance.id)

    def correlation_of(self, pipeline: str) -> str:
        """The name that the last command about a pipeline gave to everything that comes of it; empty if it gave none."""
        state = self.pipelines.get(pipeline)
        return state.correlation if state is not None else ""

    def digest(self) -> str:
        """A SHA-256 (hex) of the whole state. Two folds of the same journal have the same, whatever way they went."""
        sha = hashlib.sha256()
        parts: list[object] = [
            [self.seq, self.time_ns, self.unknown_total, self.poison_total, self.journal_digest],
            self.seal,
            self.quarantine,
            *(self.pipelines[name] for name in sorted(self.pipelines)),
            *(self.hosts[name] for name in sorted(self.hosts)),
            *(self.instances[id_] for id_ in sorted(self.instances)),
            *([aggregate, self.heads[aggregate]] for aggregate in sorted(self.heads)),
        ]
        for part in parts:
            sha.update(_CANONICAL.encode(part))
        return sha.hexdigest()

    def add(self, instances: Iterable[Instance]) -> None:
        """Take in instances that another fold made."""
        for instance in instances:
            self.instances[instance.id] = instance
            self.members.setdefault(instance.id.pipeline, []).append(instance)

    def apply(self, entry: Entry) -> None:
        """Fold one entry. Entries must come in sequence; one that was folded already changes nothing."""
        if entry.seq <= self.seq:
            return
        self.seq = entry.seq
        self.time_ns = max(self.time_ns, entry.time_ns)
        self.journal_digest = seals.advance(self.journal_digest, entry.hash, entry.time_ns)
        aggregate, event = entry.aggregate, entry.event
        if aggregate is not None:
            self.heads[aggregate] = Head(entry.seq, entry.hash)
        if isinstance(event, Unknown):
            self.unknown_total += 1
        elif isinstance(event, Poison):
            self.put_aside(entry, event.reason)
        elif aggregate is None or _KINDS[type(event)] != aggregate.kind:
            self.put_aside(entry, f"a {type(event).__name__} does not belong to {aggregate or 'no aggregate'}")
        elif aggregate.kind == "component":
            if type(event) not in _DECIDED or not self._overtaken(aggregate, event):  # type: ignore[arg-type]
                fold_instance(self._instance(aggregate.instance), event, entry)  # type: ignore[arg-type]
        elif aggregate.kind == "pipeline":
            self._apply_pipeline(entry, aggregate.key[0], event)  # type: ignore[arg-type]
        elif aggregate.kind == "host":
            self._apply_host(entry, aggregate.key[0], event)  # type: ignore[arg-type]
        else:
            self._apply_seal(entry, event)  # type: ignore[arg-type]

    def fold(self, entry: Entry) -> Exception | None:
        """Apply an entry, and put aside one on which that fails; returns the failure, an error in this release's own fold."""
        try:
            self.apply(entry)
        except Exception as error:  # noqa: BLE001 - whatever it is, the journal must stay readable
            self.put_aside(entry, "it could not be folded")
            return error
        return None

    def put_aside(self, entry: Entry, reason: str) -> None:
        """Count an entry that cannot be used, and remember it while there is room."""
        self.poison_total += 1
        if len(self.quarantine) < MAX_QUARANTINE:
            self.quarantine.append(Quarantined(entry.seq, entry.subject, reason))

    def _overtaken(self, aggregate: Aggregate, event: ComponentAssigned | ComponentUnassigned) -> bool:
        """Whether something was said that this decision should have known and did not: of the pipeline, or of the host."""
        known = event.decided_on
        if not known:
            return False
        state = self.pipelines.get(aggregate.key[0])
        if state is not None and state.command_seq > known:
            return True
        if isinstance(event, ComponentUnassigned):
            return False
        if state is not None and state.ended and state.status_seq > known:
            return True
        host = self.hosts.get(event.host)
        if host is None:
            return False
        return (host.status != "up" and host.seq > known) or (host.drain is not None and host.drain_seq > known)

    def _instance(self, instance_id: InstanceId) -> Instance:
        instance = self.instances.get(instance_id)
        if instance is None:
            instance = Instance(instance_id)
            self.add([instance])
        return instance

    def _apply_pipeline(self, entry: Entry, name: str, event: PipelineEvent) -> None:
        if isinstance(event, PipelineSubmitted):
            self._submit(entry, name, event)
            return
        state = self.pipelines.get(name)
        if state is None:
            return
        match event:
            case PipelineScaled():
                if state.pipeline.component(event.component) is None or not 1 <= event.replicas <= MAX_REPLICAS:
                    return
                state.replicas = {**state.replicas, event.component: event.replicas}
                state.scaled_seq, state.correlation = entry.seq, entry.correlation
            case PipelineStopRequested():
                state.stop_requested = event
                state.stop_seq, state.correlation = entry.seq, entry.correlation
            case PipelineStatusChanged():
                if event.status != state.status:
                    state.status_since_ns = entry.time_ns
                state.status, state.status_reason, state.status_seq = event.status, event.reason, entry.seq

    def _submit(self, entry: Entry, name: str, event: PipelineSubmitted) -> None:
        previous = self.pipelines.get(name)
        begins = previous is None or event.run > previous.run
        if begins:
            for instance in self.members.get(name, ()):
                instance.begin_run(entry)
        self.pipelines[name] = PipelineState(
            name=name,
            pipeline=event.pipeline,
            revision=event.revision,
            run=event.run,
            submitted_seq=entry.seq,
            submitted_ns=entry.time_ns,
            run_seq=entry.seq if previous is None or begins else previous.run_seq,
            status_since_ns=entry.time_ns,
            status_seq=entry.seq,
            source=event.source,
            correlation=entry.correlation,
        )

    def _apply_seal(self, entry: Entry, event: SealPlaced) -> None:
        if self.seal.upto < event.upto < entry.seq:
            self.seal = Seal(entry.seq, event.upto, event.digest, entry.time_ns)

    def _apply_host(self, entry: Entry, name: str, event: HostEvent) -> None:
        host = self.hosts.get(name)
        if isinstance(event, HostJoined):
            drain, drain_seq = (host.drain, host.drain_seq) if host is not None else (None, 0)
            self.hosts[name] = Host(name, event, "up", entry.time_ns, seq=entry.seq, drain=drain, drain_seq=drain_seq)
            return
        if isinstance(event, HostDrainRequested | HostDrainCancelled):
            if host is not None:
                host.drain = event if isinstance(event, HostDrainRequested) else None
                host.drain_seq = entry.seq
            return
        to = HOST_LIFECYCLE[host.status].get(type(event)) if host is not None else None
        if host is None or to is None:
            return
        host.status, host.since_ns, host.seq = to, entry.time_ns, entry.seq
        match event:
            case HostLost():
                host.reason = f"no heartbeat for {event.silence_s:.1f} s"
            case HostRecovered():
                host.reason = ""
            case HostLeft():
                host.reason = event.reason
            case HostReconnected():
                pass


_DECIDED: Final = (ComponentAssigned, ComponentUnassigned)
_CANONICAL: Final = msgspec.msgpack.Encoder(order="deterministic")
_KINDS: Final[Mapping[type[Any], AggregateKind]] = {event_type: kind for event_type, (kind, _) in TOKENS.items()}
