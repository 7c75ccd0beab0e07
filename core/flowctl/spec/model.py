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
    labels: Annotated[dict[str, str], Meta(description="short texts to select and group by")] = field(
        default_factory=dict[str, str]
    )
    annotations: Annotated[dict[str, str], Meta(description="any further texts; flowctl keeps and shows them")] = field(
        default_factory=dict[str, str]
    )


class Input(Record, frozen=True, kw_only=True):
    """One component to receive events from, with what happens when this edge is full."""

    from_: Annotated[Id, Meta(description="id of a source or processor of this pipeline")] = field(name="from")
    when_full: Annotated[
        Literal["block", "drop"], Meta(description="block: the upstream waits; drop: events are dropped and counted")
    ] = "block"


class Backoff(Record, frozen=True, kw_only=True):
    """How long to wait before the next restart: ``initial_s * multiplier ** n``, at most ``max_s``, with jitter."""

    initial_s: Annotated[Seconds, Meta(description="seconds before the first repetition")] = 0.1
    max_s: Annotated[Seconds, Meta(description="the longest wait, in seconds")] = 30.0
    multiplier: Annotated[float, Meta(ge=1, le=10, description="how much longer each wait is than the one before")] = 2.0


class Restart(Record, frozen=True, kw_only=True):
    """What happens when an instance exits before it has completed and without having been asked to.

    ``on_failure`` restarts it, ``never`` lets it fail at once. More than ``max_attempts`` restarts within ``window_s`` fail it.
    """

    policy: Annotated[
        Literal["on_failure", "never"], Meta(description="on_failure: start it again; never: the instance fails at once")
    ] = "on_failure"
    max_attempts: Annotated[int, Meta(ge=0, le=1_000_000, description="restarts within window_s until it fails for good")] = 10
    window_s: Annotated[Seconds, Meta(description="seconds over which restarts are counted")] = 300.0
    backoff: Annotated[Backoff, Meta(description="the waits between restarts")] = Backoff()


class OnError(Record, frozen=True, kw_only=True):
    """What a component does with an event that its function raised on.

    ``fail`` ends the instance with the error; ``retry`` tries the event again up to ``attempts`` times with ``backoff`` and
    then ends the instance; ``dead_letter`` tries it ``attempts`` times in all and then puts it aside.
    """

    action: Annotated[
        Literal["fail", "retry", "dead_letter"],
        Meta(description="fail: end the instance; retry: try the event again; dead_letter: put it aside"),
    ] = "fail"
    attempts: Annotated[int, Meta(ge=1, le=1_000, description="tries of one event before the instance ends")] = 3
    backoff: Annotated[Backoff, Meta(description="the waits between tries")] = Backoff()


class HealthCheck(Record, frozen=True, kw_only=True):
    """An HTTP probe of an instance, besides its heartbeats, made by the agent of its host."""

    path: Annotated[str, Meta(pattern="^/", max_length=1_000, description="asked with GET; 200 to 299 is healthy")] = "/health"
    interval_s: Annotated[float, Meta(ge=0.1, le=3_600, description="seconds from one probe to the next")] = 10.0
    timeout_s: Annotated[float, Meta(ge=0.05, le=60, description="seconds that one probe may take")] = 2.0
    failures: Annotated[int, Meta(ge=1, le=100, description="consecutive failures until the probe counts as failed")] = 3
    on_unhealthy: Annotated[
        Literal["none", "restart"], Meta(description="none: it is only shown; restart: the instance is restarted")
    ] = "none"


class Resources(Record, frozen=True, kw_only=True):
    """Upper limits of one instance; the process driver cannot enforce them and refuses them."""

    cpu: Annotated[float, Meta(gt=0, le=1_024, description="cores that one instance may use")] | None = None
    memory_bytes: Annotated[int, Meta(ge=4 * 1024 * 1024, description="memory that one instance may use")] | None = None


class Volume(Record, frozen=True, kw_only=True):
    """Something of the host that a container sees: a directory or file by its absolute path, or a named volume by its name."""

    source: Annotated[str, Meta(min_length=1, description="an absolute path of the host, or the name of a volume")]
    target: Annotated[str, Meta(pattern="^/", description="where the container sees it")]
    read_only: Annotated[bool, Meta(description="whether the program may only read it")] = False


