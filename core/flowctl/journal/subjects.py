"""Every subject, stream and header name of the journal, written once.

Token counts are fixed, so that one wildcard answers a question: all status changes of pipeline ``orders`` are
``flowctl.journal.component.orders.*.*.status_changed``.
"""

import functools
import re
from typing import Final

from flowctl.errors import InvalidIdError
from flowctl.ids import InstanceId, is_id
from flowctl.journal.events import EVENT_TYPES, Aggregate, AggregateKind, JournalEvent
from flowctl.journal.heartbeats import Beat, Heartbeat, HostBeat, ServiceBeat

JOURNAL_STREAM: Final = "FLOWCTL_JOURNAL"
HEARTBEAT_STREAM: Final = "FLOWCTL_HEARTBEATS"
LOG_STREAM: Final = "FLOWCTL_LOGS"
DEAD_LETTER_STREAM: Final = "FLOWCTL_DEAD_LETTERS"
SNAPSHOT_STREAM: Final = "FLOWCTL_SNAPSHOTS"
NOTICE_STREAM: Final = "FLOWCTL_NOTICES"

JOURNAL_ROOT: Final = "flowctl.journal"
HEARTBEAT_ROOT: Final = "flowctl.heartbeat"
LOG_ROOT: Final = "flowctl.log"
DEAD_LETTER_ROOT: Final = "flowctl.deadletter"
SNAPSHOT_ROOT: Final = "flowctl.snapshot"
NOTICE_ROOT: Final = "flowctl.notice"

JOURNAL_ALL: Final = f"{JOURNAL_ROOT}.>"
HEARTBEAT_ALL: Final = f"{HEARTBEAT_ROOT}.>"
LOG_ALL: Final = f"{LOG_ROOT}.>"
DEAD_LETTER_ALL: Final = f"{DEAD_LETTER_ROOT}.>"
SNAPSHOT_ALL: Final = f"{SNAPSHOT_ROOT}.>"
NOTICE_ALL: Final = f"{NOTICE_ROOT}.>"

# CloudEvents 1.0, NATS protocol binding, binary content mode; extension attributes are lower-case letters and digits.
CE_SPECVERSION: Final = "ce-specversion"
CE_ID: Final = "ce-id"
CE_TYPE: Final = "ce-type"
CE_SOURCE: Final = "ce-source"
CE_TIME: Final = "ce-time"
CE_SUBJECT: Final = "ce-subject"
CE_ACTOR: Final = "ce-actor"
CE_CORRELATION: Final = "ce-correlationid"
CE_CAUSATION: Final = "ce-causationid"
CE_PREVIOUS_HASH: Final = "ce-previoushash"
CONTENT_TYPE: Final = "content-type"
IMPORTED_TIME: Final = "ce-importedtime"
"""On entries of an imported journal: the server's time (Unix nanoseconds) of the entry where it was first stored."""
IMPORTED_UPTO: Final = "ce-importedupto"
"""On entries of an imported journal: the last entry of the file that they came from; one that ends before it is half of it."""

REMEMBERED_PLACES: Final = 20_000

_KEY_LENGTH: Final[dict[str, int]] = {"component": 3, "pipeline": 1, "host": 1, "seal": 1}
_CE_TYPE = re.compile(r"\Aflowctl\.([a-z]{1,32})\.([a-z_]+)\.v([1-9][0-9]{0,5})\Z")


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _kind_and_token(event_type: type[JournalEvent]) -> tuple[AggregateKind, str]:
    kind, _, token = _snake(event_type.__name__).partition("_")
    if kind == "checkpoint":
        return "component", f"checkpoint_{token}"
    if kind in ("component", "pipeline", "host", "seal"):
        return kind, token
    raise AssertionError(f"{event_type.__name__} names no aggregate")


TOKENS: Final[dict[type[JournalEvent], tuple[AggregateKind, str]]] = {t: _kind_and_token(t) for t in EVENT_TYPES}
"""Each event type's aggregate kind and last subject token, for example ``("component", "status_changed")``."""

TYPES: Final[dict[tuple[str, str], type[JournalEvent]]] = {pair: t for t, pair in TOKENS.items()}


def entry_subject(aggregate: Aggregate, token: str) -> str:
    """Where an entry of ``aggregate`` with the event token (``status_changed``) is published."""
    return f"{JOURNAL_ROOT}.{aggregate.kind}.{'.'.join(aggregate.key)}.{token}"


def aggregate_filter(aggregate: Aggregate) -> str:
    """The wildcard that covers exactly the entries of ``aggregate``."""
    return entry_subject(aggregate, "*")


def parse_entry_subject(subject: str) -> tuple[Aggregate, str] | None:
    """The aggregate and event token of a journal subject, or None if it is not one."""
    place, _, token = subject.rpartition(".")
    aggregate = _aggregate(place)
    return None if aggregate is None else (aggregate, token)


