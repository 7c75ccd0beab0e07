"""Heartbeats, many callers to a publish: what waits while one group is being stored becomes the next group.

A caller is answered when its beat is stored. One that has given up meanwhile is not stored: a sign of life must not arrive after
an outage that its sender may not have survived.
"""

import asyncio
import logging
from collections import deque
from typing import Final

from flowctl.errors import JournalUnavailableError
from flowctl.journal.heartbeats import Heartbeat
from flowctl.journal.store import Store

MAX_GROUP: Final = 512
MAX_WAITING: Final = 20_000

log = logging.getLogger("flowctl.registry")


class Beats:
    """The heartbeats on their way into the store. ``stored`` and ``groups`` count what got there."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[tuple[Heartbeat, asyncio.Future[None]]] = deque()
        self._arrived = asyncio.Event()
        self.stored = 0
        self.groups = 0

    @property
    def waiting(self) -> int:
        """How many beats wait for a group, those whose senders have given up not counted."""
        return sum(not stored.done() for _, stored in [*self._waiting])  # a copy: metrics are read on another thread

    async def submit(self, beat: Heartbeat) -> None:
        """Store one heartbeat; returns when it is there.

        Raises:
            JournalUnavailableError: it is not stored, or that is not known. The next heartbeat will tell.
        """
        if not self._store.connected:
            raise JournalUnavailableError("the journal does not answer, the heartbeat was not stored")
        if len(self._waiting) >= MAX_WAITING:
            raise JournalUnavailableError(f"{MAX_WAITING} heartbeats are waiting already, this one was not stored")
        stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((beat, stored))
        self._arrived.set()
        await stored

    async def run(self) -> None:
        """Store group after group until cancelled."""
        try:
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while group := self._take():
                    await self._publish(group)
        finally:
            for _, stored in self._waiting:
                stored.cancel()

    def _take(self) -> list[tuple[Heartbeat, asyncio.Future[None]]]:
        group: list[tuple[Heartbeat, asyncio.Future[None]]] = []
        while self._waiting and len(group) < MAX_GROUP:
            waiter = self._waiting.popleft()
            if not waiter[1].done():
                group.append(waiter)
        return group

    async def _publish(self, group: list[tuple[Heartbeat, asyncio.Future[None]]]) -> None:
        failure = ""
        try:
            await self._store.heartbeats.publish([beat for beat, _ in group])
        except asyncio.CancelledError:
            for _, stored in group:
                stored.cancel()
            raise
        except JournalUnavailableError as error:
            failure = str(error)
        except Exception as error:
            log.exception("a group of %d heartbeats could not be stored", len(group))
            failure = f"the heartbeat could not be stored: {type(error).__name__}"
        else:
            self.stored += len(group)
            self.groups += 1
        for _, stored in group:
            if stored.done():
                continue
            if failure:
                stored.set_exception(JournalUnavailableError(failure))
            else:
                stored.set_result(None)
