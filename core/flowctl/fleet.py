"""The fleet: pipelines, instances and hosts as the journal tells them. A pure fold, shared by every service.

``Fleet.apply`` is total: any entry in any order leaves a valid state. Entries of an older incarnation or assignment than the
present one are history and change nothing.
"""

from collections.abc import Iterator
from typing import Final, Literal

import msgspec
from msgspec import field

from flowctl.ids import InstanceId
from flowctl.journal.events import (
    Aggregate,
    CheckpointCommitted,
    ComponentAssigned,
    ComponentDeregistered,
    ComponentEvent,
    ComponentExited,
    ComponentFailed,
    ComponentProbed,
    ComponentRegistered,
    ComponentStarted,
    ComponentStarting,
    ComponentStatusChanged,
    ComponentUnassigned,
    HostEvent,
    HostJoined,
    HostLeft,
    HostLost,
    HostRecovered,
    JournalEvent,
    PipelineEvent,
    PipelineScaled,
    PipelineStatus,
    PipelineStatusChanged,
    PipelineStopRequested,
    PipelineSubmitted,
    Status,
)
from flowctl.journal.log import Entry, Head, Poison, Unknown
from flowctl.spec.model import Component, Driver, Kind, Pipeline

RunState = Literal["none", "starting", "started", "running", "ending", "exited"]
"""Where the latest incarnation of an instance is."""

RUN_LIFECYCLE: Final[dict[RunState, dict[type[JournalEvent], RunState]]] = {
    "none": {ComponentStarting: "starting", ComponentRegistered: "running"},
    "starting": {ComponentStarted: "started", ComponentRegistered: "running", ComponentExited: "exited"},
    "started": {ComponentRegistered: "running", ComponentExited: "exited"},
    "running": {
        ComponentRegistered: "running",
        ComponentStarted: "running",
        ComponentDeregistered: "ending",
        ComponentExited: "exited",
    },
    "ending": {ComponentRegistered: "running", ComponentStarted: "ending", ComponentExited: "exited"},
    "exited": {},
}
"""State x event of the same incarnation -> state; what is not here changes nothing. A new incarnation starts at ``none``."""

Phase = Literal[
    "assigned", "starting", "started", "running", "restarting", "replacing", "stopping", "stopped", "completed", "failed"
]
"""What an operator calls the state of an instance."""

ACTIVE_RUN_STATES: Final[frozenset[RunState]] = frozenset({"starting", "started", "running", "ending"})
ENDED: Final[frozenset[PipelineStatus]] = frozenset({"completed", "stopped", "failed"})

MAX_QUARANTINE: Final = 1_000
RESTART_MEMORY: Final = 32


class Assignment(msgspec.Struct, frozen=True):
    """Which host is to run an instance, and what exactly. ``seq`` is the journal sequence that named it."""

    seq: int
    host: str
    kind: Kind
    driver: Driver
    revision: int
    component: Component
    reason: str = ""


class Checkpoint(msgspec.Struct, frozen=True):
    """Every event up to ``position`` is in every sink. ``cursor`` is the source's own words, base64."""

    position: int
    cursor: str = ""
    incarnation: int = 0


class Registration(msgspec.Struct, frozen=True):
    """What a program said of itself, and when (Unix nanoseconds by the journal)."""

    event: ComponentRegistered
    time_ns: int


class Instance(msgspec.Struct):
    """One instance: what is wanted of it (``assignment``), and where its latest incarnation is (``run``)."""

    id: InstanceId
    assignment: Assignment | None = None
    ever_assigned: bool = False
    incarnation: int = 0
    run: RunState = "none"
    run_assignment: int = 0
    run_host: str = ""
    handle: str = ""
    registration: Registration | None = None
    status: Status = "unknown"
    status_reason: str = ""
    status_since_ns: int = 0
    probe: ComponentProbed | None = None
    completed: bool = False
    failure: ComponentFailed | None = None
    last_exit: ComponentExited | None = None
    last_exit_ns: int = 0
    restart_times_ns: list[int] = field(default_factory=list[int])
    restarts: int = 0
    checkpoint: Checkpoint | None = None
    since_ns: int = 0
    seq: int = 0

    @property
    def active(self) -> bool:
        """Whether an incarnation exists that has not been seen to exit."""
        return self.run in ACTIVE_RUN_STATES

    @property
    def wanted(self) -> bool:
        """Whether its host should keep it running."""
        return self.assignment is not None and not self.completed and self.failure is None

    @property
    def address(self) -> str:
        """Where its data plane listens, host:port; empty while it does not."""
        return self.registration.event.address if self.registration and self.run == "running" else ""

    @property
    def phase(self) -> Phase:
        """What an operator calls its state."""
        if self.failure is not None:
            return "failed"
        if self.completed:
            return "completed"
        if self.assignment is None:
            if not self.active:
                return "stopped"
            return "stopping" if self.ever_assigned or self.run == "ending" else "running"
        match self.run:
            case "none":
                return "assigned"
            case "exited":
                return "restarting" if self.run_assignment == self.assignment.seq else "assigned"
            case _ if self.run_assignment != self.assignment.seq:
                return "replacing"
            case "starting" | "started" | "running":
                return self.run
            case "ending":
                return "stopping"


