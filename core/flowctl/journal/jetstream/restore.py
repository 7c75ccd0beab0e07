"""Storing entries of another journal at the sequences that they had: atomic batches, each expected to be next in the stream."""

import asyncio
import uuid
from collections.abc import Sequence
from typing import Final

import msgspec
from nats.aio.msg import Msg

from flowctl.errors import ConflictError, JournalCorruptError
from flowctl.journal import codec
from flowctl.journal.jetstream.api_call import ApiError, decode_reply, reply_data
from flowctl.journal.jetstream.commit import (
    BATCH_COMMIT,
    BATCH_ID,
    BATCH_SEQUENCE,
    EXPECTED_STREAM,
    MAX_GROUP_BYTES,
    MAX_GROUP_ENTRIES,
    WRONG_LAST_SEQUENCE,
)
from flowctl.journal.jetstream.connection import Connection
from flowctl.journal.log import Record

EXPECTED_LAST: Final = "Nats-Expected-Last-Sequence"


class _Ack(msgspec.Struct):
    seq: int = 0


async def restore(connection: Connection, stream: str, records: Sequence[Record], upto: int) -> None:
    """See ``Journal.restore``.

    Raises:
        ConflictError, JournalUnavailableError: see ``Journal.restore``.
        JournalCorruptError: the server stored them elsewhere.
    """
    at = 0
    while at < len(records):
        group: list[Record] = []
        size = 0
        while at < len(records) and len(group) < MAX_GROUP_ENTRIES and (not group or size < MAX_GROUP_BYTES):
            size += len(records[at].data) + 512
            group.append(records[at])
            at += 1
        await _store(connection, stream, group, upto)


async def _store(connection: Connection, stream: str, group: Sequence[Record], upto: int) -> None:
    batch_id = uuid.uuid4().hex
    future: asyncio.Future[Msg] | None = None
    for number, record in enumerate(group, start=1):
        headers = codec.imported_headers(record, upto) | {EXPECTED_STREAM: stream}
        if number == 1:
            # No message id: the expected sequence already keeps a group from being stored twice.
            headers[EXPECTED_LAST] = str(record.seq - 1)
        if len(group) > 1:
            headers |= {BATCH_ID: batch_id, BATCH_SEQUENCE: str(number)}
        if number < len(group):
            await connection.publish(record.subject, record.data, headers)
        else:
            if len(group) > 1:
                headers[BATCH_COMMIT] = "1"
            future = await connection.send(record.subject, record.data, headers)
    if future is None:
        raise ValueError("an empty group")
    try:
        ack = decode_reply(reply_data(await connection.within(future), connection), _Ack)
    except ApiError as error:
        if error.err_code in WRONG_LAST_SEQUENCE:
            raise ConflictError(f"the journal does not end at {group[0].seq - 1}") from error
        raise connection.unavailable(error.message) from error
    if ack.seq != group[-1].seq:
        raise JournalCorruptError(f"entry {group[-1].seq} was stored as {ack.seq}")
