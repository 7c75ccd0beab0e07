"""Group commit: many callers' appends share one atomic batch, and so one fsync; and the truth after a refusal or a silence.

What the server says after "no" or after nothing at all is not enough to decide on: a batch may have been refused for its
neighbour's sake, or have been written although the answer was lost. So each append that was not plainly accepted is *read
back*: the first entry of its aggregate after the expected head is ours (written), somebody else's (a conflict, for good) or not
there (try again; the expectation makes that safe).

Atomic batches: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-50.md
"""

import asyncio
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from nats.aio.msg import Msg

from flowctl.errors import ConflictError, JournalError, JournalMisconfiguredError, JournalUnavailableError
from flowctl.journal import codec, subjects
from flowctl.journal.chain import Link
from flowctl.journal.events import Aggregate
from flowctl.journal.jetstream.api_call import ApiError, decode_reply, reply_data
from flowctl.journal.jetstream.connection import Connection
from flowctl.journal.jetstream.messages import get_message
from flowctl.journal.log import Head

MAX_GROUP_ENTRIES: Final = 500
MAX_GROUP_BYTES: Final = 4 * 1024 * 1024
ATTEMPTS_TOGETHER: Final = 2
MAX_ATTEMPTS: Final = 12
MIN_REPLY_S: Final = 0.05
MAX_REPLY_S: Final = 2.0
"""What was sent to a stream without a leader is never answered, and is sent again when nothing of it is there."""
READ_BACK_S: Final = 2.0

MSG_ID: Final = "Nats-Msg-Id"
EXPECTED_STREAM: Final = "Nats-Expected-Stream"
EXPECTED_SEQUENCE: Final = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"
BATCH_ID: Final = "Nats-Batch-Id"
BATCH_SEQUENCE: Final = "Nats-Batch-Sequence"
BATCH_COMMIT: Final = "Nats-Batch-Commit"

WRONG_LAST_SEQUENCE: Final = frozenset({10071, 10164})
ATOMIC_DISABLED: Final = 10174


