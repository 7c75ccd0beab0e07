"""Reading the journal from its end: newest entries first, without reading what comes before them."""

from collections.abc import AsyncGenerator
from typing import Final

from flowctl.journal.log import Entry, Journal, Subjects

FIRST_WINDOW: Final = 256
GROWTH: Final = 8
MAX_AT_ONCE: Final = 4_000
"""So many entries of one window are held at once, at most."""


async def newest_first(
    journal: Journal, *, after: int = 0, upto: int | None = None, subject: Subjects = None
) -> AsyncGenerator[Entry]:
    """The entries with ``after < seq <= upto`` backwards. Costs what is taken of it: windows are read from the end on.

    A window that holds nothing of ``subject`` makes the next one larger; one that holds too much is read in parts.

    Raises:
        JournalUnavailableError, JournalCorruptError: see ``Journal.read``.
    """
    last = await journal.last_sequence()
    end = last if upto is None else min(upto, last)
    window = FIRST_WINDOW
    while end > after:
        begin = max(after, end - window)
        if window > MAX_AT_ONCE:
            beyond = await journal.count(after=end, subject=subject)
            while end - begin > MAX_AT_ONCE and await journal.count(after=begin, subject=subject) - beyond > MAX_AT_ONCE:
                begin = end - max(MAX_AT_ONCE, (end - begin) // GROWTH)
        found = [entry async for entry in journal.read(after=begin, upto=end, subject=subject)]
        for entry in reversed(found):
            yield entry
        window = (end - begin) * GROWTH if len(found) * GROWTH < MAX_AT_ONCE else end - begin
        end = begin
