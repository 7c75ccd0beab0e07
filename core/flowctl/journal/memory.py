"""The journal in memory: the twin of the JetStream one, for tests and simulation. Passes the same contract suite."""

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from flowctl.clock import Clock, SystemClock
from flowctl.errors import ConflictError, DeadLettersFullError, JournalCorruptError, JournalUnavailableError, NotFoundError
from flowctl.journal import chain, codec, letters, subjects
from flowctl.journal.events import Aggregate
from flowctl.journal.heartbeats import Beat, StoredBeat
from flowctl.journal.letters import DeadLetter, Envelope, StoredLetter
from flowctl.journal.log import Draft, Entry, Head, Record, Subjects
from flowctl.journal.logs import LogLine
from flowctl.journal.memory_subscriptions import MemoryNotices, MemorySubscriptions
from flowctl.journal.snapshots import Snapshot, SnapshotHead


def _matches(subject: str, pattern: Subjects) -> bool:
    """Whether a NATS wildcard (``*``: one token, final ``>``: one or more), or one of several, covers the subject."""
    if pattern is None:
        return True
    if not isinstance(pattern, str):
        return any(_matches(subject, each) for each in pattern)
    have, want = subject.split("."), pattern.split(".")
    if want[-1] == ">":
        want.pop()
        if len(have) <= len(want):
            return False
        have = have[: len(want)]
    return len(have) == len(want) and all(w in ("*", h) for h, w in zip(have, want, strict=True))


class MemoryStore:
    """Everything that is stored, in this process. ``available`` False makes every call fail like an absent server."""

    def __init__(self, clock: Clock | None = None, new_id: Callable[[], str] | None = None) -> None:
        self.clock: Clock = clock or SystemClock()
        self.available = True
        self._changed = asyncio.Event()
        self.journal = MemoryJournal(self, new_id or (lambda: uuid.uuid4().hex))
        self.heartbeats = MemoryHeartbeats(self)
        self.logs = MemoryLogs(self)
        self.dead_letters = MemoryDeadLetters(self)
        self.snapshots = MemorySnapshots(self)
        self.subscriptions = MemorySubscriptions(self)
        self.notices = MemoryNotices(self, self.clock.wall_ns)

    @property
    def connected(self) -> bool:
        """See ``Store``."""
        return self.available

    async def close(self) -> None:
        """See ``Store``."""

    def set_available(self, *, available: bool) -> None:
        """Take the server away, or bring it back."""
        self.available = available
        self.notify()

    def check(self) -> None:
        """Fail as a call to an absent server does."""
        if not self.available:
            raise JournalUnavailableError("the journal does not answer")

    def notify(self) -> None:
        """Wake everybody who waits for something new."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Wait for something new."""
        await self._changed.wait()


