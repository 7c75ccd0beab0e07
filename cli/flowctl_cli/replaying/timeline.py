"""Entries and heartbeats in one order: that of the server's times. Pure."""

from collections.abc import AsyncIterator
from typing import TypeVar

from flowctl.journal.heartbeats import StoredBeat
from flowctl.journal.log import Entry

T = TypeVar("T")


async def merged(entries: AsyncIterator[Entry], beats: AsyncIterator[StoredBeat]) -> AsyncIterator[Entry | StoredBeat]:
    """Both, each in its own order, by time; of two with the same time the entry first."""
    beat = await _next(beats)
    async for entry in entries:
        while beat is not None and beat.time_ns < entry.time_ns:
            yield beat
            beat = await _next(beats)
        yield entry
    while beat is not None:
        yield beat
        beat = await _next(beats)


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)
