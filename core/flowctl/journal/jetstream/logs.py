"""Instances' output on JetStream."""

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from flowctl.journal import subjects
from flowctl.journal.jetstream.api_call import ApiError
from flowctl.journal.jetstream.connection import Connection
from flowctl.journal.jetstream.heartbeats import acknowledged
from flowctl.journal.jetstream.reader import Position, Raw, StreamReader
from flowctl.journal.jetstream.streams import stream_info
from flowctl.journal.logs import LogLine

PUBLISH_AT_ONCE: Final = 1_000
MSG_ID: Final = "Nats-Msg-Id"

_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(LogLine)


class JetStreamLogs:
    """See ``Logs``. ``unreadable`` counts the messages of others that are no log lines."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.unreadable = 0

    async def publish(self, lines: Sequence[LogLine]) -> None:
        """See ``Logs``. A line is recognised as stored already for as long as the stream's duplicate window."""
        for start in range(0, len(lines), PUBLISH_AT_ONCE):
            pending = [
                await self._connection.send(
                    subjects.log_subject(line.instance), _encoder.encode(line), {MSG_ID: line.id} if line.id else None
                )
                for line in lines[start : start + PUBLISH_AT_ONCE]
            ]
            await acknowledged(self._connection, pending)

    async def read(
        self,
        pipeline: str,
        *,
        component: str | None = None,
        index: int | None = None,
        tail: int | None = None,
        follow: bool = False,
    ) -> AsyncIterator[LogLine]:
        """See ``Logs``."""
        self._connection.raise_if_broken()
        pattern = subjects.log_filter(pipeline, component, index)
        try:
            state = (await stream_info(self._connection, subjects.LOG_STREAM)).state
        except ApiError as error:
            raise self._connection.unavailable(error.message) from error
        after, last = max(0, state.first_seq - 1), state.last_seq
        if tail is not None:
            after = await self._before_tail(pattern, tail, after, last)
        if after < last:
            stored = self._lines(pattern, after, upto=last)
            if tail is not None:
                kept: deque[LogLine] = deque(maxlen=tail)
                async for line in stored:
                    kept.append(line)
                for line in kept:
                    yield line
            else:
                async for line in stored:
                    yield line
        if follow:
            async for line in self._lines(pattern, last, upto=None):
                yield line

    async def _lines(self, pattern: str, after: int, *, upto: int | None) -> AsyncIterator[LogLine]:
        reader = StreamReader(self._connection, subjects.LOG_STREAM, subject=pattern)
        position = Position(after=after)
        async with contextlib.aclosing(reader.batches(position, follow=upto is None, upto=upto)) as batches:
            async for raws in batches:
                for raw in raws:
                    if (line := self._decode(raw)) is not None:
                        yield line

    def _decode(self, raw: Raw) -> LogLine | None:
        try:
            line = _decoder.decode(raw.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.unreadable += 1
            return None
        return line

    async def _before_tail(self, pattern: str, tail: int, first: int, last: int) -> int:
        """A position from which at least ``tail`` lines follow, if there are so many: looks back four times as far each time."""
        distance = max(64, tail)
        while (after := last - distance) > first:
            reader = StreamReader(self._connection, subjects.LOG_STREAM, subject=pattern)
            if await reader.count(Position(after=after)) >= tail:
                return after
            distance *= 4
        return first
