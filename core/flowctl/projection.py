"""Keeping a fleet up to date with the journal, and the loop of every decision: fold, decide, append, fold what came of it.

The only place where services meet the journal's conflicts and absences, so that their own code is decisions.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from flowctl.clock import Clock, SystemClock
from flowctl.decision import Decision, Rejected
from flowctl.errors import (
    ConflictError,
    DeadlineError,
    JournalCorruptError,
    JournalUnavailableError,
    NotFoundError,
    RefusedError,
)
from flowctl.fleet import Fleet
from flowctl.journal.log import Entry, Journal
from flowctl.journal.snapshots import EVERY, Snapshots
from flowctl.snapshotting import nearest

MAX_CONFLICTS: Final = 32
RETRY_S: Final = 0.2
CATCH_UP_S: Final = 5.0
STALL_S: Final = 30.0

log = logging.getLogger("flowctl.projection")


class Projection:
    """A ``Fleet`` that follows the journal. Share one among the services of a process.

    ``unavailable_since_ns`` is the journal's time at which it stopped to answer, None while it does; ``corrupt`` is set for good
    when it lost entries; ``skipped_total`` counts the listeners' and the fold's own errors, which stop nobody. ``begin_before``
    is an entry that must be read and not be taken from a snapshot, None if there is no such.
    """

    def __init__(self, journal: Journal, *, snapshots: Snapshots | None = None, clock: Clock | None = None) -> None:
        self.journal = journal
        self._snapshots = snapshots
        self.fleet = Fleet()
        self.unavailable_since_ns: int | None = None
        self.corrupt: JournalCorruptError | None = None
        self.skipped_total = 0
        self.begin_before: int | None = None
        self.id = uuid.uuid4().hex
        self._clock: Clock = clock or SystemClock()
        self._listeners: list[Callable[[Entry], None]] = []
        self._news = asyncio.Event()
        self._awaited = False

    def listen(self, listener: Callable[[Entry], None]) -> None:
        """Call ``listener`` with every entry, just after it was folded. What it raises is logged, and stops nobody."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Follow the journal until cancelled; ride out its absence.

        Raises:
            JournalCorruptError: the journal lost entries. Going on would be lying.
        """
        try:
            while True:
                try:
                    async for entry in self.journal.follow(after=self.fleet.seq):
                        self._answered()
                        self._fold(entry)
                except JournalUnavailableError as error:
                    self._absent(error)
                await self._clock.sleep(RETRY_S)
                with contextlib.suppress(JournalUnavailableError):
                    await self.journal.last_sequence()
                    self._answered()
        except JournalCorruptError as error:
            self.corrupt = error
            self._announce()
            raise

    async def start(self) -> asyncio.Task[None]:
        """Start following in a task and return it once everything that is in the journal now is folded, however long it is.

        Begins at the newest snapshot, if there are any; the listeners are not told of what is older.

        Raises:
            JournalUnavailableError: the journal does not answer.
            JournalCorruptError: it lost entries.
            DeadlineError: it answers, and its entries do not come.
        """
        upto = await self.journal.last_sequence()
        if self._snapshots is not None and upto - self.fleet.seq >= EVERY:
            newest = upto if self.begin_before is None else min(upto, self.begin_before - 1)
            self.fleet = await nearest(self.journal, self._snapshots, upto=newest, after=self.fleet.seq) or self.fleet
        task = asyncio.create_task(self.run(), name="projection")
        try:
            seen = -1
            while self.fleet.seq < upto:
                if self.fleet.seq == seen and self.unavailable_since_ns is None:
                    raise DeadlineError(f"nothing of the journal came after entry {seen} for {STALL_S:g} s")
                seen = self.fleet.seq
                with contextlib.suppress(DeadlineError):
                    await self.caught_up(upto, timeout_s=STALL_S)
        except BaseException:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise
        return task

    async def caught_up(self, seq: int, *, timeout_s: float = CATCH_UP_S) -> None:
        """Wait until entry ``seq`` is folded.

        Raises:
            DeadlineError: it took longer than ``timeout_s``.
            JournalCorruptError: it will never be.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.fleet.seq < seq:
                    if self.corrupt is not None:
                        raise self.corrupt
                    await self.changed()
        except TimeoutError:
            raise DeadlineError(f"the journal's entry {seq} was not read within {timeout_s:g} s") from None

    async def sync(self, *, timeout_s: float = CATCH_UP_S) -> None:
        """Fold everything that was in the journal when this was called.

        Raises:
            JournalUnavailableError: the journal does not answer.
            DeadlineError, JournalCorruptError: see ``caught_up``.
        """
        await self.caught_up(await self.journal.last_sequence(), timeout_s=timeout_s)

    async def changed(self) -> None:
        """Wait for the next entry, or for the journal to come or go."""
        self._awaited = True
        await self._news.wait()

    async def decide(
        self, decide: Callable[[Fleet], Decision], *, actor: str, correlation: str = "", sync: bool = False
    ) -> list[Entry]:
        """Decide on the present state, append, and return the entries once they are folded; decide again after a conflict.

        An empty decision appends nothing. The decision stands on the heads of the drafts' aggregates: when another writer moves
        one of them meanwhile, nothing is written. A decision that may be a refusal or empty is as old as the fold, so a
        caller that promises somebody an answer gives ``sync``: everything in the journal is folded first.

        Raises:
            RefusedError: the decision was ``Rejected``.
            ConflictError: the aggregate kept changing.
            JournalUnavailableError: see ``Journal.append``; deciding again is safe.
            JournalCorruptError: the journal lost entries; nothing is decided any more.
        """
        if sync:
            await self.sync()
        for _ in range(MAX_CONFLICTS):
            if self.corrupt is not None:
                raise self.corrupt
            decision = decide(self.fleet)
            if isinstance(decision, Rejected):
                raise refusal(decision)
            if not decision:
                return []
            expect = {draft.aggregate: self.fleet.head(draft.aggregate) for draft in decision}
            try:
                entries = await self.journal.append(decision, expect=expect, actor=actor, correlation=correlation)
            except ConflictError:
                await self.sync()
                continue
            try:
                await self.caught_up(entries[-1].seq)
            except DeadlineError as error:  # it is written all the same, and the next decision conflicts until it is folded
                log.warning("%s", error)
            return entries
        raise ConflictError(f"gave up after {MAX_CONFLICTS} conflicting writes")

    def _absent(self, error: JournalUnavailableError) -> None:
        if self.unavailable_since_ns is None:
            self.unavailable_since_ns = self.journal.now_ns()
            log.warning("journal unavailable: %s", error)
            self._announce()

    def _answered(self) -> None:
        if self.unavailable_since_ns is not None:
            self.unavailable_since_ns = None
            log.info("the journal is back")
            self._announce()

    def _fold(self, entry: Entry) -> None:
        failure = self.fleet.fold(entry)
        if failure is not None:
            self.skipped_total += 1
            log.error("entry %d (%s) could not be folded; it is put aside", entry.seq, entry.subject, exc_info=failure)
        for listener in self._listeners:
            try:
                listener(entry)
            except Exception:
                self.skipped_total += 1
                log.exception("a listener failed on entry %d (%s)", entry.seq, entry.subject)
        self._announce()

    def _announce(self) -> None:
        if self._awaited:
            self._awaited = False
            self._news.set()
            self._news = asyncio.Event()


def refusal(rejected: Rejected) -> RefusedError:
    """The error that tells a caller of a rejection."""
    kind = NotFoundError if rejected.refusal == "not_found" else RefusedError
    error = kind(rejected.message, hint=rejected.hint)
    error.refusal = rejected.refusal
    return error


T = TypeVar("T")


async def retrying(call: Callable[[], Awaitable[T]], *, clock: Clock, what: str) -> T:
    """Call until the journal is there; every other error is the caller's. Logs the first absence."""
    absent = False
    while True:
        try:
            return await call()
        except JournalUnavailableError as error:
            if not absent:
                log.warning("%s waits for the journal: %s", what, error)
            absent = True
            await clock.sleep(RETRY_S)
