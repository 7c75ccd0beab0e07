"""An event as JSON: one line for a file, a console, a request or another program."""

import base64
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from flowctl_sdk import Event

encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


def payload_line(payload: bytes) -> bytes:
    """The payload as JSON on one line, without the line's end.

    JSON stays as it is (only line breaks between its parts are taken out); other text becomes a JSON string; bytes that are not
    UTF-8 become ``{"base64": "…"}``.
    """
    try:
        value = _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return encode(_opaque(payload))
    return encode(value) if b"\n" in payload or b"\r" in payload else payload


def readable(payload: bytes) -> object:
    """The payload as the value that ``payload_line`` writes."""
    try:
        return _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _opaque(payload)


def envelope(event: Event) -> dict[str, Any]:
    """The event with everything that is known of it: ``id``, ``time`` (UTC), ``type``, ``metadata`` and ``payload``."""
    return {**_facts(event), "payload": readable(event.payload)}


def envelope_line(event: Event) -> bytes:
    """The envelope as JSON on one line, without the line's end; the payload as ``payload_line`` has it."""
    return encode(_facts(event))[:-1] + b',"payload":' + payload_line(event.payload) + b"}"


def _facts(event: Event) -> dict[str, Any]:
    seconds, nanoseconds = divmod(event.time_ns, 1_000_000_000)
    time = datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanoseconds // 1_000)
    return {
        "id": event.id,
        "time": time.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "type": event.type,
        "metadata": event.metadata or {},
    }


def _opaque(payload: bytes) -> object:
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(payload).decode()}