@functools.lru_cache(maxsize=REMEMBERED_PLACES)
def _aggregate(place: str) -> Aggregate | None:
    """The aggregate of a subject without its last token. Remembered: a long journal names the same ones again and again."""
    parts = place.split(".")
    if len(parts) < 4 or parts[0] != "flowctl" or parts[1] != "journal":
        return None
    kind, key = parts[2], tuple(parts[3:])
    if _KEY_LENGTH.get(kind) != len(key):
        return None
    ids = key[:2] if kind == "component" else key
    if not all(is_id(part) for part in ids):
        return None
    if kind == "component" and not (key[2].isascii() and key[2].isdigit() and str(int(key[2])) == key[2]):
        return None
    return Aggregate(kind, key)  # type: ignore[arg-type]


def names_unknown_kind(subject: str, ce_type: str) -> bool:
    """Whether the entry is well-formed and about a kind of thing that this release has never heard of: a newer one wrote it."""
    parsed = parse_ce_type(ce_type)
    if parsed is None or parsed[0] in _KEY_LENGTH:
        return False
    kind, token, _ = parsed
    parts = subject.split(".")
    return len(parts) >= 5 and parts[:3] == [*JOURNAL_ROOT.split("."), kind] and parts[-1] == token and all(parts)


def ce_type(kind: str, token: str, version: int) -> str:
    """The CloudEvents type, for example ``flowctl.component.status_changed.v1``."""
    return f"flowctl.{kind}.{token}.v{version}"


@functools.lru_cache(maxsize=1_000)
def parse_ce_type(text: str) -> tuple[str, str, int] | None:
    """Aggregate kind, event token and version of a CloudEvents type, or None if it is not one of flowctl's."""
    match = _CE_TYPE.match(text)
    return (match[1], match[2], int(match[3])) if match else None


def heartbeat_subject(instance: InstanceId) -> str:
    """Where an instance's heartbeats are published."""
    return f"{HEARTBEAT_ROOT}.component.{instance.pipeline}.{instance.component}.{instance.index}"


def host_heartbeat_subject(host: str) -> str:
    """Where an agent's heartbeats are published."""
    return f"{HEARTBEAT_ROOT}.host.{host}"


def service_heartbeat_subject(service: str, name: str) -> str:
    """Where a service (``registry``) of that name says that it is alive."""
    return f"{HEARTBEAT_ROOT}.service.{service}.{name}"


def beat_subject(beat: Beat) -> str:
    """Where this heartbeat is published."""
    match beat:
        case Heartbeat():
            return heartbeat_subject(beat.instance)
        case HostBeat():
            return host_heartbeat_subject(beat.host)
        case ServiceBeat():
            return service_heartbeat_subject(beat.service, beat.name)


def log_subject(instance: InstanceId) -> str:
    """Where an instance's output lines are published."""
    return f"{LOG_ROOT}.{instance.pipeline}.{instance.component}.{instance.index}"


def log_filter(pipeline: str, component: str | None = None, index: int | None = None) -> str:
    """The wildcard for the output of a pipeline, a component or one instance."""
    return f"{LOG_ROOT}.{pipeline}.{component or '*'}.{'*' if index is None else index}"


def dead_letter_subject(instance: InstanceId) -> str:
    """Where the events that an instance gave up on are published."""
    return f"{DEAD_LETTER_ROOT}.{instance.pipeline}.{instance.component}.{instance.index}"


def dead_letter_filter(pipeline: str, component: str | None = None) -> str:
    """The wildcard for the dead letters of a pipeline or a component."""
    return f"{DEAD_LETTER_ROOT}.{pipeline}.{component or '*'}.*"


def dead_letter_instance(subject: str) -> InstanceId | None:
    """The instance that gave up on the letter of this subject; None if it is none."""
    parts = subject.split(".")
    if len(parts) != 5 or not subject.startswith(f"{DEAD_LETTER_ROOT}."):
        return None
    try:
        return InstanceId.checked(parts[2], parts[3], parts[4])
    except InvalidIdError:
        return None


def snapshot_subject(schema: str, seq: int, checksum: str, part: str) -> str:
    """Where a part of a snapshot is published: a chunk's number, or ``head``."""
    return f"{SNAPSHOT_ROOT}.{schema[:16]}.{seq}.{checksum[:16]}.{part}"


def snapshot_filter(schema: str, part: str) -> str:
    """The wildcard for one part of all snapshots of a schema."""
    return f"{SNAPSHOT_ROOT}.{schema[:16]}.*.*.{part}"


def notice_subject(route: str) -> str:
    """Where the notices are published that nobody on the other end of a notifier's route took."""
    return f"{NOTICE_ROOT}.{route}"
