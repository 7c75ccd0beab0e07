"""Entries to and from what is stored: CloudEvents headers and JSON data. Pure.

CloudEvents 1.0 (core and NATS protocol binding, binary content mode): https://github.com/cloudevents/spec
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from flowctl.journal import subjects
from flowctl.journal.events import UPCASTERS, VERSIONS, Aggregate, JournalEvent
from flowctl.journal.log import Draft, Entry, Poison, Record, Unknown

MAX_ENTRY_BYTES: Final = 512 * 1024
HASH_LENGTH: Final = 64

_encoder = msgspec.json.Encoder(order="deterministic")
_decoders = {t: msgspec.json.Decoder(t) for t in VERSIONS}
_HASH = re.compile(r"\A([0-9a-f]{64})?\Z")


class Stored(msgspec.Struct, frozen=True):
    """A draft ready to be published, with the hash that its successor will carry."""

    subject: str
    headers: dict[str, str]
    data: bytes
    hash: str


def encode(draft: Draft, *, entry_id: str, actor: str, correlation: str, previous_hash: str, wall_ns: int) -> Stored:
    """What to publish for a draft. ``ce-time`` is the writer's own clock; the server's time of the message is the one used."""
    kind, token = subjects.TOKENS[type(draft.event)]
    subject = subjects.entry_subject(draft.aggregate, token)
    headers = {
        subjects.CE_SPECVERSION: "1.0",
        subjects.CE_ID: entry_id,
        subjects.CE_TYPE: subjects.ce_type(kind, token, VERSIONS[type(draft.event)]),
        subjects.CE_SOURCE: f"/flowctl/{actor}",
        subjects.CE_SUBJECT: ".".join(draft.aggregate.key),
        subjects.CE_TIME: datetime.fromtimestamp(wall_ns / 1e9, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        subjects.CE_ACTOR: actor,
        subjects.CE_CORRELATION: correlation,
        subjects.CE_CAUSATION: str(draft.causation),
        subjects.CE_PREVIOUS_HASH: previous_hash,
        subjects.CONTENT_TYPE: "application/json",
    }
    data = _encoder.encode(draft.event)
    return Stored(subject, headers, data, entry_hash(subject, headers, data))


def entry_hash(subject: str, headers: Mapping[str, str], data: bytes) -> str:
    """SHA-256 (hex) over the subject, flowctl's headers and the data; it covers the previous hash, so it fixes the chain."""
    get = headers.get
    return hashlib.sha256("\n".join([subject, *[get(name, "") for name in _HASHED], ""]).encode() + data).hexdigest()


_WRITTEN: Final = (
    subjects.CE_SPECVERSION,
    subjects.CE_ID,
    subjects.CE_TYPE,
    subjects.CE_SOURCE,
    subjects.CE_SUBJECT,
    subjects.CE_TIME,
    subjects.CE_ACTOR,
    subjects.CE_CORRELATION,
    subjects.CE_CAUSATION,
    subjects.CE_PREVIOUS_HASH,
    subjects.CONTENT_TYPE,
)
"""The headers in the order in which they are written."""

_HASHED: Final = (
    subjects.CE_ID,
    subjects.CE_TYPE,
    subjects.CE_SOURCE,
    subjects.CE_TIME,
    subjects.CE_ACTOR,
    subjects.CE_CORRELATION,
    subjects.CE_CAUSATION,
    subjects.CE_PREVIOUS_HASH,
)


def record(seq: int, time_ns: int, subject: str, headers: Mapping[str, str] | None, data: bytes) -> Record:
    """The stored message without what the server and an import added to it: as it was when it was first stored."""
    headers = headers or {}
    kept = {name: value for name, value in headers.items() if name not in _ADDED and not name.startswith(_SERVERS_OWN)}
    return Record(seq, stored_ns(time_ns, headers), subject, kept, data)


_ADDED: Final = frozenset({subjects.IMPORTED_TIME, subjects.IMPORTED_UPTO})
_SERVERS_OWN: Final = "Nats-"


def imported_headers(record: Record, upto: int) -> dict[str, str]:
    """The headers under which an imported entry is stored, so that it keeps its time and shows where its import was to end."""
    return {**record.headers, subjects.IMPORTED_TIME: str(record.time_ns), subjects.IMPORTED_UPTO: str(upto)}


