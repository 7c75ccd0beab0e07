"""Undelivered notices on JetStream: fsynced before the acknowledgement, never dropped for room."""

import contextlib
from typing import Any, Final

import msgspec

from flowctl.errors import NoticesFullError
from flowctl.journal import subjects
from flowctl.journal.jetstream.api_call import ApiError, decode_reply
from flowctl.journal.jetstream.connection import Connection
from flowctl.journal.jetstream.letters import STORE_FULL
from flowctl.journal.jetstream.reader import Position, StreamReader
from flowctl.journal.notices import Notice, StoredNotice

MESSAGE_NOT_FOUND: Final = frozenset({10037, 10043, 10057})

_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Notice)


class _Ack(msgspec.Struct):
    seq: int = 0


class JetStreamNotices:
    """See ``Notices``. ``unreadable`` counts the messages of others that are no notices."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.unreadable = 0

    async def put(self, notice: Notice) -> int:
        """See ``Notices``."""
        headers = {"Nats-Msg-Id": f"{notice.route} {notice.seq} {notice.attempts}"}
        reply = await self._connection.request(subjects.notice_subject(notice.route), _encoder.encode(notice), headers)
        try:
            return decode_reply(reply, _Ack).seq
        except ApiError as error:
            if error.err_code in STORE_FULL:
                raise full(error.message) from error
            raise self._connection.unavailable(error.message) from error

    async def read(self) -> list[StoredNotice]:
        """See ``Notices``."""
        self._connection.raise_if_broken()
        reader = StreamReader(self._connection, subjects.NOTICE_STREAM, subject=subjects.NOTICE_ALL)
        found: list[StoredNotice] = []
        async with contextlib.aclosing(reader.batches(Position(), follow=False)) as batches:
            async for raws in batches:
                for raw in raws:
                    try:
                        found.append(StoredNotice(raw.seq, raw.time_ns, _decoder.decode(raw.data)))
                    except (msgspec.DecodeError, UnicodeDecodeError):
                        self.unreadable += 1
        return found

    async def remove(self, number: int) -> None:
        """See ``Notices``."""
        try:
            await self._connection.api(f"STREAM.MSG.DELETE.{subjects.NOTICE_STREAM}", {"seq": number}, dict[str, Any])
        except ApiError as error:
            if error.err_code not in MESSAGE_NOT_FOUND:
                raise self._connection.unavailable(error.message) from error


def full(reason: str) -> NoticesFullError:
    """There is no room for another notice."""
    return NoticesFullError(
        f"the undelivered notices have no room for another one: {reason}",
        hint=f"`flowctl notify redrive` or `forget` makes room; or give stream {subjects.NOTICE_STREAM} more max_bytes",
    )
