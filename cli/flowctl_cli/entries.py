"""Journal entries as people and programs read them, and which of them are meant. Pure."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import msgspec

from flowctl.errors import UserError
from flowctl.journal import subjects
from flowctl.journal.log import Entry, Poison, Unknown
from flowctl_cli.targets import Target
from flowctl_cli.terminal import Cell, Style, clock_time, one_line

_AGO = re.compile(r"\A([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)\Z")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
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
        else:
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
        time=datetime.fromtimestamp(entry.time_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
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


def _data(entry: Entry) -> object:
    try:
        return msgspec.json.decode(entry.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return entry.data.decode(errors="replace")[:1_000]


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
    """Which entries are meant. Times are Unix nanoseconds; ``types`` are event names (``ComponentExited``)."""

    target: Target | None = None
    types: frozenset[str] = frozenset()
    since_ns: int | None = None
    until_ns: int | None = None

    @property
    def subject(self) -> str | None:
        """The narrowest NATS wildcard that covers all of them; None for the whole journal."""
        tokens = {token for (kind, token), known in subjects.TYPES.items() if known.__name__ in self.types and kind}
        token = next(iter(tokens)) if len(tokens) == 1 else "*"
        if self.target is None:
            return None
        if self.target.component is None:
            return f"{subjects.JOURNAL_ROOT}.*.{self.target.pipeline}.>"
        index = "*" if self.target.index is None else str(self.target.index)
        return f"{subjects.JOURNAL_ROOT}.component.{self.target.pipeline}.{self.target.component}.{index}.{token}"

    def has(self, entry: Entry) -> bool:
        """Whether the entry is one of them."""
        if self.since_ns is not None and entry.time_ns < self.since_ns:
            return False
        if self.until_ns is not None and entry.time_ns > self.until_ns:
            return False
        if self.target is not None and (entry.aggregate is None or entry.aggregate.kind == "host"):
            return False  # a host may have a pipeline's name
        return not self.types or type(entry.event).__name__ in self.types


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


def moment(text: str, *, now_ns: int) -> int:
    """Unix nanoseconds of ``2026-01-31T12:00:00Z``, ``12:30`` (today) or a span before now: ``90s``, ``15m``, ``2h``, ``1d``.

    Times without a zone are in this host's.

    Raises:
        UserError: it is none of these.
    """
    span = _AGO.match(text)
    if span:
        return now_ns - int(float(span[1]) * _UNITS[span[2]] * 1e9)
    now = datetime.fromtimestamp(now_ns / 1e9).astimezone()
    try:
        if re.match(r"\A[0-9]{1,2}:[0-9]{2}", text):
            today = datetime.fromisoformat(f"{now.date().isoformat()}T{text.zfill(len(text) + (text[1] == ':'))}")
            return _nanoseconds(today if today.tzinfo else today.astimezone())
        read = datetime.fromisoformat(text)
        return _nanoseconds(read if read.tzinfo else read.astimezone())
    except (ValueError, OverflowError):
        raise UserError(
            f"{text[:60]!r} is not a time",
            hint="write 2026-01-31T12:00:00Z, 2026-01-31, 12:30, or how long ago: 90s, 15m, 2h, 1d",
        ) from None


def _nanoseconds(value: datetime) -> int:
    return (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000
