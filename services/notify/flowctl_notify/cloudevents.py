"""An entry as a CloudEvent over HTTP. Pure.

CloudEvents 1.0, HTTP protocol binding: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
(binary mode: attributes as ``ce-`` headers, percent-encoded, and the data as it is; structured mode: one JSON object).
Signatures as https://www.standardwebhooks.com: HMAC-SHA256 over ``<id>.<timestamp>.<body>``.
"""

import base64
import hashlib
import hmac
from datetime import UTC, datetime
from typing import Final

import msgspec

from flowctl import __version__
from flowctl.errors import InvalidSettingError
from flowctl.journal.log import Entry

JSON: Final = "application/json"
STRUCTURED: Final = "application/cloudevents+json; charset=utf-8"
SCHEMA: Final = "urn:flowctl:v1:"
ENCODED: Final = "whsec_"


class Request(msgspec.Struct, frozen=True):
    """What is POSTed."""

    headers: dict[str, str]
    body: bytes


def attributes(entry: Entry) -> dict[str, str]:
    """The CloudEvents attributes. ``time`` is the journal's; ``sequence`` the stream's, to order entries and to find them."""
    when = datetime.fromtimestamp(entry.time_ns / 1e9, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {
        "specversion": "1.0",
        "id": entry.id,
        "type": entry.ce_type,
        "source": f"/flowctl/{entry.actor}",
        "subject": ".".join(entry.aggregate.key) if entry.aggregate is not None else entry.subject,
        "time": when,
        "datacontenttype": JSON,
        "dataschema": f"{SCHEMA}{entry.ce_type}",
        "actor": entry.actor,
        "correlationid": entry.correlation,
        "causationid": str(entry.causation),
        "sequence": str(entry.seq),
    }


def request(entry: Entry, *, structured: bool, key: bytes = b"", now_s: int = 0) -> Request:
    """The request for an entry; signed if there is a ``key``, with the time of signing in Unix seconds."""
    known = {name: value for name, value in attributes(entry).items() if value}
    if structured:
        headers, body = {"content-type": STRUCTURED}, msgspec.json.encode({**known, "data": msgspec.Raw(entry.data)})
    else:
        headers = {f"ce-{name}": encoded(value) for name, value in known.items() if name != "datacontenttype"}
        headers, body = {**headers, "content-type": JSON}, entry.data
    headers["user-agent"] = f"flowctl-notify/{__version__}"
    if key:
        headers |= {"webhook-id": encoded(entry.id), "webhook-timestamp": str(now_s)}
        headers["webhook-signature"] = signature(key, headers["webhook-id"], now_s, body)
    return Request(headers, body)


def signature(key: bytes, id_: str, timestamp_s: int, body: bytes) -> str:
    """``v1,<base64>``."""
    digest = hmac.new(key, f"{id_}.{timestamp_s}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def signing_key(secret: str) -> bytes:
    """The key that a secret is, empty for none; one that begins with ``whsec_`` is base64 after that, as the standard writes it.

    Raises:
        InvalidSettingError: it is no key.
    """
    encoded_key = secret.removeprefix(ENCODED)
    try:
        key = base64.b64decode(encoded_key, validate=True) if secret.startswith(ENCODED) else secret.encode()
    except ValueError:
        key = b""
    if secret and not key:
        wanted = "what follows whsec_ is not base64" if secret.startswith(ENCODED) else "it is not text in UTF-8"
        raise InvalidSettingError(
            f"notify: notify_secret is no key: {wanted}",
            hint="write whsec_ and a key in base64, as `openssl rand -base64 32` prints one, or any text without whsec_",
        )
    return key


def encoded(value: str) -> str:
    """A header's value: what is not printable ASCII, a space, ``"`` and ``%`` as percent and UTF-8."""
    return "".join(letter if "!" <= letter <= "~" and letter not in '"%' else _percent(letter) for letter in value)


def _percent(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode(errors="replace"))
