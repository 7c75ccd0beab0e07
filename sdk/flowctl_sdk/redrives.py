"""Dead letters of one instance: put aside at the registry, and those that are to be processed once more as an extra input."""

import logging
from typing import Final

from flowctl.control.v1.control_pb2 import DeadLetter, Redrive, RedriveOutcome
from flowctl_sdk.columns import Columns, Names
from flowctl_sdk.control import Registry
from flowctl_sdk.event import Event
from flowctl_sdk.inbox import Arrival, Inbox
from flowctl_sdk.signals import Bell, Signal

MAX_OPEN: Final = 256
MAX_OPEN_BYTES: Final = 8 * 1024 * 1024
"""How much of redriven letters is under way at once; a single one that is larger goes alone."""
MAX_ERROR: Final = 4_096

_log = logging.getLogger("flowctl.component")


class Letter:
    """A redriven letter under way. Held open by everything that came of it; ``error`` is set if the component failed again."""

    def __init__(self, owner: "Redrives", number: int, event_id: str, size: int) -> None:
        self._owner = owner
        self.number = number
        self.event_id = event_id
        self.size = size
        self.error: str | None = None
        self.holds = 1

    def hold(self) -> None:
        """One more piece of output has to be acknowledged."""
        self.holds += 1

    def release(self) -> None:
        """A piece of output is acknowledged."""
        self.holds -= 1
        if self.holds == 0:
            self._owner.finished(self)


class Redrives:
    """Keeps what the component gives up on, and feeds its inbox with what somebody sends again.

    ``settled`` is rung when something is done that an ending may wait for. ``total`` counts the letters taken in.
    """

    def __init__(self, registry: Registry, inbox: Inbox, settled: Bell) -> None:
        self._registry = registry
        self._inbox = inbox
        self._settled = settled
        self._open: dict[int, Letter] = {}
        self._by_event: dict[str, list[Letter]] = {}
        self._size = 0
        self._room = Bell()
        self._due: list[Letter] = []
        self._news = Signal()
        self._caught_up = False
        self._closing = False
        self.total = 0

    @property
    def idle(self) -> bool:
        """Whether all letters that were to be sent again are taken in, done, and reported."""
        return self._caught_up and self.drained

    @property
    def drained(self) -> bool:
        """Whether all letters that were taken in are done and reported."""
        return not self._open

    def close_intake(self) -> None:
        """Take no more letters in."""
        self._closing = True

    async def keep(self, event: Event, error: str, attempts: int) -> None:
        """Put an event aside; returns when that is on disk, however long the registry is away.

        A redriven letter that failed again stays the letter that it is, and its failure is reported.

        Raises:
            EventFailedError: the event can never be kept.
            SupersededError: if a newer incarnation is registered.
        """
        error = error if len(error) <= MAX_ERROR else error[: MAX_ERROR - 1] + "…"
        again = self._by_event.get(event.id)
        if again:
            for letter in again:
                letter.error = error
            return
        await self._registry.put_dead_letter(
            DeadLetter(
                origin=event.origin,
                position=max(0, event.position),
                path=event.path,
                payload=event.payload,
                time_ns=event.time_ns,
                type=event.type,
                metadata=event.metadata or {},
                error=error,
                attempts=attempts,
            ),
            event.id,
        )

    async def run(self) -> None:
        """Take letters in until cancelled."""
        async for message in self._registry.redrives():
            if message.caught_up:
                self._caught_up = True
                self._settled.ring()
            elif message.number not in self._open:
                size = len(message.letter.payload)
                await self._room.until(
                    lambda size=size: len(self._open) < MAX_OPEN and (not self._open or self._size + size <= MAX_OPEN_BYTES)
                )
                if self._closing:
                    return
                self._take(message, size)

    def _take(self, message: Redrive, size: int) -> None:
        columns = columns_of(message.letter)
        letter = Letter(self, message.number, columns.events()[0].id, size)
        _log.info("dead letter %d (event %s) is processed once more", letter.number, letter.event_id)
        self._caught_up = False
        self._open[letter.number] = letter
        self._by_event.setdefault(letter.event_id, []).append(letter)
        self._size += size
        self.total += 1
        self._inbox.put(Arrival(columns, letter))

    def finished(self, letter: Letter) -> None:
        """Everything that came of a letter is done, or the component has failed on it again."""
        same = self._by_event[letter.event_id]
        same.remove(letter)
        if not same:
            del self._by_event[letter.event_id]
        self._due.append(letter)
        self._news.set()

    async def report(self) -> None:
        """Tell the registry what came of the letters, until cancelled."""
        while True:
            await self._news.until(lambda: bool(self._due))
            letters, self._due = self._due[:MAX_OPEN], self._due[MAX_OPEN:]
            await self._registry.settle(
                [RedriveOutcome(number=each.number, delivered=each.error is None, error=each.error or "") for each in letters]
            )
            for letter in letters:
                del self._open[letter.number]
                self._size -= letter.size
            self._room.ring()
            self._settled.ring()


def columns_of(letter: DeadLetter) -> Columns:
    """The event of a letter, under the identity that it always had."""
    metadata = dict(letter.metadata)
    return Columns(
        [letter.payload],
        [letter.time_ns],
        [letter.position],
        Names([letter.origin]),
        Names([letter.path]),
        Names([letter.type]),
        {0: metadata} if metadata else {},
    )