class _Ack(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    count: int = 0


class LastMessage(msgspec.Struct, frozen=True):
    """A stored entry as far as a writer needs to know it."""

    head: Head
    id: str


class CommitCounts(msgspec.Struct):
    """``groups`` sent (each one fsync), ``entries`` and ``appends`` accepted, ``read_backs`` after a no or a silence."""

    groups: int = 0
    entries: int = 0
    appends: int = 0
    read_backs: int = 0


class Append:
    """One caller's append: its links, the heads that it expects, and the future with the sequence of each link."""

    def __init__(self, links: Sequence[Link], heads: Mapping[Aggregate, Head], deadline: float) -> None:
        self.links = links
        self.expected = {link.aggregate: heads[link.aggregate].seq for link in links}
        self.deadline = deadline
        self.size = sum(len(link.stored.data) for link in links) + 512 * len(links)
        self.future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()

    def written(self, first: int) -> None:
        """It is stored, beginning at this sequence."""
        if not self.future.done():
            self.future.set_result(list(range(first, first + len(self.links))))

    def failed(self, error: Exception) -> None:
        """It was not stored, or nobody knows."""
        if not self.future.done():
            self.future.set_exception(error)


class GroupCommit:
    """Takes appends from many tasks and sends one group at a time; what comes meanwhile is the next group."""

    def __init__(self, connection: Connection, stream: str = subjects.JOURNAL_STREAM) -> None:
        self._connection = connection
        self._stream = stream
        self._queue: deque[Append] = deque()
        self._task: asyncio.Task[None] | None = None
        self.counts = CommitCounts()

    async def append(self, append: Append) -> list[int]:
        """The sequences of the links, once they are on disk.

        Raises:
            ConflictError: an aggregate's head is not the expected one; nothing was written.
            JournalUnavailableError: nobody knows.
        """
        self._queue.append(append)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="journal-commit")
        return await append.future

    async def close(self) -> None:
        """Give up on what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while self._queue:
            self._queue.popleft().failed(self._connection.unavailable("it is being closed"))

    async def _run(self) -> None:
        while self._queue:
            group = self._next_group()
            try:
                await self._settle(group)
            except asyncio.CancelledError:
                for append in group:
                    append.failed(self._connection.unavailable("it is being closed"))
                raise
            except Exception as error:  # noqa: BLE001  # the callers are told; the next group is another matter
                for append in group:
                    append.failed(error)

    def _next_group(self) -> list[Append]:
        """The oldest append and those that can share its batch: other aggregates, and within the limits of a batch."""
        group: list[Append] = []
        aggregates: set[Aggregate] = set()
        later: deque[Append] = deque()
        entries = size = 0
        while self._queue:
            append = self._queue.popleft()
            if append.future.done():
                continue  # its caller gave up
            fits = entries + len(append.links) <= MAX_GROUP_ENTRIES and size + append.size <= MAX_GROUP_BYTES
            if group and (not fits or not aggregates.isdisjoint(append.expected)):
                later.append(append)
                # Whoever comes after it for the same aggregate stays behind it.
                aggregates.update(append.expected)
                if not fits:
                    break
                continue
            group.append(append)
            aggregates.update(append.expected)
            entries += len(append.links)
            size += append.size
        later.extend(self._queue)
        self._queue = later
        return group

    # --- deciding ----------------------------------------------------------------------------------------------------------

    async def _settle(self, group: list[Append]) -> None:
        """Send the group until every member is written, in conflict, or out of time."""
        attempt = 0
        while group:
            attempt += 1
            if attempt > ATTEMPTS_TOGETHER and len(group) > 1:
                await asyncio.gather(*(self._settle([append]) for append in group))
                return
            rejected = False
            try:
                first = await self._send(group)
            except ApiError as error:
                if error.err_code == ATOMIC_DISABLED:
                    raise JournalMisconfiguredError(f"stream {self._stream}: allow_atomic is false and must be true") from error
                rejected, reason = True, self._connection.unavailable(error.message)
            except JournalUnavailableError as error:
                reason = error
            else:
                for append in group:
                    append.written(first)
                    first += len(append.links)
                return
            group = await self._read_back(group, reason, rejected=rejected, last=attempt >= MAX_ATTEMPTS)
            if group and attempt > 1:
                await asyncio.sleep(min(0.5, 0.005 * 2**attempt))

    async def _read_back(
        self, group: list[Append], reason: JournalUnavailableError, *, rejected: bool, last: bool
    ) -> list[Append]:
        """Find out what became of each member; those of which nothing is stored come back, to be sent again."""
        self.counts.read_backs += 1
        loop = asyncio.get_running_loop()
        while group:
            try:
                await self._connection.up(max(append.deadline for append in group))
                fates = await asyncio.gather(*(self._fate(append, rejected=rejected) for append in group))
            except (JournalUnavailableError, ApiError):
                group = _in_time(group, loop.time(), reason)
                if group:
                    await asyncio.sleep(0.02)
                continue
            again: list[Append] = []
            for append, fate in zip(group, fates, strict=True):
                if isinstance(fate, int):
                    self.counts.appends += 1
                    self.counts.entries += len(append.links)
                    append.written(fate)
                elif fate is not None:
                    append.failed(fate)
                elif last:
                    append.failed(reason)
                else:
                    again.append(append)
            return _in_time(again, loop.time(), reason)
        return []

    async def _fate(self, append: Append, *, rejected: bool) -> int | ConflictError | None:
        """What became of an append: the sequence of its first entry, a conflict, or None if there is no trace of it (yet)."""
        ids = [link.id for link in append.links]
        for aggregate, expected in append.expected.items():
            position = next(at for at, link in enumerate(append.links) if link.aggregate == aggregate)
            following = await self.message_after(aggregate, expected)
            if following is not None:
                if following.id == ids[position]:
                    return following.head.seq - position
                return ConflictError(f"{aggregate} goes on with entry {following.head.seq} after {expected}")
            if rejected and expected and (await self.last_message(aggregate)).head.seq != expected:
                return ConflictError(f"{aggregate} does not end at {expected}")
        return None

    # --- the server --------------------------------------------------------------------------------------------------------

    async def _send(self, group: Sequence[Append]) -> int:
        """Publish the group, as one batch if it has several entries; the sequence of its first entry.

        Raises:
            ApiError: the server refused all of it.
            JournalUnavailableError: no answer.
        """
        connection = self._connection
        loop = asyncio.get_running_loop()
        await connection.up(max(append.deadline for append in group))
        batch_id = uuid.uuid4().hex
        count = sum(len(append.links) for append in group)
        at = 0
        future: asyncio.Future[Msg] | None = None
        for append in group:
            for link in append.links:
                at += 1
                headers = link.stored.headers | {
                    MSG_ID: link.id,
                    EXPECTED_STREAM: self._stream,
                    EXPECTED_SEQUENCE: str(append.expected[link.aggregate]),
                    EXPECTED_SUBJECT: subjects.aggregate_filter(link.aggregate),
                }
                if count > 1:
                    headers |= {BATCH_ID: batch_id, BATCH_SEQUENCE: str(at)}
                if at < count:
                    await connection.publish(link.stored.subject, link.stored.data, headers)
                else:
                    if count > 1:
                        headers[BATCH_COMMIT] = "1"
                    future = await connection.send(link.stored.subject, link.stored.data, headers)
        if future is None:
            raise ValueError("an empty group")
        # Not so long that nothing is left for reading back and trying again.
        left_s = max(append.deadline for append in group) - loop.time()
        timeout_s = min(MAX_REPLY_S, max(MIN_REPLY_S, left_s / 3))
        ack = decode_reply(reply_data(await connection.within(future, timeout_s), connection), _Ack)
        self.counts.groups += 1
        self.counts.appends += len(group)
        self.counts.entries += count
        return ack.seq - count + 1

    async def last_message(self, aggregate: Aggregate) -> LastMessage:
        """The last entry of an aggregate; ``Head.EMPTY`` if it has none.

        Raises:
            ApiError, JournalUnavailableError: the server refuses, or does not answer.
        """
        return await self._message({"last_by_subj": subjects.aggregate_filter(aggregate)}) or LastMessage(Head.EMPTY, "")

    async def message_after(self, aggregate: Aggregate, seq: int) -> LastMessage | None:
        """The first entry of an aggregate after a sequence, or None.

        Raises:
            ApiError, JournalUnavailableError: the server refuses, or does not answer.
        """
        return await self._message({"seq": seq + 1, "next_by_subj": subjects.aggregate_filter(aggregate)})

    async def _message(self, body: dict[str, object]) -> LastMessage | None:
        # A stream without a leader answers nothing, and one with a new leader at once: ask often rather than wait long.
        timeout_s = min(READ_BACK_S, self._connection.request_timeout_s)
        stored = await get_message(self._connection, self._stream, body, timeout_s=timeout_s)
        if stored is None:
            return None
        digest = codec.entry_hash(stored.subject, stored.headers, stored.data)
        return LastMessage(Head(stored.seq, digest), stored.headers.get(subjects.CE_ID, ""))


def _in_time(group: list[Append], now: float, reason: JournalError) -> list[Append]:
    """The members that still have time; the others fail."""
    for append in group:
        if append.deadline <= now:
            append.failed(reason)
    return [append for append in group if append.deadline > now and not append.future.done()]
