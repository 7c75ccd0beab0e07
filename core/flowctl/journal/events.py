"""The journal events: every kind of fact that the journal holds.

Append-only: a released type never changes its meaning. A new shape is a new version (``VERSIONS``) with an upcaster from the
one before (``UPCASTERS``). Times inside events are durations in seconds; when a thing happened is the entry's own time.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import msgspec
from msgspec import field

from flowctl.ids import InstanceId
from flowctl.spec.model import Component, Driver, Kind, Pipeline

Status = Literal["healthy", "unhealthy", "unknown"]
PipelineStatus = Literal["deploying", "running", "degraded", "stopping", "completed", "stopped", "failed"]
DeregisterReason = Literal["completed", "stopped", "failed"]
RedriveOutcome = Literal["delivered", "failed"]


class Fact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag=True):
    """What every journal event has in common: immutable, and its JSON carries its own name as ``type``."""


# --- pipelines -------------------------------------------------------------------------------------------------------------


class PipelineSubmitted(Fact, frozen=True, kw_only=True):
    """A pipeline file was accepted; ``revision`` counts from 1. References to secrets stand unresolved in ``pipeline``.

    ``run`` counts the runs from the beginning: a new run forgets the checkpoints of the one before.
    """

    revision: int
    pipeline: Pipeline
    run: int = 1
    source: str = ""


class PipelineScaled(Fact, frozen=True, kw_only=True):
    """The desired number of a component's instances was changed."""

    component: str
    replicas: int


class PipelineStopRequested(Fact, frozen=True, kw_only=True):
    """Somebody asked for the pipeline to end."""

    reason: str = ""


class PipelineStatusChanged(Fact, frozen=True, kw_only=True):
    """The pipeline moved along its lifecycle."""

    status: PipelineStatus
    previous: PipelineStatus | None = None
    reason: str = ""


# --- instances -------------------------------------------------------------------------------------------------------------


class ComponentAssigned(Fact, frozen=True, kw_only=True):
    """A host is to run the instance; the entry's own sequence names this assignment. A later one replaces it.

    ``rolling`` says that it takes the place of an assignment that was well: no other is replaced until this one is well too.
    ``decided_on`` is the last entry of the journal that whoever decided this had read (0: not said). It means nothing if a
    command about the pipeline, the pipeline's end, or the host's loss or drain stands between that entry and this one.
    """

    host: str
    kind: Kind
    driver: Driver
    revision: int
    component: Component
    reason: str = ""
    rolling: bool = False
    decided_on: int = 0


class ComponentUnassigned(Fact, frozen=True, kw_only=True):
    """No host is to run the instance any more. Without ``drain`` it is not worth waiting for what it has in hand.

    It means nothing if a command about the pipeline stands between the entry that it was ``decided_on`` and this one.
    """

    reason: str = ""
    drain: bool = True
    decided_on: int = 0


class ComponentStarting(Fact, frozen=True, kw_only=True):
    """The agent is about to start a new incarnation. Written before the start: whoever holds this entry holds the number."""

    host: str
    incarnation: int
    assignment: int


class ComponentStarted(Fact, frozen=True, kw_only=True):
    """The driver has started the program; ``handle`` is the driver's name for it (a pid, a container id)."""

    host: str
    incarnation: int
    handle: str


class ComponentRegistered(Fact, frozen=True, kw_only=True):
    """The program announced itself. ``address`` is where its data plane listens (host:port), empty for a sink."""

    incarnation: int
    kind: Kind
    boot_id: str
    address: str = ""
    health_endpoint: str = ""
    name: str = ""
    version: str = ""
    description: str = ""
    output_types: list[str] = field(default_factory=list[str])
    labels: dict[str, str] = field(default_factory=dict[str, str])


class ComponentDeregistered(Fact, frozen=True, kw_only=True):
    """The program said that it ends on purpose. ``completed`` is durable: nothing more will ever come of this instance."""

    incarnation: int
    reason: DeregisterReason
    detail: str = ""


class ComponentStatusChanged(Fact, frozen=True, kw_only=True):
    """The health monitor changed its mind, with the evidence that it had."""

    incarnation: int
    status: Status
    previous: Status
    reason: str
    silence_s: float | None = None
    last_heartbeat_ms: int | None = None


class ComponentProbed(Fact, frozen=True, kw_only=True):
    """The agent's HTTP probe of the instance began to fail or to succeed again (changes only)."""

    incarnation: int
    healthy: bool
    detail: str = ""


class ComponentExited(Fact, frozen=True, kw_only=True):
    """The program is gone. ``code`` is its exit code, None if unknown or if ``signal`` (its number) ended it.

    ``ended_ago_s`` is how long before this was written it ended, by its host's clock; None if nobody knows.
    """

    host: str
    incarnation: int
    assignment: int
    code: int | None = None
    signal: int | None = None
    detail: str = ""
    expected: bool = False
    restart_in_s: float | None = None
    ended_ago_s: float | None = None


