"""What the CLI and other tools ask of the services, and what they answer: JSON over NATS micro-services.

One subject an endpoint: ``flowctl.api.<service>.<verb>``. Requests and answers are the structs below.
"""

from typing import Any, Final

import msgspec
from msgspec import field

API_ROOT: Final = "flowctl.api"
ORCHESTRATOR: Final = "orchestrator"
REGISTRY: Final = "registry"
HEALTH: Final = "health"
AGENT: Final = "agent"
NOTIFY: Final = "notify"


class Request(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every request has in common: who asks, and a name for everything that comes of it."""

    actor: str = "cli"
    correlation: str = ""


class Submit(Request, frozen=True, kw_only=True):
    """Run this pipeline (the ``Pipeline`` struct as JSON). ``fresh`` forgets checkpoints.

    With ``expected_seq`` it is refused if since that journal sequence anything has changed that its preview stands on: the
    pipeline, the assignments of its instances, or a host.
    """

    pipeline: msgspec.Raw
    source: str = ""
    fresh: bool = False
    expected_seq: int | None = None


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """``change`` is ``created``, ``changed`` or ``unchanged``; ``seq`` the entry that says so."""

    pipeline: str
    revision: int
    change: str
    seq: int


class Preview(Request, frozen=True, kw_only=True):
    """What would a submission of this pipeline do? See ``Submit``; nothing is written."""

    pipeline: msgspec.Raw
    fresh: bool = False


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What would become of one instance: ``start``, ``replace``, ``stop`` or ``keep``.

    ``fields`` are the fields of the component that differ (``config.path``), ``host`` where it runs or would run, ``rolling``
    whether it waits until those replaced before it are healthy, ``waiting_for`` what would keep it from starting.
    """

    instance: str
    action: str
    host: str = ""
    fields: list[str] = field(default_factory=list[str])
    rolling: bool = False
    waiting_for: str = ""


class PreviewView(msgspec.Struct, frozen=True, kw_only=True):
    """What a submission would do, as of journal sequence ``seq``. ``change`` as in ``Submitted``."""

    pipeline: str
    revision: int
    change: str
    seq: int
    steps: list[Step] = field(default_factory=list[Step])


class DrainHost(Request, frozen=True, kw_only=True):
    """Let a host run nothing any more: what it runs goes elsewhere, one instance of a pipeline after the other."""

    host: str
    reason: str = ""


class UndrainHost(Request, frozen=True, kw_only=True):
    """Let a host run instances again."""

    host: str


class Stop(Request, frozen=True, kw_only=True):
    """End a pipeline: sources first, what is out is drained."""

    pipeline: str
    reason: str = ""


class RestartInstances(Request, frozen=True, kw_only=True):
    """Start anew a component's instances, or all of the pipeline's."""

    pipeline: str
    component: str | None = None
    index: int | None = None


class Scale(Request, frozen=True, kw_only=True):
    """Change how many instances a component has."""

    pipeline: str
    component: str
    replicas: int


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """It is in the journal. ``seq`` is the last entry, ``instances`` whom it concerns."""

    seq: int
    instances: list[str] = field(default_factory=list[str])


class StatusRequest(Request, frozen=True, kw_only=True):
    """Everything, or one pipeline."""

    pipeline: str | None = None


class InstanceView(msgspec.Struct, frozen=True, kw_only=True):
    """One instance as an operator sees it. Times are Unix milliseconds by the journal; ``waiting_for`` says for what.

    ``loosened`` says in what its container is less strict than usual.
    ``host`` is where it is to run, ``runs_on`` where its latest incarnation still lives: another one while it moves.
    """

    instance: str
    component: str
    index: int
    kind: str
    phase: str
    status: str
    reason: str = ""
    waiting_for: str = ""
    incarnation: int = 0
    host: str = ""
    runs_on: str = ""
    handle: str = ""
    address: str = ""
    since_ms: int = 0
    restarts: int = 0
    last_exit: str = ""
    checkpoint: int | None = None
    revision: int = 0
    loosened: list[str] = field(default_factory=list[str])


class PipelineView(msgspec.Struct, frozen=True, kw_only=True):
    """One pipeline as an operator sees it. ``spec`` is the pipeline file's content."""

    name: str
    status: str
    reason: str = ""
    revision: int
    run: int
    since_ms: int
    submitted_ms: int
    source: str = ""
    instances: list[InstanceView] = field(default_factory=list[InstanceView])
    spec: dict[str, Any] = field(default_factory=dict[str, Any])


class HostView(msgspec.Struct, frozen=True, kw_only=True):
    """One host as an operator sees it."""

    name: str
    status: str
    address: str = ""
    drivers: list[str] = field(default_factory=list[str])
    labels: dict[str, str] = field(default_factory=dict[str, str])
    since_ms: int = 0
    reason: str = ""
    instances: int = 0
    drained: bool = False


class QuarantinedView(msgspec.Struct, frozen=True, kw_only=True):
    """A journal entry that cannot be read, and why."""

    seq: int
    subject: str
    reason: str


class StatusView(msgspec.Struct, frozen=True, kw_only=True):
    """What flowctl knows as of journal entry ``seq``. ``unknown_since_ms``: since when the journal does not answer.

    ``quarantine`` lists the first few of the entries that cannot be read.
    """

    seq: int
    time_ms: int
    pipelines: list[PipelineView] = field(default_factory=list[PipelineView])
    hosts: list[HostView] = field(default_factory=list[HostView])
    unknown_since_ms: int | None = None
    unknown_entries: int = 0
    quarantined_entries: int = 0
    quarantine: list[QuarantinedView] = field(default_factory=list[QuarantinedView])


class EdgeView(msgspec.Struct, frozen=True, kw_only=True):
    """One end of an edge, as last reported; see ``EdgeMetrics`` in ``control.proto``.

    ``rate`` is events and ``bytes_rate`` bytes a second over the last two heartbeats. ``delivery_p50_s`` and
    ``delivery_p99_s`` are quantiles of the time from being given to the edge to being acknowledged, of the events acknowledged
    between the last two heartbeats (or ever, if there were none); -1 where nothing was or it lies above the last bucket's bound.
    """

    peer: str
    direction: str
    events_total: int
    bytes_total: int
    in_flight: int
    resent_total: int
    connected: bool
    rate: float = 0.0
    bytes_rate: float = 0.0
    dropped_total: int = 0
    acked_total: int = 0
    superseded_total: int = 0
    sender_incarnation: int = 0
    epoch: int = 0
    next_offset: int = 0
    done_offset: int = 0
    oldest_s: float = 0.0
    source_lag_s: float = 0.0
    credit_events: int = 0
    credit_bytes: int = 0
    delivery_buckets: list[int] = field(default_factory=list[int])
    delivery_s_total: float = 0.0
    delivery_p50_s: float = -1.0
    delivery_p99_s: float = -1.0


class GroupView(msgspec.Struct, frozen=True, kw_only=True):
    """What a downstream component was given over all its instances: ``offered = acked + in_flight + dropped``, at every moment.

    ``skipped_total`` is what the instance had emitted before the component was downstream of it.
    """

    component: str
    offered_total: int
    acked_total: int
    in_flight: int
    dropped_total: int
    skipped_total: int = 0


class LiveView(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance said in its last heartbeat; ``heartbeat_age_s`` is how long ago.

    ``ending`` is empty, or ``completed``, ``stopped`` or ``failed`` if this was its very last: the counters are final.
    """

    instance: str
    incarnation: int
    heartbeat_age_s: float
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    rates: dict[str, float] = field(default_factory=dict[str, float])
    edges: list[EdgeView] = field(default_factory=list[EdgeView])
    groups: list[GroupView] = field(default_factory=list[GroupView])
    ending: str = ""


class LiveRequest(Request, frozen=True, kw_only=True):
    """The last heartbeats of a pipeline's instances, or of all."""

    pipeline: str | None = None


class LiveAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """See ``LiveRequest``."""

    instances: list[LiveView] = field(default_factory=list[LiveView])


class RedriveLetters(Request, frozen=True, kw_only=True):
    """Process dead letters once more: those of a pipeline or of a component that were never delivered, or just these numbers."""

    pipeline: str
    component: str | None = None
    letters: list[int] = field(default_factory=list[int])


class Redriving(msgspec.Struct, frozen=True, kw_only=True):
    """These letters go to these instances once more. ``seq`` is the journal's last entry about it.

    ``absent`` are the instances that do not run now: they get their letters when they do.
    """

    seq: int
    letters: list[int] = field(default_factory=list[int])
    instances: list[str] = field(default_factory=list[str])
    absent: list[str] = field(default_factory=list[str])


class DigestRequest(Request, frozen=True, kw_only=True):
    """What do you know, in one number? Every replica answers."""


class DigestAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A service's live state after entry ``seq``: the digest of its fold and of the journal that it has read.

    ``projection`` is the same for services that share one; ``skipped`` counts errors of its own while it folded.
    """

    service: str
    name: str
    seq: int
    digest: str
    journal_digest: str
    projection: str = ""
    skipped: int = 0


class RunsRequest(Request, frozen=True, kw_only=True):
    """What does the driver of your host say is running? Every agent answers."""


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A live run: the instance, its incarnation and the driver's name for it."""

    instance: str
    incarnation: int
    handle: str = ""


class RunsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The live runs of a host, asked of its driver when the agent had folded entry ``seq``."""

    host: str
    seq: int
    runs: list[RunView] = field(default_factory=list[RunView])


class InfoRequest(Request, frozen=True, kw_only=True):
    """How is this service?"""


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """How a service is: its version, its position in the journal, where it listens, and its settings that matter."""

    service: str
    version: str
    name: str
    pid: int
    seq: int
    ready: bool
    detail: str = ""
    addresses: dict[str, str] = field(default_factory=dict[str, str])
