"""Journal entries as people and programs read them, and which of them are meant. Pure."""

from datetime import UTC, datetime
from typing import Any, Final, cast

import msgspec

from flowctl.errors import UserError
from flowctl.journal import subjects
from flowctl.journal.heartbeats import Heartbeat, HostBeat, ServiceBeat, StoredBeat
from flowctl.journal.log import Entry, Poison, Unknown
from flowctl_cli.targets import Target
from flowctl_cli.terminal import Cell, Style, clock_time, one_line

_HIDDEN: Final = frozenset({"type", "component", "pipeline", "boot_id", "kind"})
_LOOKS: Final[dict[str, Style]] = {
    "ComponentFailed": "bad",
    "ComponentExited": "bad",
    "HostLost": "bad",
    "ComponentRegistered": "good",
    "HostJoined": "good",
    "PipelineStatusChanged": "strong",
    "PipelineSubmitted": "strong",
    "CheckpointCommitted": "faint",
}


class EntryView(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the journal. ``data`` is the event as it is stored; ``type`` its name, or its ce-type if that is unknown."""

    seq: int
    time: str
    time_ms: int
    type: str
    subject: str
    pipeline: str | None = None
    component: str | None = None
    instance: str | None = None
    host: str | None = None
    actor: str = ""
    correlation: str = ""
    causation: int = 0
    id: str = ""
    data: Any = None
    problem: str | None = None


def entry_view(entry: Entry) -> EntryView:
    """The entry for display; total, also for entries that cannot be read."""
    pipeline = component = instance = host = None
    if entry.aggregate is not None:
        key = entry.aggregate.key
        if entry.aggregate.kind == "host":
            host = key[0]
        elif entry.aggregate.kind != "seal":
            pipeline = key[0]
            if entry.aggregate.kind == "component":
                component, instance = key[1], ".".join(key)
    problem = None
    match entry.event:
        case Poison(reason=reason):
            name, problem = "Poison", f"cannot be read: {reason}"
        case Unknown(ce_type=ce_type):
            name, problem = ce_type, "unknown to this version of flowctl"
        case event:
            name = type(event).__name__
    return EntryView(
        seq=entry.seq,
        time=_iso(entry.time_ns),
        time_ms=entry.time_ns // 1_000_000,
        type=name,
        subject=entry.subject,
        pipeline=pipeline,
        component=component,
        instance=instance,
        host=host,
        actor=entry.actor,
        correlation=entry.correlation,
        causation=entry.causation,
        id=entry.id,
        data=_data(entry),
        problem=problem,
    )


def _iso(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _data(entry: Entry) -> object:
    try:
        return msgspec.json.decode(entry.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return entry.data.decode(errors="replace")[:1_000]


CSV_HEAD: Final[tuple[str, ...]] = EntryView.__struct_fields__


def csv_row(view: EntryView) -> list[str]:
    """The entry under ``CSV_HEAD``; ``data`` is JSON."""
    row = [getattr(view, name) for name in CSV_HEAD]
    return ["" if value is None else value if isinstance(value, str) else msgspec.json.encode(value).decode() for value in row]


def beat_view(stored: StoredBeat) -> EntryView:
    """A heartbeat for display among the entries: ``type`` says of whom, ``seq`` is that of the heartbeats' own stream."""
    beat = stored.beat
    instance = beat.instance if isinstance(beat, Heartbeat) else None
    return EntryView(
        seq=stored.seq,
        time=_iso(stored.time_ns),
        time_ms=stored.time_ns // 1_000_000,
        type=type(beat).__name__,
        subject=subjects.beat_subject(beat),
        pipeline=instance.pipeline if instance else None,
        component=instance.component if instance else None,
        instance=str(instance) if instance else None,
        host=beat.host if isinstance(beat, HostBeat) else None,
        data=msgspec.to_builtins(beat, str_keys=True),
    )


def beat_row(stored: StoredBeat) -> list[Cell]:
    """A heartbeat as a row; its sequence is of another stream and not shown."""
    view, beat = beat_view(stored), stored.beat
    who = view.instance or view.host or view.subject.rpartition("service.")[2]
    match beat:
        case Heartbeat():
            told = [f"incarnation={beat.incarnation}", *(f"{key}={value:g}" for key, value in sorted(beat.metrics.items()))]
        case HostBeat():
            told = [f"instances={beat.instances}"]
        case ServiceBeat():
            told = []
    return [
        Cell("♥", "faint"),
        Cell(clock_time(stored.time_ns), "faint"),
        Cell(who),
        Cell(view.type, "faint"),
        Cell(" ".join(told)),
    ]


WIDTHS: Final = (5, 23, 20, 22, 0)


def entry_row(entry: Entry) -> list[Cell]:
    """The entry as a row: sequence, time, who, event, details."""
    view = entry_view(entry)
    who = view.instance or view.pipeline or view.host or view.subject
    details = view.problem or _details(view.data)
    style: Style = "bad" if view.problem else _LOOKS.get(view.type, "")
    return [
        Cell(str(view.seq), "faint"),
        Cell(clock_time(entry.time_ns), "faint"),
        Cell(who),
        Cell(view.type, style),
        Cell(details),
    ]


def _details(data: object) -> str:
    """What an event says, in one line: ``key=value``, without what the row says already and without long structures."""
    if not isinstance(data, dict):
        return ""
    shown: list[str] = []
    fields = cast("dict[str, Any]", data)
    for key, value in fields.items():
        if key in _HIDDEN or value in ("", None) or isinstance(value, dict | list):
            continue
        text = one_line(value if isinstance(value, str) else msgspec.json.encode(value).decode())
        text = text if len(text) <= 200 else text[:199] + "…"
        shown.append(f"{key}={text!r}" if " " in text else f"{key}={text}")
    return " ".join(shown)


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries are meant. ``types`` are event names (``ComponentExited``), ``actors`` names or services (``agent``)."""

    target: Target | None = None
    host: str | None = None
    index: int | None = None
    types: frozenset[str] = frozenset()
    actors: tuple[str, ...] = ()
    correlation: str | None = None

    @property
    def subjects(self) -> tuple[str, ...] | None:
        """NATS wildcards, none overlapping another, that cover all of them and little else; None for the whole journal."""
        tokens = sorted({pair for pair, known in subjects.TYPES.items() if known.__name__ in self.types})
        if self.host is not None:
            named = [token for kind, token in tokens if kind == "host"]
            return tuple(f"{subjects.JOURNAL_ROOT}.host.{self.host}.{token}" for token in named or ["*"])
        if self.target is None and self.index is None:
            return tuple(f"{subjects.JOURNAL_ROOT}.{kind}.{_ANYBODY[kind]}.{token}" for kind, token in tokens) or None
        pipeline, component, index = self._place
        whom = f"{pipeline}.{component}.{index}"
        chosen = [
            f"{subjects.JOURNAL_ROOT}.{kind}.{whom if kind == 'component' else pipeline}.{token}"
            for kind, token in tokens
            if kind == "component" or (kind == "pipeline" and (component, index) == ("*", "*"))
        ]
        if not self.types:
            chosen = [f"{subjects.JOURNAL_ROOT}.component.{whom}.*"]
            if (component, index) == ("*", "*"):
                chosen.append(f"{subjects.JOURNAL_ROOT}.pipeline.{pipeline}.*")
        return tuple(chosen or [f"{subjects.JOURNAL_ROOT}.component.{whom}.none"])

    @property
    def beats(self) -> tuple[str, ...]:
        """The same for heartbeats."""
        if self.host is not None:
            return (f"{subjects.HEARTBEAT_ROOT}.host.{self.host}",)
        if self.target is None and self.index is None:
            return (subjects.HEARTBEAT_ALL,)
        return (f"{subjects.HEARTBEAT_ROOT}.component.{'.'.join(self._place)}",)

    @property
    def _place(self) -> tuple[str, str, str]:
        target = self.target
        index = self.index if target is None or target.index is None else target.index
        pipeline = "*" if target is None else target.pipeline
        component = "*" if target is None or target.component is None else target.component
        return pipeline, component, "*" if index is None else str(index)

    def has(self, entry: Entry) -> bool:
        """Whether an entry on one of ``subjects`` is one of them."""
        if self.types and type(entry.event).__name__ not in self.types:
            return False
        if self.correlation is not None and entry.correlation != self.correlation:
            return False
        return not self.actors or any(entry.actor == name or entry.actor.startswith(f"{name}/") for name in self.actors)


_ANYBODY: Final = {"component": "*.*.*", "pipeline": "*", "host": "*", "seal": "*"}


def event_types(names: list[str]) -> frozenset[str]:
    """The event types that the user means: ``ComponentExited``, ``component_exited``, ``exited`` or a ce-type.

    Raises:
        UserError: there is no such type.
    """
    found: set[str] = set()
    for name in names:
        wanted = name.lower().replace("_", "").replace("-", "")
        matching = {
            known.__name__
            for (kind, token), known in subjects.TYPES.items()
            if wanted in (known.__name__.lower(), token.replace("_", ""), f"flowctl.{kind}.{token.replace('_', '')}.v1")
        }
        if not matching:
            known_types = ", ".join(sorted(known.__name__ for known in subjects.TYPES.values()))
            raise UserError(f"there is no event type {name[:60]!r}", hint=f"the types are {known_types}")
        found |= matching
    return frozenset(found)