class MemoryJournal:
    """See ``Journal``."""

    def __init__(self, store: MemoryStore, new_id: Callable[[], str]) -> None:
        self._store = store
        self._new_id = new_id
        self._entries: list[Entry] = []
        self._records: list[Record] = []
        self._heads: dict[Aggregate, Head] = {}

    async def append(
        self,
        drafts: Sequence[Draft],
        *,
        actor: str,
        expect: Mapping[Aggregate, Head] | None = None,
        correlation: str = "",
    ) -> list[Entry]:
        """See ``Journal``."""
        chain.check_drafts(drafts)
        await asyncio.sleep(0)
        self._store.check()
        heads: dict[Aggregate, Head] = {}
        for draft in drafts:
            head = self._heads.get(draft.aggregate, Head.EMPTY)
            if expect is not None and expect[draft.aggregate].seq != head.seq:
                raise ConflictError(f"{draft.aggregate} ends at {head.seq}, not at {expect[draft.aggregate].seq}")
            heads[draft.aggregate] = head
        now_ns = self._store.clock.wall_ns()
        appended: list[Entry] = []
        links = chain.link(drafts, heads, actor=actor, correlation=correlation, new_id=self._new_id, wall_ns=now_ns)
        for seq, link in enumerate(links, start=len(self._entries) + 1):
            stored = link.stored
            appended.append(codec.decode(seq, now_ns, stored.subject, stored.headers, stored.data))
            self._records.append(codec.record(seq, now_ns, stored.subject, stored.headers, stored.data))
            heads[link.aggregate] = Head(seq, link.stored.hash)
        self._entries += appended
        self._heads.update(heads)
        self._store.notify()
        return appended

    def put(self, subject: str, headers: Mapping[str, str], data: bytes) -> Entry:
        """Store a message as a foreign writer might, unchecked. For tests."""
        seq, now_ns = len(self._entries) + 1, self._store.clock.wall_ns()
        entry = codec.decode(seq, now_ns, subject, headers, data)
        self._entries.append(entry)
        self._records.append(codec.record(seq, now_ns, subject, headers, data))
        if entry.aggregate is not None:
            self._heads[entry.aggregate] = Head(entry.seq, entry.hash)
        self._store.notify()
        return entry

    async def head(self, aggregate: Aggregate) -> Head:
        """See ``Journal``."""
        await asyncio.sleep(0)  # as with a server, others run meanwhile
        self._store.check()
        return self._heads.get(aggregate, Head.EMPTY)

    async def last_sequence(self) -> int:
        """See ``Journal``."""
        await asyncio.sleep(0)
        self._store.check()
        return len(self._entries)

    async def entry(self, seq: int) -> Entry:
        """See ``Journal``."""
        await asyncio.sleep(0)
        self._store.check()
        if not 1 <= seq <= len(self._entries):
            raise NotFoundError(f"the journal has no entry {seq}")
        return self._entries[seq - 1]

    async def records(self, *, after: int = 0, upto: int | None = None) -> AsyncIterator[Record]:
        """See ``Journal``."""
        self._store.check()
        for record in self._records[after : len(self._records) if upto is None else upto]:
            yield record

    async def restore(self, records: Sequence[Record], *, upto: int) -> None:
        """See ``Journal``."""
        await asyncio.sleep(0)
        self._store.check()
        if records and records[0].seq != len(self._entries) + 1:
            raise ConflictError(f"the journal ends at {len(self._entries)}, not at {records[0].seq - 1}")
        for record in records:
            self.put(record.subject, codec.imported_headers(record, upto), record.data)

    async def count(self, *, after: int = 0, subject: Subjects = None) -> int:
        """See ``Journal``."""
        await asyncio.sleep(0)
        self._store.check()
        return sum(_matches(entry.subject, subject) for entry in self._entries[after:])

    async def read(self, *, after: int = 0, upto: int | None = None, subject: Subjects = None) -> AsyncIterator[Entry]:
        """See ``Journal``."""
        self._store.check()
        for entry in self._entries[after : len(self._entries) if upto is None else upto]:
            if _matches(entry.subject, subject):
                yield entry

    async def follow(self, *, after: int = 0, subject: Subjects = None) -> AsyncIterator[Entry]:
        """See ``Journal``."""
        self._store.check()
        if after > len(self._entries):
            raise JournalCorruptError(f"the journal ends at {len(self._entries)}, before {after}")
        while True:
            while after < len(self._entries):
                entry = self._entries[after]
                after += 1
                if _matches(entry.subject, subject):
                    yield entry
            await self._store.changed()
            self._store.check()

    def now_ns(self) -> int:
        """See ``Journal``."""
        return self._store.clock.wall_ns()


