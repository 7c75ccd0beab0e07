"""Dead letters on JetStream: fsynced before the acknowledgement, each stored once, never dropped for room."""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from flowctl.errors import DeadLettersFullError, LetterTooLargeError, NotFoundError
from flowctl.journal import letters, subjects
from flowctl.journal.jetstream.api_call import ApiError, decode_reply
from flowctl.journal.jetstream.connection import Connection
from flowctl.journal.jetstream.messages import get_message
from flowctl.journal.jetstream.reader import Position, Raw, StreamReader
from flowctl.journal.letters import DeadLetter, Envelope, StoredLetter

MSG_ID: Final = "Nats-Msg-Id"
HEADER_BYTES: Final = 1_024

STORE_FULL: Final = frozenset({10077, 10023, 10047})
"""The server's own codes: maximum bytes of the stream, of the account, of the server."""


class _Ack(msgspec.Struct):
    seq: int = 0


class JetStreamDeadLetters:
    """See ``DeadLetters``. ``unreadable`` counts the messages of others that are no letters."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.unreadable = 0

    async def put(self, letter: DeadLetter, payload: bytes) -> int:
        """See ``DeadLetters``."""
        data = letters.encode(letter, payload)
        limit = int(self._connection.server_info.get("max_payload", 0))
        if limit and len(data) + HEADER_BYTES > limit:
            raise LetterTooLargeError(
                f"event {letter.event_id} is too large to be kept as a dead letter: {len(data):,} bytes, and the NATS server "
                f"takes messages of at most {limit:,}",
                hint="raise max_payload in the configuration of the NATS server",
            )
        subject = subjects.dead_letter_subject(letter.instance)
        reply = await self._connection.request(subject, data, {MSG_ID: letter.key})
        try:
            return decode_reply(reply, _Ack).seq
        except ApiError as error:
            if error.err_code in STORE_FULL:
                raise full(error.message) from error
            raise self._connection.unavailable(error.message) from error

    async def get(self, number: int) -> StoredLetter:
        """See ``DeadLetters``."""
        if number < 1:
            raise NotFoundError(f"there is no dead letter {number}")
        try:
            found = await get_message(self._connection, subjects.DEAD_LETTER_STREAM, {"seq": number})
        except ApiError as error:
            raise self._connection.unavailable(error.message) from error
        if found is None:
            raise NotFoundError(f"there is no dead letter {number}")
        letter = letters.decode(number, found.time_ns, found.data)
        if letter is None:
            raise NotFoundError(f"message {number} of {subjects.DEAD_LETTER_STREAM} is no dead letter")
        return letter

    async def envelopes(self, pipeline: str, component: str | None = None) -> list[Envelope]:
        """See ``DeadLetters``."""
        found: list[Envelope] = []
        async for raws in self._batches(pipeline, component, after=0, headers_only=True):
            for raw in raws:
                instance = subjects.dead_letter_instance(raw.subject)
                if instance is not None:
                    found.append(Envelope(raw.seq, instance, raw.time_ns))
        return found

    async def read(self, pipeline: str, component: str | None = None, *, after: int = 0) -> AsyncIterator[StoredLetter]:
        """See ``DeadLetters``."""
        async for raws in self._batches(pipeline, component, after=after, headers_only=False):
            for raw in raws:
                letter = letters.decode(raw.seq, raw.time_ns, raw.data)
                if letter is None or subjects.dead_letter_subject(letter.letter.instance) != raw.subject:
                    self.unreadable += 1
                else:
                    yield letter

    async def _batches(self, pipeline: str, component: str | None, *, after: int, headers_only: bool) -> AsyncIterator[list[Raw]]:
        self._connection.raise_if_broken()
        reader = StreamReader(
            self._connection,
            subjects.DEAD_LETTER_STREAM,
            subject=subjects.dead_letter_filter(pipeline, component),
            headers_only=headers_only,
        )
        async with contextlib.aclosing(reader.batches(Position(after=after), follow=False)) as batches:
            async for raws in batches:
                yield raws


def full(reason: str) -> DeadLettersFullError:
    """There is no room for another letter."""
    return DeadLettersFullError(
        f"the dead letters have no room for another one: {reason}",
        hint=f"give stream {subjects.DEAD_LETTER_STREAM} more max_bytes, or purge what is not needed any more",
    )