class ComponentFailed(Fact, frozen=True, kw_only=True):
    """The agent gives up on the assignment: the restart policy is spent, or the program cannot be started at all."""

    host: str
    assignment: int
    reason: str
    restarts: int = 0


class CheckpointCommitted(Fact, frozen=True, kw_only=True):
    """Every event of the source up to ``position`` is acknowledged by every sink. ``cursor`` is the source's own, base64."""

    incarnation: int
    position: int
    cursor: str = ""


class ComponentRedriveRequested(Fact, frozen=True, kw_only=True):
    """The instance is to process these dead letters (numbers, at most 1,000) once more."""

    letters: list[int]


class ComponentLettersRedriven(Fact, frozen=True, kw_only=True):
    """What came of redriven dead letters: ``delivered`` to every sink, or the component ``failed`` on them again."""

    incarnation: int
    letters: list[int]
    outcome: RedriveOutcome
    error: str = ""


# --- hosts -----------------------------------------------------------------------------------------------------------------


class HostJoined(Fact, frozen=True, kw_only=True):
    """An agent announced its host. ``address`` is where other hosts reach components on it."""

    agent: str
    address: str
    drivers: list[Driver]
    labels: dict[str, str] = field(default_factory=dict[str, str])
    cpus: int = 0
    memory_bytes: int = 0
    version: str = ""


class HostLost(Fact, frozen=True, kw_only=True):
    """The host's heartbeats stopped."""

    silence_s: float
    last_heartbeat_ms: int | None = None


class HostRecovered(Fact, frozen=True, kw_only=True):
    """A lost host's heartbeats came back without a new join."""


class HostReconnected(Fact, frozen=True, kw_only=True):
    """The agent reaches the journal again after ``away_s`` seconds, in which nobody could write what happened on its host."""

    away_s: float


class HostLeft(Fact, frozen=True, kw_only=True):
    """The agent was stopped on purpose; what it started goes on running."""

    reason: str = ""


class HostDrainRequested(Fact, frozen=True, kw_only=True):
    """The host is to run nothing: what it runs goes elsewhere, one instance of a pipeline at a time, and nothing new comes."""

    reason: str = ""


class HostDrainCancelled(Fact, frozen=True, kw_only=True):
    """The host may run instances again. Nothing that left it is moved back."""


# --- the journal itself ----------------------------------------------------------------------------------------------------


class SealPlaced(Fact, frozen=True, kw_only=True):
    """The journal up to and including entry ``upto`` has this ``digest`` (``flowctl.journal.seals``): none of it may change."""

    upto: int
    digest: str


ComponentEvent = (
    ComponentAssigned
    | ComponentUnassigned
    | ComponentStarting
    | ComponentStarted
    | ComponentRegistered
    | ComponentDeregistered
    | ComponentStatusChanged
    | ComponentProbed
    | ComponentExited
    | ComponentFailed
    | CheckpointCommitted
    | ComponentRedriveRequested
    | ComponentLettersRedriven
)
PipelineEvent = PipelineSubmitted | PipelineScaled | PipelineStopRequested | PipelineStatusChanged
HostEvent = HostJoined | HostLost | HostRecovered | HostReconnected | HostLeft | HostDrainRequested | HostDrainCancelled
SealEvent = SealPlaced
JournalEvent = ComponentEvent | PipelineEvent | HostEvent | SealEvent

EVENT_TYPES: Final[tuple[type[JournalEvent], ...]] = JournalEvent.__args__

AggregateKind = Literal["component", "pipeline", "host", "seal"]


class Aggregate(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """The thing that an entry is about, and the unit of optimistic concurrency. ``key`` has 3 parts for a component, else 1."""

    kind: AggregateKind
    key: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind}/{'.'.join(self.key)}"

    @classmethod
    def of_instance(cls, instance: InstanceId) -> "Aggregate":
        """The aggregate of one instance of a component."""
        return cls("component", (instance.pipeline, instance.component, str(instance.index)))

    @classmethod
    def of_pipeline(cls, pipeline: str) -> "Aggregate":
        """The aggregate of one pipeline."""
        return cls("pipeline", (pipeline,))

    @classmethod
    def of_host(cls, host: str) -> "Aggregate":
        """The aggregate of one host."""
        return cls("host", (host,))

    @classmethod
    def of_seals(cls) -> "Aggregate":
        """The aggregate of the seals of the whole journal."""
        return cls("seal", ("journal",))

    @property
    def instance(self) -> InstanceId:
        """The instance, for an aggregate of kind ``component``."""
        pipeline, component, index = self.key
        return InstanceId(pipeline, component, int(index))


VERSIONS: Final[Mapping[type[JournalEvent], int]] = dict.fromkeys(EVENT_TYPES, 1)
"""The version in which each type is written today."""

UPCASTERS: Final[Mapping[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]]] = {}
"""(type name, version) -> what turns that version's JSON object into the next version's."""

FORMER: Final[Mapping[tuple[str, int], type[Fact]]] = {}
"""(type name, version) -> the shape of a version that is written no more: its schema stays published."""
