"""Durable subscriptions to the journal: the server remembers what was dealt with, whoever is killed."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Final, Protocol

import msgspec

from flowctl.errors import JournalUnavailableError
from flowctl.journal.log import Entry

ACK_WAIT_S: Final = 3.0
"""After so long without a word an entry is given to another reader, or to the same one after its restart."""


def durable(route: str) -> str:
    """The name of the subscription of a notifier's route."""
    return f"flowctl-notify-{route}"


class Subscribed(msgspec.Struct, frozen=True):
    """How far a durable subscription is: everything up to ``seq`` is dealt with, ``waiting`` entries of its subject are not."""

    name: str
    seq: int
    waiting: int


class Subscription(Protocol):
    """One durable reading of the journal, strictly in order: the next entry comes when the one before is done."""

    async def next(self) -> Entry:
        """The entry that is not done yet; waits for one. The same one again if it was not done.

        Raises:
            JournalUnavailableError: the server does not answer; ask again.
        """
        ...

    async def working(self) -> None:
        """Say that the entry is still being dealt with: see ``ACK_WAIT_S``.

        Raises:
            JournalUnavailableError: nobody could be told.
        """
        ...

    async def done(self) -> None:
        """The entry is dealt with. When this returns, the server has remembered that.

        Raises:
            JournalUnavailableError: it may or may not have; the entry may come again.
        """
        ...


class Subscriptions(Protocol):
    """The durable subscriptions of a store, by name."""

    async def open(self, name: str, subject: str | Sequence[str], *, after: int | None = None) -> Subscription:
        """The subscription of that name, made if there is none; then it begins after ``after``, None: with what is new.

        One that exists stays where it is and takes on the new ``subject`` (a wildcard of the journal's subjects, or several).

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...

    async def look(self, name: str) -> Subscribed | None:
        """How far the subscription is, None if there is none of that name.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...

    async def forget(self, name: str) -> bool:
        """Delete it; whether there was one.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...


@contextlib.asynccontextmanager
async def held(subscription: Subscription) -> AsyncGenerator[None]:
    """Keep the entry for as long as this lasts, so that nobody else gets it."""

    async def tell() -> None:
        while True:
            await asyncio.sleep(ACK_WAIT_S / 3)
            with contextlib.suppress(JournalUnavailableError):
                await subscription.working()

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
