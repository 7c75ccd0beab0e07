"""One message of an exported file: a line of JSON, never longer than a reader takes. Pure."""

from typing import Final

import msgspec
from msgspec import field

from flowctl.errors import UserError
from flowctl.journal.log import Record

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""Room for the largest message that flowctl's own NATS server takes (8 MiB) in base64, and for its headers."""


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry or heartbeat as written; of an entry with the journal's ``digest`` after it.

    ``data64`` (base64) holds data that is no text, or text that would be too long when escaped; ``data`` any other.
    """

    seq: int
    time_ns: int
    subject: str
    headers: dict[str, str] = field(default_factory=dict[str, str])
    data: str = ""
    data64: bytes = b""
    digest: str = ""

    @property
    def record(self) -> Record:
        """The message."""
        return Record(self.seq, self.time_ns, self.subject, self.headers, self.data64 or self.data.encode())


_encode = msgspec.json.Encoder(order="deterministic").encode
_decoder: Final = msgspec.json.Decoder(Line)


def encoded(record: Record, digest: str) -> bytes:
    """The line of a message, with its line feed.

    Raises:
        UserError: it is so large that no reader would take it.
    """
    try:
        text, raw = record.data.decode(), b""
    except UnicodeDecodeError:
        text, raw = "", record.data
    line = Line(record.seq, record.time_ns, record.subject, dict(record.headers), text, raw, digest)
    written = _encode(line) + b"\n"
    if len(written) > MAX_LINE_BYTES and text:
        written = _encode(msgspec.structs.replace(line, data="", data64=record.data)) + b"\n"
    if len(written) > MAX_LINE_BYTES:
        raise UserError(
            f"message {record.seq} of {record.subject} is too large for an exported file: it would be a line of"
            f" {len(written):,} bytes, and none may have more than {MAX_LINE_BYTES:,}"
        )
    return written


def decoded(raw: bytes) -> Line:
    """Read a line.

    Raises:
        msgspec.MsgspecError, UnicodeDecodeError, RecursionError: it is none.
    """
    return _decoder.decode(raw)
