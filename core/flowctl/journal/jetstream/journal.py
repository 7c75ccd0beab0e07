"""The journal on JetStream."""

import asyncio
import contextlib
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Final

from flowctl.clock import Clock, JournalClock
from flowctl.errors import ConflictError, JournalCorruptError, JournalUnavailableError, NotFoundError
from flowctl.journal import chain, codec, subjects
from flowctl.journal.events import Aggregate
from flowctl.journal.jetstream.api_call import ApiError
from flowctl.journal.jetstream.commit import Append, CommitCounts, GroupCommit
from flowctl.journal.jetstream.connection import Connection
from flowctl.journal.jetstream.messages import Message, get_message, nanoseconds
from flowctl.journal.jetstream.reader import Position, Raw, StreamReader
from flowctl.journal.jetstream.restore import restore
from flowctl.journal.jetstream.streams import StreamInfo, info_upto
from flowctl.journal.log import Draft, Entry, Head, Record, Subjects

MAX_CONFLICTS: Final = 20
REMEMBERED_HEADS: Final = 10_000
RETRY_WAIT_S: Final = 0.02


class JetStreamJournal:
    """See ``Journal``. The times of returned entries are the journal clock's; readers see the server's own."""

    def __init__(self, connection: Connection, clock: Clock, new_id: Callable[[], str] | None = None) -> None:
        self._connection = connection
        self._clock = clock
        self._journal_clock = JournalClock(clock)
        self._new_id = new_id or (lambda: uuid.uuid4().hex)
        self._commit = GroupCommit(connection)
        self._heads: OrderedDict[Aggregate, Head] = OrderedDict()
        self._turns: dict[Aggregate, tuple[asyncio.Lock, int]] = {}
        self.seen_sequence = 0
        self.created = ""

    @property
    def commit_counts(self) -> CommitCounts:
        """How the appends were grouped."""
        return self._commit.counts

    async def close(self) -> None:
        """Give up on what is under way."""
        await self._commit.close()

    # --- writing -----------------------------------------------------------------------------------------------------------

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
        if not drafts:
            return []
        deadline = asyncio.get_running_loop().time() + self._connection.request_timeout_s
        aggregates = sorted({draft.aggregate for draft in drafts})
        if expect is not None:
            heads = {aggregate: expect[aggregate] for aggregate in aggregates}
            return await self._append_after(heads, drafts, actor, correlation, deadline)
        async with contextlib.AsyncExitStack() as stack:
            for aggregate in aggregates:
                await stack.enter_async_context(self._turn(aggregate))
            conflicts = 0
            while True:
                heads = await self._present_heads(aggregates, deadline)
                try:
                    return await self._append_after(heads, drafts, actor, correlation, deadline)
                except ConflictError:
                    conflicts += 1
                    for aggregate in aggregates:
                        self._heads.pop(aggregate, None)
                    if conflicts > MAX_CONFLICTS or asyncio.get_running_loop().time() > deadline:
                        raise

    async def _append_after(
        self, heads: Mapping[Aggregate, Head], drafts: Sequence[Draft], actor: str, correlation: str, deadline: float
    ) -> list[Entry]:
        links = chain.link(
            drafts, heads, actor=actor, correlation=correlation, new_id=self._new_id, wall_ns=self._clock.wall_ns()
        )
        seen = self.seen_sequence
        sequences = await self._commit.append(Append(links, heads, deadline))
        if sequences[0] <= seen:
            raise self._corrupt(f"the journal gave sequence {sequences[0]} to a new entry, and entry {seen} was seen before")
        self.seen_sequence = max(self.seen_sequence, sequences[-1])
        now_ns = self.now_ns()
        entries: list[Entry] = []
        for seq, link in zip(sequences, links, strict=True):
            entries.append(codec.decode(seq, now_ns, link.stored.subject, link.stored.headers, link.stored.data))
            self._remember(link.aggregate, Head(seq, link.stored.hash))
        return entries

    async def _present_heads(self, aggregates: Sequence[Aggregate], deadline: float) -> dict[Aggregate, Head]:
        """Where the aggregates end; remembered ones may be out of date, which the server will say."""
        heads: dict[Aggregate, Head] = {}
        for aggregate in aggregates:
            known = self._heads.get(aggregate)
            while known is None:
                await self._connection.up(deadline)
                try:
                    known = await self.head(aggregate)
                except JournalUnavailableError:
                    if asyncio.get_running_loop().time() > deadline:
                        raise
                    await asyncio.sleep(RETRY_WAIT_S)
            heads[aggregate] = known
        return heads

    def _remember(self, aggregate: Aggregate, head: Head) -> None:
        self._heads[aggregate] = head
        self._heads.move_to_end(aggregate)
        if len(self._heads) > REMEMBERED_HEADS:
            self._heads.popitem(last=False)

    @contextlib.asynccontextmanager
    async def _turn(self, aggregate: Aggregate) -> AsyncGenerator[None]:
        """One at a time, among this process's writers that append to whatever is there."""
        lock, waiting = self._turns.get(aggregate, (asyncio.Lock(), 0))
        self._turns[aggregate] = (lock, waiting + 1)
        try:
            async with lock:
                yield
        finally:
            waiting = self._turns[aggregate][1] - 1
            if waiting:
                self._turns[aggregate] = (lock, waiting)
            else:
                del self._turns[aggregate]

    # --- reading -----------------------------------------------------------------------------------------------------------

    async def head(self, aggregate: Aggregate) -> Head:
        """See ``Journal``."""
        self._connection.raise_if_broken()
        try:
            return (await self._commit.last_message(aggregate)).head
        except ApiError as error:
            raise self._connection.unavailable(error.message) from error

    async def last_sequence(self) -> int:
        """See ``Journal``."""
        return (await self._info()).state.last_seq

    async def entry(self, seq: int) -> Entry:
        """See ``Journal``."""
        found = await self._message(seq)
        if found is None and 0 < seq <= self.seen_sequence:
            await self._info(seq)  # a leader that is cut off has not got it
            found = await self._message(seq)
            if found is None:
                raise JournalCorruptError(f"entry {seq} of the journal is gone, and entry {self.seen_sequence} was seen")
        if found is None:
            raise NotFoundError(f"the journal has no entry {seq}")
        return codec.decode(found.seq, found.time_ns, found.subject, found.headers, found.data)

    async def _message(self, seq: int) -> Message | None:
        self._connection.raise_if_broken()
        try:
            return await get_message(self._connection, subjects.JOURNAL_STREAM, {"seq": seq}) if seq > 0 else None
        except ApiError as error:
            raise self._connection.unavailable(error.message) from error

    async def records(self, *, after: int = 0, upto: int | None = None) -> AsyncIterator[Record]:
        """See ``Journal``."""
        last = (await self._info()).state.last_seq
        upto = last if upto is None else min(upto, last)
        if after >= upto:
            return
        reader = StreamReader(self._connection, subjects.JOURNAL_STREAM)
        async with contextlib.aclosing(reader.batches(Position(after=after), follow=False, upto=upto)) as batches:
            async for raws in batches:
                for raw in raws:
                    yield codec.record(raw.seq, raw.time_ns, raw.subject, raw.headers, raw.data)

    async def restore(self, records: Sequence[Record], *, upto: int) -> None:
        """See ``Journal``."""
        self._connection.raise_if_broken()
        await restore(self._connection, subjects.JOURNAL_STREAM, records, upto)
        if records:
            self.seen_sequence = max(self.seen_sequence, records[-1].seq)
            self._heads.clear()

    async def count(self, *, after: int = 0, subject: Subjects = None) -> int:
        """See ``Journal``."""
        self._connection.raise_if_broken()
        return await self._reader(subject).count(Position(after=after))

    async def read(self, *, after: int = 0, upto: int | None = None, subject: Subjects = None) -> AsyncIterator[Entry]:
        """See ``Journal``."""
        last = (await self._info()).state.last_seq
        upto = last if upto is None else min(upto, last)
        if after >= upto:
            return
        reader = self._reader(subject)
        async with contextlib.aclosing(reader.batches(Position(after=after), follow=False, upto=upto)) as batches:
            async for raws in batches:
                for raw in raws:
                    yield _entry(raw)
                    after = raw.seq
        if subject is None and after < upto:
            raise JournalCorruptError(f"the journal ends at {after}, before {upto}")

    async def follow(self, *, after: int = 0, subject: Subjects = None) -> AsyncIterator[Entry]:
        """See ``Journal``."""
        last = (await self._info(after)).state.last_seq
        if after > last:
            raise JournalCorruptError(f"the journal ends at {last}, before {after}")
        reader = self._reader(subject)
        async with contextlib.aclosing(reader.batches(Position(after=after), follow=True)) as batches:
            async for raws in batches:
                self.observe(raws[-1].time_ns, raws[-1].seq)
                for raw in raws:
                    yield _entry(raw)

    def _reader(self, subject: Subjects) -> StreamReader:
        return StreamReader(self._connection, subjects.JOURNAL_STREAM, subject=subject, contiguous=subject is None)

    async def _info(self, upto: int = 0) -> StreamInfo:
        self._connection.raise_if_broken()
        try:
            info = await info_upto(self._connection, subjects.JOURNAL_STREAM, upto)
        except ApiError as error:
            raise self._connection.unavailable(error.message) from error
        self.check_identity(info)
        self.observe(nanoseconds(info.ts))
        return info

    def check_identity(self, info: StreamInfo) -> None:
        """Check that it is the stream of before. What is found wrong stays wrong: nothing is let through any more.

        Raises:
            JournalCorruptError: it was created anew.
        """
        if self.created and info.created != self.created:
            raise self._corrupt(f"the journal was created anew at {info.created}: it is not the one of before")
        self.created = info.created

    def _corrupt(self, message: str) -> JournalCorruptError:
        error = JournalCorruptError(message, hint="restore the server's store from a copy, or point flowctl at the right server")
        self._connection.break_with(error)
        return error

    # --- time --------------------------------------------------------------------------------------------------------------

    def observe(self, server_ns: int, seq: int = 0) -> None:
        """A message of the server with this time, and this sequence of the journal, has just arrived."""
        self._journal_clock.observe(server_ns)
        self.seen_sequence = max(self.seen_sequence, seq)

    def now_ns(self) -> int:
        """See ``Journal``."""
        return self._journal_clock.now_ns()


def _entry(raw: Raw) -> Entry:
    entry = codec.decode_block(raw.seq, raw.time_ns, raw.subject, raw.block, raw.data)
    return entry if entry is not None else codec.decode(raw.seq, raw.time_ns, raw.subject, raw.headers, raw.data)
