"""Following the journal for as long as somebody wants to: printing events, or running a hook for each."""

import asyncio
from typing import Final

import msgspec

from flowctl.errors import FlowctlError, JournalUnavailableError
from flowctl.journal import subjects
from flowctl.journal.log import Entry, Journal
from flowctl.journal.store import Store
from flowctl.journal.subscriptions import Subscription, held
from flowctl_cli.entries import WIDTHS, Selection, entry_row, entry_view
from flowctl_cli.hook import Hook, Pool
from flowctl_cli.terminal import RowPrinter, note, say

RETRY_S: Final = 0.5


class Following:
    """What is done with each selected event. ``fail_fast`` ends it when a hook has failed for good."""

    def __init__(self, selection: Selection, hook: Hook | None, *, json: bool, fail_fast: bool) -> None:
        self._selection = selection
        self._hook = hook
        self._json = json
        self._fail_fast = fail_fast
        self._rows = RowPrinter(WIDTHS)
        self._absent = False
        self._failure: FlowctlError | None = None
        self._ended = asyncio.Event()

    async def live(self, journal: Journal, *, after: int | None, parallel: int) -> None:
        """From ``after`` or from now on, without a gap, for ever.

        Raises:
            FlowctlError: a hook has failed, and that is to be the end.
        """
        pool = Pool(self._hook, parallel, self._failed) if self._hook is not None else None
        work = asyncio.create_task(self._follow(journal, after, pool))
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait([work, ended], return_when=asyncio.FIRST_COMPLETED)
            if self._failure is not None:
                raise self._failure
            work.result()
        finally:
            work.cancel()
            ended.cancel()
            await asyncio.gather(work, ended, return_exceptions=True)
            if pool is not None:
                await pool.end()

    async def durably(self, store: Store, name: str, *, after: int | None) -> None:
        """From where the subscription of that name is, one event at a time; what was not done comes again.

        Raises:
            FlowctlError: a hook has failed, and that is to be the end; the event is not done.
        """
        wanted = self._selection.subjects
        subscription: Subscription | None = None
        while True:
            try:
                if subscription is None:
                    subscription = await store.subscriptions.open(name, wanted or subjects.JOURNAL_ALL, after=after)
                entry = await subscription.next()
                self._absent = False
                if self._selection.has(entry):
                    async with held(subscription):
                        await self._treat(entry)
                    if self._failure is not None:
                        raise self._failure
                await subscription.done()
            except JournalUnavailableError as error:
                subscription = None
                await self._wait(error)

    async def _follow(self, journal: Journal, after: int | None, pool: Pool | None) -> None:
        seen = await journal.last_sequence() if after is None else after
        while True:
            try:
                async for entry in journal.follow(after=seen, subject=self._selection.subjects):
                    self._absent = False
                    if self._selection.has(entry):
                        await (self._treat(entry) if pool is None else pool.submit(entry))
                    seen = entry.seq
            except JournalUnavailableError as error:
                await self._wait(error)

    async def _treat(self, entry: Entry) -> None:
        if self._hook is not None:
            if problem := await self._hook.run(entry):
                self._failed(entry, problem)
        elif self._json:
            say(msgspec.json.encode(entry_view(entry)).decode())
        else:
            self._rows.print(entry_row(entry))

    def _failed(self, entry: Entry, problem: str) -> None:
        view = entry_view(entry)
        sentence = f"the hook of entry {entry.seq} ({view.type}) {problem}"
        if not self._fail_fast:
            note(sentence)
        elif self._failure is None:
            self._failure = FlowctlError(sentence)
            self._ended.set()

    async def _wait(self, error: JournalUnavailableError) -> None:
        if not self._absent:
            note(f"waiting for the journal: {error.message}")
        self._absent = True
        await asyncio.sleep(RETRY_S)
