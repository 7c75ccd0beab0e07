"""Keeping a fleet up to date with the journal, and the loop of every decision: fold, decide, append, fold what came of it.

The only place where services meet the journal's conflicts and absences, so that their own code is decisions.
"""

import asyncio
import logging
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

MAX_CONFLICTS: Final = 32
RETRY_S: Final = 0.2
CATCH_UP_S: Final = 5.0

log = logging.getLogger("flowctl.projection")


class Projection:
    """A ``Fleet`` that follows the journal. Share one among the services of a process."""

    def __init__(self, journal: Journal, *, clock: Clock | None = None) -> None:
        self.journal = journal
        self.fleet = Fleet()
        self.unavailable_since_ns: int | None = None
        self.corrupt: JournalCorruptError | None = None
        self._clock: Clock = clock or SystemClock()
        self._listeners: list[Callable[[Entry], None]] = []
        self._news = asyncio.Event()

    def listen(self, listener: Callable[[Entry], None]) -> None:
        """Call ``listener`` with every entry, just after it was folded."""
        self._listeners.append(listener)

    async def run(self) -> None:
        """Follow the journal until cancelled; ride out its absence.

        Raises:
            JournalCorruptError: the journal lost entries. Going on would be lying.
        """
        while True:
            try:
                async for entry in self.journal.follow(after=self.fleet.seq):
                    self.unavailable_since_ns = None
                    self._fold(entry)
            except JournalUnavailableError as error:
                if self.unavailable_since_ns is None:
                    self.unavailable_since_ns = self.journal.now_ns()
                    log.warning("journal unavailable: %s", error)
                await self._clock.sleep(RETRY_S)
                await self._probe()
            except JournalCorruptError as error:
                self.corrupt = error
                raise

    async def start(self) -> asyncio.Task[None]:
        """Start following in a task and return it once everything that is in the journal now is folded.

        Raises:
            JournalUnavailableError: the journal does not answer.
        """
        upto = await self.journal.last_sequence()
        task = asyncio.create_task(self.run(), name="projection")
        await self.caught_up(upto, timeout_s=120.0)
        return task

    async def caught_up(self, seq: int, *, timeout_s: float = CATCH_UP_S) -> None:
        """Wait until entry ``seq`` is folded.

        Raises:
            DeadlineError: it took longer than ``timeout_s``.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while self.fleet.seq < seq:
                    if self.corrupt is not None:
                        raise self.corrupt
                    await self._news.wait()
        except TimeoutError:
            raise DeadlineError(f"the journal's entry {seq} was not read within {timeout_s:g} s") from None

    async def changed(self) -> None:
        """Wait for the next entry, or for the journal to come or go."""
        await self._news.wait()

    async def decide(self, decide: Callable[[Fleet], Decision], *, actor: str, correlation: str = "") -> list[Entry]:
        """Decide on the present state, append, and return the entries once they are folded; decide again after a conflict.

        An empty decision appends nothing. Raises:
            RefusedError: the decision was ``Rejected``.
            ConflictError: the aggregate kept changing.
            JournalUnavailableError: see ``Journal.append``.
        """
        for _ in range(MAX_CONFLICTS):
            decision = decide(self.fleet)
            if isinstance(decision, Rejected):
                raise refusal(decision)
            if not decision:
                return []
            expect = {draft.aggregate: self.fleet.head(draft.aggregate) for draft in decision}
            try:
                entries = await self.journal.append(decision, expect=expect, actor=actor, correlation=correlation)
            except ConflictError:
                await self._catch_up()
                continue
            await self.caught_up(entries[-1].seq)
            return entries
        raise ConflictError(f"gave up after {MAX_CONFLICTS} conflicting writes")

    async def _catch_up(self) -> None:
        await self.caught_up(await self.journal.last_sequence())

    async def _probe(self) -> None:
        try:
            await self.journal.last_sequence()
        except JournalUnavailableError:
            return
        self.unavailable_since_ns = None
        self._announce()

    def _fold(self, entry: Entry) -> None:
        self.fleet.apply(entry)
        for listener in self._listeners:
            listener(entry)
        self._announce()

    def _announce(self) -> None:
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
