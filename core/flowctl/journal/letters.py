"""Dead letters: events that a component gave up on, kept whole, with the error, until somebody sends them again.

A letter is stored as one line of JSON that describes it, a line feed, and the event's payload as it was.
"""

import hashlib
from collections.abc import AsyncIterator
from typing import Protocol

import msgspec
from msgspec import field

from flowctl.ids import InstanceId


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of the event and of its failure; the payload goes beside it.

    ``instance`` gave up on it, in this ``run`` of its pipeline. ``origin``, ``position`` and ``path`` are the event's identity,
    ``time_ns`` its Unix time. ``attempts`` counts the calls that raised; ``error`` is the last one's text.
    """

    instance: InstanceId
    incarnation: int
    origin: str
    position: int
    path: str = ""
    run: int = 1
    type: str = ""
    time_ns: int = 0
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    error: str = ""
    attempts: int = 1

    @property
    def event_id(self) -> str:
        """The event's id, as sinks know it."""
        return f"{self.origin}:{self.position}{self.path}"

    @property
    def key(self) -> str:
        """The same for every storing of this event by any instance of this component, in one run of its pipeline."""
        words = f"{self.instance.pipeline}.{self.instance.component} {self.run} {self.event_id}"
        return hashlib.blake2b(words.encode(), digest_size=16).hexdigest()


class StoredLetter(msgspec.Struct, frozen=True):
    """A letter with its ``number`` (unique, growing) and the server's time of it, Unix nanoseconds."""

    number: int
    time_ns: int
    letter: DeadLetter
    payload: bytes


class Envelope(msgspec.Struct, frozen=True):
    """A letter from the outside: its number, the instance that gave up on it, and when (the server's Unix nanoseconds)."""

    number: int
    instance: InstanceId
    time_ns: int = 0


class DeadLetters(Protocol):
    """The letters of all pipelines."""

    async def put(self, letter: DeadLetter, payload: bytes) -> int:
        """Store a letter; returns its number. One that was stored within the last two minutes keeps its first number.

        When this returns, the letter is on disk.

        Raises:
            DeadLettersFullError: there is no room for it.
            LetterTooLargeError: the server takes no message of this size.
            JournalUnavailableError: it may or may not have been stored; storing it again is safe.
        """
        ...

    async def get(self, number: int) -> StoredLetter:
        """One letter.

        Raises:
            NotFoundError: there is none of that number.
            JournalUnavailableError: the server does not answer.
        """
        ...

    async def envelopes(self, pipeline: str, component: str | None = None) -> list[Envelope]:
        """All letters of a pipeline or a component from the outside, oldest first.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...

    def read(self, pipeline: str, component: str | None = None, *, after: int = 0) -> AsyncIterator[StoredLetter]:
        """The letters of a pipeline or a component with a number above ``after``, oldest first, to the end of what is there.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(DeadLetter)


def encode(letter: DeadLetter, payload: bytes) -> bytes:
    """The letter as it is stored."""
    return b"%s\n%s" % (_encoder.encode(letter), payload)


def decode(number: int, time_ns: int, data: bytes) -> StoredLetter | None:
    """The inverse of ``encode``; None for what is no letter."""
    described, _, payload = data.partition(b"\n")
    try:
        return StoredLetter(number, time_ns, _decoder.decode(described), payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