class Container(Record, frozen=True, kw_only=True):
    """How the docker driver makes an instance's container. Defaults are strict; ``status`` shows what is loosened."""

    pull: Annotated[Literal["if_missing", "always", "never"], Meta(description="when the image is fetched from its registry")] = (
        "if_missing"
    )
    user: (
        Annotated[
            str,
            Meta(
                pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?$",
                description="user[:group], as numbers or names of the image; without it the image's user, and never root",
            ),
        ]
        | None
    ) = None
    read_only: Annotated[bool, Meta(description="whether the root file system is read-only; /tmp is writable anyway")] = True
    scratch_bytes: Annotated[int, Meta(ge=65_536, description="size of /tmp, in memory")] = 64 * 1024 * 1024
    pids: Annotated[int, Meta(ge=1, le=4_194_304, description="processes and threads that may live in it at once")] = 512
    capabilities: Annotated[
        list[Annotated[str, Meta(pattern="^[A-Z][A-Z_]{1,40}$")]],
        Meta(description="kernel capabilities to grant, for example NET_BIND_SERVICE; all others are dropped"),
    ] = field(default_factory=list[str])
    new_privileges: Annotated[bool, Meta(description="whether programs in it may gain privileges, for example by sudo")] = False
    privileged: Annotated[bool, Meta(description="whether it may do everything that the host's root may")] = False
    network: Annotated[
        Literal["pipeline", "host"], Meta(description="pipeline: a network of the pipeline's own; host: the host's")
    ] = "pipeline"
    volumes: Annotated[list[Volume], Meta(description="what of the host it sees")] = field(default_factory=list[Volume])
    secrets_in_env: Annotated[
        bool,
        Meta(description="whether env values with references are variables, which `docker inspect` shows, instead of files"),
    ] = False


class Ports(Record, frozen=True, kw_only=True):
    """Fixed ports; without them each instance takes free ones. Only for components with one replica."""

    data: Annotated[Port, Meta(description="where downstream components connect")] | None = None
    health: Annotated[Port, Meta(description="where /health and /metrics answer")] | None = None


class Placement(Record, frozen=True, kw_only=True):
    """Which hosts may run the component: all labels must match, and the host if one is named."""

    host: Annotated[Id, Meta(description="the only host that may run it")] | None = None
    labels: Annotated[dict[str, str], Meta(description="labels that a host must have, all of them")] = field(
        default_factory=dict[str, str]
    )


class Component(Record, frozen=True, kw_only=True):
    """One node of the graph. ``type`` or ``command`` says what runs; in a container ``image`` says in what, and may do alone."""

    id: Annotated[Id, Meta(description="unique in the pipeline")]
    type: Annotated[str, Meta(description="a ready-made component, for example file")] | None = None
    command: Annotated[list[str], Meta(min_length=1, description="program and arguments; no shell")] | None = None
    image: Annotated[str, Meta(description="a container image")] | None = None
    args: Annotated[list[str], Meta(description="appended to the command")] = field(default_factory=list[str])
    inputs: Annotated[list[Id | Input], Meta(description="the components whose events it takes; none for a source")] = field(
        default_factory=list[str | Input]
    )
    config: Annotated[dict[str, Any], Meta(description="given to the program as JSON")] = field(default_factory=dict[str, Any])
    env: Annotated[dict[str, str], Meta(description="environment variables of the program")] = field(
        default_factory=dict[str, str]
    )
    replicas: Annotated[int, Meta(ge=1, le=1_000, description="how many instances run")] = 1
    partition_by: Annotated[str, Meta(description="id, type, payload, payload.<JMESPath> or metadata.<key>")] | None = None
    restart: Annotated[Restart, Meta(description="what happens when an instance exits unasked")] = Restart()
    on_error: Annotated[OnError, Meta(description="what happens to an event that the component fails on")] = OnError()
    health_check: Annotated[HealthCheck, Meta(description="a probe besides the heartbeats")] | None = None
    resources: Annotated[Resources, Meta(description="upper limits of one instance")] | None = None
    container: Annotated[Container, Meta(description="how the docker driver makes its container")] | None = None
    ports: Annotated[Ports, Meta(description="fixed ports instead of free ones")] | None = None
    placement: Annotated[Placement, Meta(description="which hosts may run it")] | None = None
    stop_timeout_s: Annotated[float, Meta(ge=0, le=3_600, description="seconds from SIGTERM to SIGKILL")] = 30.0
    driver: Annotated[Driver, Meta(description="what starts this component, if not the pipeline's driver")] | None = None

    @property
    def upstreams(self) -> list[Input]:
        """The inputs, each as an ``Input``."""
        return [Input(from_=entry) if isinstance(entry, str) else entry for entry in self.inputs]


class Spec(Record, frozen=True, kw_only=True):
    """The graph: what the components are; their ``inputs`` alone say how they are connected."""

    description: Annotated[str, Meta(description="what the pipeline is for")] = ""
    driver: Annotated[Driver, Meta(description="what starts the components")] = "process"
    sources: Annotated[list[Component], Meta(min_length=1, description="where events come from")]
    processors: Annotated[list[Component], Meta(description="what makes events of events")] = field(
        default_factory=list[Component]
    )
    sinks: Annotated[list[Component], Meta(min_length=1, description="where events end")]


class Pipeline(Record, frozen=True, kw_only=True, rename={"api_version": "apiVersion"}):
    """A whole pipeline file."""

    api_version: Annotated[Literal["flowctl/v1"], Meta(description="the version of this file format")]
    kind: Annotated[Literal["Pipeline"], Meta(description="what the file describes")]
    metadata: Annotated[Metadata, Meta(description="who the pipeline is")]
    spec: Annotated[Spec, Meta(description="what runs and how it is connected")]

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
