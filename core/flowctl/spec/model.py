"""The pipeline file as data: these structs are its schema, and nothing else describes it.

Durations are seconds (``_s``), sizes bytes (``_bytes``). A field that stands here is obeyed or refused, never ignored.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, field

from flowctl.ids import ID_PATTERN

Id = Annotated[str, Meta(pattern=f"^{ID_PATTERN}$", description="lower-case letters, digits, '-' and '_'")]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]
Port = Annotated[int, Meta(ge=1, le=65_535)]

Kind = Literal["source", "processor", "sink"]
Driver = Literal["process", "docker", "kubernetes"]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every part of the file has in common: immutable, keyword-only, unknown fields refused."""


class Metadata(Record, frozen=True, kw_only=True):
    """Who the pipeline is."""

    name: Annotated[Id, Meta(description="unique among the pipelines of one control plane")]
    labels: dict[str, str] = field(default_factory=dict[str, str])
    annotations: dict[str, str] = field(default_factory=dict[str, str])


class Input(Record, frozen=True, kw_only=True):
    """One component to receive events from, with what happens when this edge is full."""

    from_: Annotated[Id, Meta(description="id of a source or processor of this pipeline")] = field(name="from")
    when_full: Literal["block", "drop"] = "block"


class Backoff(Record, frozen=True, kw_only=True):
    """How long to wait before the next restart: ``initial_s * multiplier ** n``, at most ``max_s``, with jitter."""

    initial_s: Seconds = 0.1
    max_s: Seconds = 30.0
    multiplier: Annotated[float, Meta(ge=1, le=10)] = 2.0


class Restart(Record, frozen=True, kw_only=True):
    """What happens when an instance exits before it has completed and without having been asked to.

    ``on_failure`` restarts it, ``never`` lets it fail at once. More than ``max_attempts`` restarts within ``window_s`` fail it.
    """

    policy: Literal["on_failure", "never"] = "on_failure"
    max_attempts: Annotated[int, Meta(ge=0, le=1_000_000)] = 10
    window_s: Seconds = 300.0
    backoff: Backoff = Backoff()


class OnError(Record, frozen=True, kw_only=True):
    """What a component does with an event that its function raised on.

    ``fail`` ends the instance with the error; ``retry`` tries the event again up to ``attempts`` times with ``backoff`` and
    then ends the instance; ``dead_letter`` puts the event aside after ``attempts``.
    """

    action: Literal["fail", "retry", "dead_letter"] = "fail"
    attempts: Annotated[int, Meta(ge=1, le=1_000)] = 3
    backoff: Backoff = Backoff()


class HealthCheck(Record, frozen=True, kw_only=True):
    """An HTTP probe of an instance, besides its heartbeats, made by the agent of its host."""

    path: Annotated[str, Meta(pattern="^/", max_length=1_000)] = "/health"
    interval_s: Annotated[float, Meta(ge=0.1, le=3_600)] = 10.0
    timeout_s: Annotated[float, Meta(ge=0.05, le=60)] = 2.0
    failures: Annotated[int, Meta(ge=1, le=100, description="consecutive failures until the probe counts as failed")] = 3
    on_unhealthy: Literal["none", "restart"] = "none"


class Resources(Record, frozen=True, kw_only=True):
    """Upper limits of one instance; the process driver cannot enforce them and refuses them."""

    cpu: Annotated[float, Meta(gt=0, le=1_024, description="cores")] | None = None
    memory_bytes: Annotated[int, Meta(ge=4 * 1024 * 1024)] | None = None


class Ports(Record, frozen=True, kw_only=True):
    """Fixed ports; without them each instance takes free ones. Only for components with one replica."""

    data: Port | None = None
    health: Port | None = None


class Placement(Record, frozen=True, kw_only=True):
    """Which hosts may run the component: all labels must match, and the host if one is named."""

    host: Id | None = None
    labels: dict[str, str] = field(default_factory=dict[str, str])


class Component(Record, frozen=True, kw_only=True):
    """One node of the graph. Exactly one of ``type``, ``command`` and ``image`` says what runs."""

    id: Annotated[Id, Meta(description="unique in the pipeline")]
    type: Annotated[str, Meta(description="a ready-made component, for example file")] | None = None
    command: Annotated[list[str], Meta(min_length=1, description="program and arguments; no shell")] | None = None
    image: str | None = None
    args: Annotated[list[str], Meta(description="appended to the command")] = field(default_factory=list[str])
    inputs: list[Id | Input] = field(default_factory=list[str | Input])
    config: Annotated[dict[str, Any], Meta(description="given to the program as JSON")] = field(default_factory=dict[str, Any])
    env: dict[str, str] = field(default_factory=dict[str, str])
    replicas: Annotated[int, Meta(ge=1, le=1_000)] = 1
    partition_by: Annotated[str, Meta(description="id, type, payload, payload.<JMESPath> or metadata.<key>")] | None = None
    restart: Restart = Restart()
    on_error: OnError = OnError()
    health_check: HealthCheck | None = None
    resources: Resources | None = None
    ports: Ports | None = None
    placement: Placement | None = None
    stop_timeout_s: Annotated[float, Meta(ge=0, le=3_600, description="from SIGTERM to SIGKILL")] = 30.0
    driver: Driver | None = None

    @property
    def upstreams(self) -> list[Input]:
        """The inputs, each as an ``Input``."""
        return [Input(from_=entry) if isinstance(entry, str) else entry for entry in self.inputs]


class Spec(Record, frozen=True, kw_only=True):
    """The graph: what the components are; their ``inputs`` alone say how they are connected."""

    description: str = ""
    driver: Driver = "process"
    sources: Annotated[list[Component], Meta(min_length=1)]
    processors: list[Component] = field(default_factory=list[Component])
    sinks: Annotated[list[Component], Meta(min_length=1)]


class Pipeline(Record, frozen=True, kw_only=True, rename={"api_version": "apiVersion"}):
    """A whole pipeline file."""

    api_version: Literal["flowctl/v1"]
    kind: Literal["Pipeline"]
    metadata: Metadata
    spec: Spec

    @property
    def name(self) -> str:
        """The pipeline's id."""
        return self.metadata.name

    def components(self) -> list[tuple[Kind, Component]]:
        """Every component with its kind, in file order: sources, processors, sinks."""
        spec = self.spec
        return [
            *(("source", component) for component in spec.sources),
            *(("processor", component) for component in spec.processors),
            *(("sink", component) for component in spec.sinks),
        ]

    def component(self, component_id: str) -> Component | None:
        """The component of that id, if the pipeline has it."""
        return next((component for _, component in self.components() if component.id == component_id), None)
