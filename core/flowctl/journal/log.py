"""What a journal is: entries, and the Protocol that its implementations keep."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import ClassVar, Protocol

import msgspec

from flowctl.journal.events import Aggregate, JournalEvent


class Head(msgspec.Struct, frozen=True):
    """Where an aggregate ends: the stream sequence and hash of its last entry; (0, "") if it has none."""

    seq: int = 0
    hash: str = ""

    EMPTY: ClassVar["Head"]


Head.EMPTY = Head()


class Unknown(msgspec.Struct, frozen=True):
    """An entry of a type or version that this release does not know. Skipped and counted, never an error."""

    ce_type: str


class Poison(msgspec.Struct, frozen=True):
    """An entry that cannot be read, with the reason. Quarantined and counted, never an error."""

    reason: str


class Draft(msgspec.Struct, frozen=True):
    """An event that is to be appended to an aggregate. ``causation`` is the sequence of the entry that led to it, 0 if none."""

    aggregate: Aggregate
    event: JournalEvent
    causation: int = 0


class Entry(msgspec.Struct, frozen=True):
    """One entry as stored. ``time_ns`` is the server's Unix time in nanoseconds; ``aggregate`` None only for poison."""

    seq: int
    time_ns: int
    subject: str
    aggregate: Aggregate | None
    event: JournalEvent | Unknown | Poison
    id: str = ""
    ce_type: str = ""
    actor: str = ""
    correlation: str = ""
    causation: int = 0
    previous_hash: str = ""
    hash: str = ""
    data: bytes = b""


class Record(msgspec.Struct, frozen=True, gc=False):
    """A stored message as it lies in a stream, undecoded; what ``codec.decode`` reads. ``time_ns`` is Unix nanoseconds."""

    seq: int
    time_ns: int
    subject: str
    headers: Mapping[str, str]
    data: bytes


Subjects = str | Sequence[str] | None
"""A NATS wildcard, several that do not overlap, or None for everything."""


class Journal(Protocol):
    """The append-only log of facts. Safe for concurrent use by the tasks of one event loop."""

    async def append(
        self,
        drafts: Sequence[Draft],
        *,
        actor: str,
        expect: Mapping[Aggregate, Head] | None = None,
        correlation: str = "",
    ) -> list[Entry]:
        """Append all drafts in this order, or none of them, and return them as stored.

        ``expect`` holds the head of every aggregate in ``drafts`` as the caller knows it; None appends after whatever is
        there. At most 500 drafts. When this returns, the entries are on disk.

        Raises:
            ConflictError: an aggregate's head is not the expected one; nothing was written.
            JournalUnavailableError: no answer in time, and reading back did not answer either. The entries may or may not
                have been written; calling again with the same expectation is safe.
        """
        ...

    async def head(self, aggregate: Aggregate) -> Head:
        """The present end of an aggregate."""
        ...

    async def last_sequence(self) -> int:
        """The sequence of the last entry of the journal, 0 if it is empty."""
        ...

    async def entry(self, seq: int) -> Entry:
        """The entry with this sequence.

        Raises:
            NotFoundError: there is none yet.
            JournalUnavailableError: the server does not answer.
            JournalCorruptError: it was there, and is gone.
        """
        ...

    def read(self, *, after: int = 0, upto: int | None = None, subject: Subjects = None) -> AsyncIterator[Entry]:
        """The entries with ``after < seq <= upto`` in order, then the end. ``upto`` None: up to what is there now.

        ``subject`` filters, at the server, by a NATS wildcard of the journal's subjects, or by several that do not overlap.

        Raises:
            JournalUnavailableError: the server does not answer.
            JournalCorruptError: an entry is missing.
        """
        ...

    def records(self, *, after: int = 0, upto: int | None = None) -> AsyncIterator[Record]:
        """The same entries as ``read``, undecoded, as they were when they were first stored (``codec.record``).

        A missing entry is left out, not refused: this is for whoever judges the journal.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...

    async def restore(self, records: Sequence[Record], *, upto: int) -> None:
        """Store entries of another journal at the sequences that they had there: in order, in groups that are whole or absent.

        Their hashes stay what they were, and so do their times, in a header (``subjects.IMPORTED_TIME``). ``upto`` is the last
        entry of the whole import.

        Raises:
            ConflictError: the journal does not end just before them.
            JournalUnavailableError: nobody knows; ``last_sequence`` tells.
        """
        ...

    async def count(self, *, after: int = 0, subject: Subjects = None) -> int:
        """How many entries there are after ``after``, counted by the server.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...

    def follow(self, *, after: int = 0, subject: Subjects = None) -> AsyncIterator[Entry]:
        """The entries after ``after``, in order and without a gap, for ever: waits for new ones.

        Raises:
            JournalUnavailableError: the server does not answer. Follow again from the last sequence that was seen.
            JournalCorruptError: an entry is missing, or the log ends before ``after``.
        """
        ...

    def now_ns(self) -> int:
        """The journal's time: the newest server time seen plus the monotonic time since; Unix nanoseconds."""
        ...
