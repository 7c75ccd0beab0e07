"""Heartbeats on JetStream: one readable JSON message each, all of a group sent before the first acknowledgement is awaited."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec
from nats.aio.msg import Msg

from flowctl.journal import beat_codec, subjects
from flowctl.journal.heartbeats import Beat, StoredBeat
from flowctl.journal.jetstream.api_call import ApiError, decode_reply, reply_data
from flowctl.journal.jetstream.connection import Connection
from flowctl.journal.jetstream.reader import Position, StreamReader
from flowctl.journal.jetstream.streams import stream_info
from flowctl.journal.log import Subjects


class JetStreamHeartbeats:
    """See ``Heartbeats``. ``unreadable`` counts the messages of others that are no heartbeats."""

    def __init__(self, connection: Connection, observe: Callable[[int], None]) -> None:
        self._connection = connection
        self._observe = observe
        self.unreadable = 0

    async def publish(self, beats: Sequence[Beat], *, timeout_s: float | None = None) -> None:
        """See ``Heartbeats``."""
        pending = [await self._connection.send(subjects.beat_subject(beat), beat_codec.encode(beat)) for beat in beats]
        await acknowledged(self._connection, pending, timeout_s)

    async def read(self, *, after: int = 0, since_ns: int = 0, subject: Subjects = None) -> AsyncIterator[StoredBeat]:
        """See ``Heartbeats``."""
        self._connection.raise_if_broken()
        try:
            last = (await stream_info(self._connection, subjects.HEARTBEAT_STREAM)).state.last_seq
        except ApiError as error:
            raise self._connection.unavailable(error.message) from error
        if after >= last:
            return
        reader = StreamReader(self._connection, subjects.HEARTBEAT_STREAM, subject=subject or subjects.HEARTBEAT_ALL)
        position = Position(after=after, since_ns=since_ns)
        async with contextlib.aclosing(reader.batches(position, follow=False, upto=last)) as batches:
            async for raws in batches:
                for raw in raws:
                    if (beat := beat_codec.decode(raw.subject, raw.data)) is not None:
                        yield StoredBeat(raw.seq, raw.time_ns, beat)

    async def follow(self) -> AsyncIterator[StoredBeat]:
        """See ``Heartbeats``."""
        self._connection.raise_if_broken()
        reader = StreamReader(self._connection, subjects.HEARTBEAT_STREAM, subject=subjects.HEARTBEAT_ALL)
        async with contextlib.aclosing(reader.batches(Position(last_per_subject=True), follow=True)) as batches:
            async for raws in batches:
                self._observe(raws[-1].time_ns)
                for raw in raws:
                    beat = beat_codec.decode(raw.subject, raw.data)
                    if beat is None:
                        self.unreadable += 1
                    else:
                        yield StoredBeat(raw.seq, raw.time_ns, beat)


class _Ack(msgspec.Struct):
    seq: int = 0


async def acknowledged(connection: Connection, pending: Sequence[asyncio.Future[Msg]], timeout_s: float | None = None) -> None:
    """Wait until all of these publishes are acknowledged, at most as long as a request may take.

    Raises:
        JournalUnavailableError: some are not.
    """
    if not pending:
        return
    messages = await connection.within(
        asyncio.gather(*pending), None if timeout_s is None else min(timeout_s, connection.request_timeout_s)
    )
    for message in messages:
        try:
            decode_reply(reply_data(message, connection), _Ack)
        except ApiError as error:
            raise connection.unavailable(error.message) from error