class PipelineState(msgspec.Struct):
    """One pipeline: its newest revision, and where it is in its lifecycle."""

    name: str
    pipeline: Pipeline
    revision: int
    run: int
    submitted_seq: int
    submitted_ns: int
    status: PipelineStatus = "deploying"
    status_reason: str = ""
    status_since_ns: int = 0
    replicas: dict[str, int] = field(default_factory=dict[str, int])
    stop_requested: PipelineStopRequested | None = None
    source: str = ""

    @property
    def ended(self) -> bool:
        """Whether it is completed, stopped or failed."""
        return self.status in ENDED

    def replicas_of(self, component: Component) -> int:
        """How many instances a component is to have now."""
        return self.replicas.get(component.id, component.replicas)

    def instance_ids(self) -> Iterator[tuple[InstanceId, Kind, Component]]:
        """Every instance that the pipeline is to have, in file order."""
        for kind, component in self.pipeline.components():
            for index in range(self.replicas_of(component)):
                yield InstanceId(self.name, component.id, index), kind, component


HostStatus = Literal["up", "lost", "left"]


class Host(msgspec.Struct):
    """One machine with an agent."""

    name: str
    joined: HostJoined
    status: HostStatus = "up"
    since_ns: int = 0
    reason: str = ""


class Quarantined(msgspec.Struct, frozen=True):
    """A poison entry's place and what is wrong with it."""

    seq: int
    subject: str
    reason: str


class Fleet(msgspec.Struct):
    """Everything that the journal says, up to and including entry ``seq``."""

    seq: int = 0
    time_ns: int = 0
    pipelines: dict[str, PipelineState] = field(default_factory=dict[str, PipelineState])
    instances: dict[InstanceId, Instance] = field(default_factory=dict[InstanceId, Instance])
    hosts: dict[str, Host] = field(default_factory=dict[str, Host])
    heads: dict[Aggregate, Head] = field(default_factory=dict[Aggregate, Head])
    unknown_total: int = 0
    poison_total: int = 0
    quarantine: list[Quarantined] = field(default_factory=list[Quarantined])

    def head(self, aggregate: Aggregate) -> Head:
        """Where the aggregate ends as far as this fold has read."""
        return self.heads.get(aggregate, Head.EMPTY)

    def instances_of(self, pipeline: str) -> list[Instance]:
        """The instances of a pipeline that the journal has heard of, in order of their ids."""
        found = [instance for instance in self.instances.values() if instance.id.pipeline == pipeline]
        return sorted(found, key=lambda instance: instance.id)

    def apply(self, entry: Entry) -> None:
        """Fold one entry. Entries must come in sequence; one that was folded already changes nothing."""
        if entry.seq <= self.seq:
            return
        self.seq = entry.seq
        self.time_ns = max(self.time_ns, entry.time_ns)
        if entry.aggregate is not None:
            self.heads[entry.aggregate] = Head(entry.seq, entry.hash)
        event = entry.event
        if isinstance(event, Unknown):
            self.unknown_total += 1
        elif isinstance(event, Poison):
            self._quarantine(entry, event)
        elif entry.aggregate is None:
            self._quarantine(entry, Poison("no aggregate"))
        elif isinstance(event, ComponentEvent):
            self._apply_component(entry, entry.aggregate.instance, event)
        elif isinstance(event, PipelineEvent):
            self._apply_pipeline(entry, entry.aggregate.key[0], event)
        else:
            self._apply_host(entry, entry.aggregate.key[0], event)

    def _quarantine(self, entry: Entry, poison: Poison) -> None:
        self.poison_total += 1
        if len(self.quarantine) < MAX_QUARANTINE:
            self.quarantine.append(Quarantined(entry.seq, entry.subject, poison.reason))

    def _apply_component(self, entry: Entry, instance_id: InstanceId, event: ComponentEvent) -> None:
        instance = self.instances.get(instance_id)
        if instance is None:
            instance = self.instances[instance_id] = Instance(instance_id)
        before = instance.phase
        instance.seq = entry.seq
        fold_instance(instance, event, entry)
        if instance.phase != before or instance.since_ns == 0:
            instance.since_ns = entry.time_ns

    def _apply_pipeline(self, entry: Entry, name: str, event: PipelineEvent) -> None:
        if isinstance(event, PipelineSubmitted):
            self._submit(entry, name, event)
            return
        state = self.pipelines.get(name)
        if state is None:
            return
        match event:
            case PipelineScaled():
                state.replicas = {**state.replicas, event.component: event.replicas}
            case PipelineStopRequested():
                state.stop_requested = event
            case PipelineStatusChanged():
                state.status = event.status
                state.status_reason = event.reason
                state.status_since_ns = entry.time_ns

    def _submit(self, entry: Entry, name: str, event: PipelineSubmitted) -> None:
        previous = self.pipelines.get(name)
        if previous is not None and event.run > previous.run:
            for instance in self.instances_of(name):
                instance.checkpoint = None
        self.pipelines[name] = PipelineState(
            name=name,
            pipeline=event.pipeline,
            revision=event.revision,
            run=event.run,
            submitted_seq=entry.seq,
            submitted_ns=entry.time_ns,
            status="deploying",
            status_since_ns=entry.time_ns,
            source=event.source,
        )

    def _apply_host(self, entry: Entry, name: str, event: HostEvent) -> None:
        if isinstance(event, HostJoined):
            self.hosts[name] = Host(name, event, "up", entry.time_ns)
            return
        host = self.hosts.get(name)
        if host is None:
            return
        host.since_ns = entry.time_ns
        match event:
            case HostLost():
                host.status, host.reason = "lost", f"no heartbeat for {event.silence_s:.1f} s"
            case HostRecovered():
                host.status, host.reason = "up", ""
            case HostLeft():
                host.status, host.reason = "left", event.reason


