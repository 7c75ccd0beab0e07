"""Durable subscriptions and undelivered notices in memory: the twins of the JetStream ones, for tests."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from flowctl.errors import NoticesFullError
from flowctl.journal.log import Entry, Journal
from flowctl.journal.notices import Notice, StoredNotice
from flowctl.journal.subscriptions import Subscribed


class _Store(Protocol):
    """What they need of a ``MemoryStore``."""

    @property
    def journal(self) -> Journal: ...

    def check(self) -> None: ...

    def notify(self) -> None: ...

    async def changed(self) -> None: ...


class _Place:
    """One subscription, as the server remembers it."""

    def __init__(self, subject: str | Sequence[str], done: int) -> None:
        self.subject = subject
        self.done = done


class MemorySubscriptions:
    """See ``Subscriptions``."""

    def __init__(self, store: _Store) -> None:
        self._store = store
        self._places: dict[str, _Place] = {}

    async def open(self, name: str, subject: str | Sequence[str], *, after: int | None = None) -> "MemorySubscription":
        """See ``Subscriptions``."""
        self._store.check()
        if name not in self._places:
            self._places[name] = _Place(subject, await self._store.journal.last_sequence() if after is None else after)
        self._places[name].subject = subject
        return MemorySubscription(self._store, self._places[name])

    async def look(self, name: str) -> Subscribed | None:
        """See ``Subscriptions``."""
        self._store.check()
        place = self._places.get(name)
        if place is None:
            return None
        waiting = [entry async for entry in self._store.journal.read(after=place.done, subject=place.subject)]
        return Subscribed(name, place.done, len(waiting))

    async def forget(self, name: str) -> bool:
        """See ``Subscriptions``."""
        self._store.check()
        return self._places.pop(name, None) is not None


class MemorySubscription:
    """See ``Subscription``."""

    def __init__(self, store: _Store, place: _Place) -> None:
        self._store = store
        self._place = place
        self._given = 0

    async def next(self) -> Entry:
        """See ``Subscription``."""
        while True:
            self._store.check()
            async for entry in self._store.journal.read(after=self._place.done, subject=self._place.subject):
                self._given = entry.seq
                return entry
            await self._store.changed()

    async def working(self) -> None:
        """See ``Subscription``."""
        self._store.check()

    async def done(self) -> None:
        """See ``Subscription``."""
        self._store.check()
        self._place.done = max(self._place.done, self._given)
        await asyncio.sleep(0)


class MemoryNotices:
    """See ``Notices``. ``max_bytes`` is how much there is room for."""

    def __init__(self, store: _Store, now_ns: Callable[[], int]) -> None:
        self._store = store
        self._now_ns = now_ns
        self._kept: dict[int, StoredNotice] = {}
        self._last = 0
        self.max_bytes = 64 * 1024 * 1024

    async def put(self, notice: Notice) -> int:
        """See ``Notices``."""
        self._store.check()
        for stored in self._kept.values():
            if stored.notice == notice:
                return stored.number
        if sum(_size(stored.notice) for stored in self._kept.values()) + _size(notice) > self.max_bytes:
            raise NoticesFullError("the undelivered notices have no room for another one: maximum bytes exceeded")
        self._last += 1
        self._kept[self._last] = StoredNotice(self._last, self._now_ns(), notice)
        return self._last

    async def read(self) -> list[StoredNotice]:
        """See ``Notices``."""
        self._store.check()
        return list(self._kept.values())

    async def remove(self, number: int) -> None:
        """See ``Notices``."""
        self._store.check()
        self._kept.pop(number, None)


def _size(notice: Notice) -> int:
    return len(msgspec.json.encode(notice))
