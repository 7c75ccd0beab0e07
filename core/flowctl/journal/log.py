"""What a journal is: entries, and the Protocols that its implementations keep."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol

import msgspec
from msgspec import field

from flowctl.ids import InstanceId
from flowctl.journal.events import Aggregate, JournalEvent
from flowctl.journal.letters import DeadLetters
from flowctl.journal.notices import Notices
from flowctl.journal.snapshots import Snapshots

if TYPE_CHECKING:
    from flowctl.journal.subscriptions import Subscriptions


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


class Heartbeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an instance said of itself. ``metrics`` are counters and gauges by name.

    ``ending`` is why it ends, in the last one of an instance that ends on purpose: its counters change no more.
    """

    instance: InstanceId
    incarnation: int
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    edges: list["EdgeCounters"] = field(default_factory=list["EdgeCounters"])
    groups: list["GroupCounters"] = field(default_factory=list["GroupCounters"])
    ending: str = ""


class EdgeCounters(msgspec.Struct, frozen=True, omit_defaults=True):
    """One end of an edge: ``peer`` is ``<component>.<index>``, ``direction`` ``in`` or ``out``; cf. ``EdgeMetrics``."""

    peer: str
    direction: str
    events_total: int = 0
    bytes_total: int = 0
    in_flight: int = 0
    resent_total: int = 0
    connected: bool = False
    dropped_total: int = 0
    acked_total: int = 0
    superseded_total: int = 0
    sender_incarnation: int = 0
    epoch: int = 0
    next_offset: int = 0
    done_offset: int = 0
    oldest_s: float = 0.0
    source_lag_s: float = 0.0
    credit_events: int = 0
    credit_bytes: int = 0
    delivery_buckets: list[int] = field(default_factory=list[int])
    delivery_s_total: float = 0.0


class GroupCounters(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a downstream component was given, over all its instances; see ``GroupMetrics`` in the contract."""

    component: str
    offered_total: int = 0
    acked_total: int = 0
    in_flight: int = 0
    dropped_total: int = 0
    skipped_total: int = 0


class HostBeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """An agent's sign of life."""

    host: str
    agent: str = ""
    instances: int = 0


class ServiceBeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """A service's sign of life: while no registry is alive, the components' silence means nothing."""

    service: str
    name: str


Beat = Heartbeat | HostBeat | ServiceBeat


class StoredBeat(msgspec.Struct, frozen=True):
    """A heartbeat with the server's time of it, Unix nanoseconds, and its sequence in the heartbeat stream."""

    seq: int
    time_ns: int
    beat: Beat


class LogLine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of an instance's output. ``stream`` is ``stdout`` or ``stderr``; ``id`` is unique to the line."""

    instance: InstanceId
    incarnation: int
    stream: str
    text: str
    time_ns: int
    id: str = ""


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


class Heartbeats(Protocol):
    """The signs of life: many, small, kept for hours."""

    async def publish(self, beats: Sequence[Beat], *, timeout_s: float | None = None) -> None:
        """Store all of them, within ``timeout_s`` if that is shorter than a request may take anyway.

        Raises:
            JournalUnavailableError: some may not have been stored.
        """
        ...

    def read(self, *, after: int = 0, since_ns: int = 0, subject: Subjects = None) -> AsyncIterator[StoredBeat]:
        """The stored beats after a sequence, or from a time (Unix nanoseconds) on, in order, up to what is there now.

        ``subject`` filters as in ``Journal.read``; the oldest beats may be gone.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...

    def follow(self) -> AsyncIterator[StoredBeat]:
        """The last stored beat of everybody, then every new one, for ever. A gap is possible; the newest is never skipped.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...


class Logs(Protocol):
    """The output of instances, kept while there is room."""

    async def publish(self, lines: Sequence[LogLine]) -> None:
        """Store all of them; a line whose ``id`` is stored already is not stored again.

        Raises:
            JournalUnavailableError: some may not have been stored.
        """
        ...

    def read(
        self,
        pipeline: str,
        *,
        component: str | None = None,
        index: int | None = None,
        tail: int | None = None,
        follow: bool = False,
    ) -> AsyncIterator[LogLine]:
        """Stored lines in order (the last ``tail`` if given), then with ``follow`` every new one.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...


class Store(Protocol):
    """One connection to everything that is stored."""

    @property
    def journal(self) -> Journal:
        """The log of facts."""
        ...

    @property
    def heartbeats(self) -> Heartbeats:
        """The signs of life."""
        ...

    @property
    def logs(self) -> Logs:
        """The output of instances."""
        ...

    @property
    def dead_letters(self) -> DeadLetters:
        """The events that components gave up on."""
        ...

    @property
    def snapshots(self) -> Snapshots:
        """States of the fold to begin from."""
        ...

    @property
    def subscriptions(self) -> "Subscriptions":
        """The durable readings of the journal."""
        ...

    @property
    def notices(self) -> Notices:
        """The notices that nobody took."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the server answers, as far as is known."""
        ...

    async def close(self) -> None:
        """Let go of the connection."""
        ...