def imported_upto(headers: Mapping[str, str] | None) -> int:
    """The last entry of the import that an entry came with, 0 if it was not imported."""
    text = (headers or {}).get(subjects.IMPORTED_UPTO, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def stored_ns(time_ns: int, headers: Mapping[str, str]) -> int:
    """When an entry was first stored: the server's time of the message, or the earlier one that an import says it had."""
    imported = headers.get(subjects.IMPORTED_TIME)
    if imported is None or not (imported.isascii() and imported.isdigit() and len(imported) < 20):
        return time_ns
    return min(int(imported), time_ns)


def decode(seq: int, time_ns: int, subject: str, headers: Mapping[str, str] | None, data: bytes, *, hashed: str = "") -> Entry:
    """The entry of a stored message. Never raises: what cannot be read comes back as ``Poison``, what is new as ``Unknown``.

    ``hashed`` is its ``entry_hash``, from whoever has it already.
    """
    headers = headers or {}
    time_ns = stored_ns(time_ns, headers)
    hashed = hashed or entry_hash(subject, headers, data)
    place = subjects.parse_entry_subject(subject)
    if place is None:
        named = headers.get(subjects.CE_TYPE, "")
        newer = subjects.names_unknown_kind(subject, named)
        what = Unknown(named) if newer else Poison("the subject is not one of the journal's")
        return Entry(seq, time_ns, subject, None, what, hash=hashed, data=data)
    aggregate = place[0]
    id_, ce_type = headers.get(subjects.CE_ID, ""), headers.get(subjects.CE_TYPE, "")
    previous_hash = headers.get(subjects.CE_PREVIOUS_HASH, "")
    return Entry(
        seq,
        time_ns,
        subject,
        aggregate,
        _decode_event(place, id_, ce_type, previous_hash, data),
        id_,
        ce_type,
        headers.get(subjects.CE_ACTOR, ""),
        headers.get(subjects.CE_CORRELATION, ""),
        _sequence(headers.get(subjects.CE_CAUSATION, "0")),
        previous_hash,
        hashed,
        data,
    )


_VALUE: Final = r"([!-~]*(?: +[!-~]+)*)"
_BLOCK: Final = re.compile(
    "".join(
        [
            r"NATS/1\.0\r\n",
            *(f"{name}: {_VALUE}\r\n" for name in _WRITTEN),
            r"(?:Nats-[A-Za-z-]+: [ -~]*\r\n)*\r\n",
        ]
    ).encode()
)
"""A header block just as ``encode`` and the JetStream journal write it, in printable ASCII."""


def decode_block(seq: int, time_ns: int, subject: str, block: bytes, data: bytes) -> Entry | None:
    """What ``decode`` makes of an entry with this header block, in half the time; None if the block is not in our own form."""
    match = _BLOCK.fullmatch(block)
    place = subjects.parse_entry_subject(subject)
    if match is None or place is None:
        return None
    aggregate = place[0]
    _, id_, ce_type, source, _, time, actor, correlation, causation, previous, _ = match.groups()
    hashed = b"\n".join((subject.encode(), id_, ce_type, source, time, actor, correlation, causation, previous, data))
    entry_id, type_name, previous_hash = id_.decode(), ce_type.decode(), previous.decode()
    return Entry(
        seq,
        time_ns,
        subject,
        aggregate,
        _decode_event(place, entry_id, type_name, previous_hash, data),
        entry_id,
        type_name,
        actor.decode(),
        correlation.decode(),
        _sequence(causation.decode()),
        previous_hash,
        hashlib.sha256(hashed).hexdigest(),
        data,
    )


def _sequence(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _decode_event(
    place: tuple[Aggregate, str], entry_id: str, ce_type: str, previous_hash: str, data: bytes
) -> JournalEvent | Unknown | Poison:
    if not entry_id:
        return Poison("no ce-id header")
    if not _HASH.match(previous_hash):
        return Poison("the ce-previoushash header is not a SHA-256 in hex")
    parsed = subjects.parse_ce_type(ce_type)
    if parsed is None:
        return Unknown(ce_type) if ce_type else Poison("no ce-type header")
    kind, named, version = parsed
    aggregate, token = place
    if (kind, named) != (aggregate.kind, token):
        return Poison(f"ce-type {ce_type} does not belong on subject token {token!r}")
    event_type = subjects.TYPES.get((kind, named))
    if event_type is None or version > VERSIONS[event_type]:
        return Unknown(ce_type)
    try:
        if version == VERSIONS[event_type]:
            return _decoders[event_type].decode(data)
        return msgspec.convert(_upcast(event_type.__name__, version, VERSIONS[event_type], data), event_type)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError, KeyError) as error:
        return Poison(f"the data is not a {event_type.__name__} version {version}: {error}")


def _upcast(name: str, version: int, target: int, data: bytes) -> dict[str, Any]:
    value = msgspec.json.decode(data, type=dict[str, Any])
    while version < target:
        value = UPCASTERS[name, version](value)
        version += 1
    return value