def fold_instance(instance: Instance, event: ComponentEvent, entry: Entry) -> None:
    """Fold one event of its aggregate into an instance."""
    match event:
        case ComponentAssigned():
            instance.assignment = Assignment(
                entry.seq, event.host, event.kind, event.driver, event.revision, event.component, event.reason
            )
            instance.ever_assigned = True
            instance.completed = False
            instance.failure = None
            instance.restart_times_ns = []
        case ComponentUnassigned():
            instance.assignment = None
        case ComponentStarting():
            _start(instance, event, entry)
        case ComponentStarted():
            if event.incarnation == instance.incarnation:
                _advance(instance, event)
                instance.handle = event.handle
        case ComponentRegistered():
            if event.incarnation < instance.incarnation:
                return
            if event.incarnation > instance.incarnation:
                instance.incarnation, instance.run = event.incarnation, "none"
            _advance(instance, event)
            instance.registration = Registration(event, entry.time_ns)
            instance.completed = False
            _set_status(instance, "healthy", "registered", entry)
        case ComponentDeregistered():
            if event.incarnation == instance.incarnation:
                _advance(instance, event)
                instance.completed = event.reason == "completed"
                _set_status(instance, "unknown", f"deregistered: {event.reason}", entry)
        case ComponentStatusChanged():
            if event.incarnation == instance.incarnation:
                _set_status(instance, event.status, event.reason, entry)
        case ComponentProbed():
            if event.incarnation == instance.incarnation:
                instance.probe = event
        case ComponentExited():
            _exit(instance, event, entry)
        case ComponentFailed():
            if instance.assignment is not None and event.assignment == instance.assignment.seq:
                instance.failure = event
        case CheckpointCommitted():
            if event.incarnation == instance.incarnation:
                instance.checkpoint = Checkpoint(event.position, event.cursor, event.incarnation)


def _start(instance: Instance, event: ComponentStarting, entry: Entry) -> None:
    if event.incarnation <= instance.incarnation:
        return
    if instance.run_assignment == event.assignment and instance.incarnation > 0:
        instance.restarts += 1
        instance.restart_times_ns = [*instance.restart_times_ns[-RESTART_MEMORY + 1 :], entry.time_ns]
    instance.incarnation = event.incarnation
    instance.run = "starting"
    instance.run_assignment = event.assignment
    instance.run_host = event.host
    instance.handle = ""
    instance.registration = None
    instance.probe = None
    _set_status(instance, "unknown", "starting", entry)


def _exit(instance: Instance, event: ComponentExited, entry: Entry) -> None:
    if event.incarnation != instance.incarnation:
        return
    _advance(instance, event)
    instance.last_exit, instance.last_exit_ns = event, entry.time_ns
    _set_status(instance, "unknown", "exited", entry)


def _advance(instance: Instance, event: ComponentEvent) -> None:
    instance.run = RUN_LIFECYCLE[instance.run].get(type(event), instance.run)


def _set_status(instance: Instance, status: Status, reason: str, entry: Entry) -> None:
    if status != instance.status:
        instance.status_since_ns = entry.time_ns
    instance.status, instance.status_reason = status, reason
