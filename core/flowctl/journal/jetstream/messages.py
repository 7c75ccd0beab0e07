"""One stored message, fetched by its sequence or by its subject, without a consumer."""

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Final

import msgspec

from flowctl.journal.jetstream.api_call import ApiError
from flowctl.journal.jetstream.client import parse_header_lines
from flowctl.journal.jetstream.connection import Connection

MESSAGE_NOT_FOUND: Final = 10037


class Message(msgspec.Struct, frozen=True):
    """A stored message with the server's time of it in Unix nanoseconds."""

    seq: int
    time_ns: int
    subject: str
    headers: dict[str, str]
    data: bytes


class _Stored(msgspec.Struct):
    subject: str
    seq: int
    time: str
    hdrs: str = ""
    data: str = ""


class _Reply(msgspec.Struct):
    message: _Stored


async def get_message(
    connection: Connection, stream: str, body: Mapping[str, object], *, timeout_s: float | None = None
) -> Message | None:
    """The message that ``body`` asks for (``seq``, ``last_by_subj`` or ``seq`` and ``next_by_subj``); None if there is none.

    Raises:
        ApiError, JournalUnavailableError: the server refuses, or does not answer.
    """
    try:
        stored = (await connection.api(f"STREAM.MSG.GET.{stream}", body, _Reply, timeout_s=timeout_s)).message
    except ApiError as error:
        if error.err_code == MESSAGE_NOT_FOUND:
            return None
        raise
    headers = parse_headers(base64.b64decode(stored.hdrs))
    return Message(stored.seq, nanoseconds(stored.time), stored.subject, headers, base64.b64decode(stored.data))


def parse_headers(raw: bytes) -> dict[str, str]:
    """A NATS header block (``NATS/1.0``, then ``Name: value`` lines), read as nats-py reads it."""
    return parse_header_lines(raw.partition(b"\r\n")[2])


def nanoseconds(timestamp: str) -> int:
    """Unix nanoseconds of an RFC 3339 time in UTC as Go writes it, with none to nine digits after the point."""
    seconds, _, fraction = timestamp.removesuffix("Z").partition(".")
    return int(datetime.fromisoformat(f"{seconds}+00:00").timestamp()) * 1_000_000_000 + int(fraction.ljust(9, "0") or "0")