class MemoryHeartbeats:
    """See ``Heartbeats``."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._beats: list[StoredBeat] = []

    async def publish(self, beats: Sequence[Beat], *, timeout_s: float | None = None) -> None:
        """See ``Heartbeats``. It takes no time."""
        del timeout_s
        self._store.check()
        for beat in beats:
            self._beats.append(StoredBeat(len(self._beats) + 1, self._store.clock.wall_ns(), beat))
        self._store.notify()

    async def read(self, *, after: int = 0, since_ns: int = 0, subject: Subjects = None) -> AsyncIterator[StoredBeat]:
        """See ``Heartbeats``."""
        self._store.check()
        for stored in list(self._beats):
            later = stored.seq > after and stored.time_ns >= since_ns
            if later and _matches(subjects.beat_subject(stored.beat), subject):
                yield stored

    async def follow(self) -> AsyncIterator[StoredBeat]:
        """See ``Heartbeats``."""
        self._store.check()
        at = len(self._beats)
        last = {subjects.beat_subject(stored.beat): stored for stored in self._beats}
        for stored in sorted(last.values(), key=lambda stored: stored.seq):
            yield stored
        while True:
            while at < len(self._beats):
                at += 1
                yield self._beats[at - 1]
            await self._store.changed()
            self._store.check()


class MemoryLogs:
    """See ``Logs``."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._lines: list[LogLine] = []
        self._ids: set[str] = set()

    async def publish(self, lines: Sequence[LogLine]) -> None:
        """See ``Logs``."""
        self._store.check()
        for line in lines:
            if not line.id or line.id not in self._ids:
                self._ids.add(line.id)
                self._lines.append(line)
        self._store.notify()

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
        self._store.check()
        pattern = subjects.log_filter(pipeline, component, index)
        at = len(self._lines)
        stored = deque((line for line in self._lines if _matches(subjects.log_subject(line.instance), pattern)), maxlen=tail)
        for line in stored:
            yield line
        while follow:
            while at < len(self._lines):
                at += 1
                if _matches(subjects.log_subject(self._lines[at - 1].instance), pattern):
                    yield self._lines[at - 1]
            await self._store.changed()
            self._store.check()


class MemoryDeadLetters:
    """See ``DeadLetters``. ``max_bytes`` is how much there is room for."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._letters: list[StoredLetter] = []
        self._numbers: dict[str, int] = {}
        self.max_bytes = 1024 * 1024 * 1024
        self.size = 0

    async def put(self, letter: DeadLetter, payload: bytes) -> int:
        """See ``DeadLetters``."""
        await asyncio.sleep(0)
        self._store.check()
        if letter.key in self._numbers:
            return self._numbers[letter.key]
        size = len(letters.encode(letter, payload))
        if self.size + size > self.max_bytes:
            raise DeadLettersFullError("the dead letters have no room for another one: maximum bytes exceeded")
        self.size += size
        number = self._numbers[letter.key] = len(self._letters) + 1
        self._letters.append(StoredLetter(number, self._store.clock.wall_ns(), letter, payload))
        return number

    async def get(self, number: int) -> StoredLetter:
        """See ``DeadLetters``."""
        await asyncio.sleep(0)
        self._store.check()
        if not 1 <= number <= len(self._letters):
            raise NotFoundError(f"there is no dead letter {number}")
        return self._letters[number - 1]

    async def envelopes(self, pipeline: str, component: str | None = None) -> list[Envelope]:
        """See ``DeadLetters``."""
        return [
            Envelope(stored.number, stored.letter.instance, stored.time_ns) async for stored in self.read(pipeline, component)
        ]

    async def read(self, pipeline: str, component: str | None = None, *, after: int = 0) -> AsyncIterator[StoredLetter]:
        """See ``DeadLetters``."""
        self._store.check()
        for stored in self._letters[after:]:
            instance = stored.letter.instance
            if instance.pipeline == pipeline and component in (None, instance.component):
                yield stored


class MemorySnapshots:
    """See ``Snapshots``. ``stored`` may be changed by tests."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.stored: dict[SnapshotHead, Snapshot] = {}

    async def put(self, snapshot: Snapshot) -> None:
        """See ``Snapshots``."""
        await asyncio.sleep(0)
        self._store.check()
        self.stored[snapshot.head] = snapshot

    async def heads(self, schema: str) -> list[SnapshotHead]:
        """See ``Snapshots``."""
        await asyncio.sleep(0)
        self._store.check()
        return sorted((head for head in self.stored if head.schema == schema), key=lambda head: head.seq)

    async def get(self, head: SnapshotHead) -> Snapshot | None:
        """See ``Snapshots``."""
        await asyncio.sleep(0)
        self._store.check()
        return self.stored.get(head)
