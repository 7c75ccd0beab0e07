"""Notices that could not be delivered: which entry was to be told to whom, and why nobody took it. Kept until it is redriven."""

from typing import Protocol

import msgspec


class Notice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An undelivered notice. ``seq`` is the journal's entry; ``subject`` and ``type`` are its own."""

    route: str
    seq: int
    subject: str = ""
    type: str = ""
    error: str = ""
    attempts: int = 1


class StoredNotice(msgspec.Struct, frozen=True):
    """A notice with its ``number`` (unique, growing) and the server's time of it, Unix nanoseconds."""

    number: int
    time_ns: int
    notice: Notice


class Notices(Protocol):
    """The undelivered notices of all routes."""

    async def put(self, notice: Notice) -> int:
        """Keep one; returns its number. When this returns, it is on disk.

        Raises:
            NoticesFullError: there is no room for it.
            JournalUnavailableError: it may or may not have been kept; keeping it again is safe.
        """
        ...

    async def read(self) -> list[StoredNotice]:
        """All of them, oldest first.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...

    async def remove(self, number: int) -> None:
        """Let go of one that was delivered after all; one that is gone already is no error.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...
