"""The past: which entry an instant means, and exactly what the fold knew after it.

Needs nothing but the journal. Instants are the journal's own: the times that its server gave the entries.
"""

import msgspec

from flowctl.errors import UserError
from flowctl.fleet import Fleet
from flowctl.instants import Ago, AtSequence, AtTime, Instant, OnDay, iso_time, parse_instant, time_of
from flowctl.journal.log import Journal
from flowctl.journal.snapshots import EVERY
from flowctl.journal.store import Store
from flowctl.snapshotting import nearest

__all__ = ["Ago", "AtSequence", "AtTime", "Instant", "Moment", "OnDay", "fleet_at", "moment", "parse_instant", "resolve"]


class Moment(msgspec.Struct, frozen=True):
    """After entry ``seq``, and when it was (Unix nanoseconds by the journal): the time asked for, else that of the entry."""

    seq: int
    time_ns: int


async def moment(store: Store, instant: Instant) -> Moment:
    """The place of an instant in the journal, and its time.

    Raises:
        UserError, JournalUnavailableError: see ``resolve``.
    """
    seq = await resolve(store, instant)
    if isinstance(instant, AtSequence):
        return Moment(seq, (await store.journal.entry(seq)).time_ns if seq else 0)
    return Moment(seq, time_of(instant, store.journal.now_ns()))


async def resolve(store: Store, instant: Instant) -> int:
    """The last entry at that instant: of several with the same time the last one. 0 is before the first.

    Raises:
        UserError: the journal has not come that far, or had not begun.
        JournalUnavailableError: the server does not answer.
    """
    journal = store.journal
    last = await journal.last_sequence()
    match instant:
        case AtSequence(seq=seq):
            if seq > last:
                raise UserError(
                    f"there is no entry {seq}: the journal is empty"
                    if not last
                    else f"there is no entry {seq} yet: the journal ends at {last}"
                )
            return seq
        case Ago(span_ns=0):
            return last
        case _:
            return await _last_at(journal, time_of(instant, journal.now_ns()), last)


async def fleet_at(store: Store, seq: int) -> Fleet:
    """What the fold knew after entry ``seq``.

    Raises:
        UserError: there is no such entry yet.
        JournalUnavailableError, JournalCorruptError: see ``Journal.read``.
    """
    fleet = await nearest(store.journal, store.snapshots, upto=seq) if seq >= EVERY else None
    fleet = fleet or Fleet()
    if seq > fleet.seq:
        async for entry in store.journal.read(after=fleet.seq, upto=seq):
            fleet.fold(entry)
    if fleet.seq != seq:
        raise UserError(f"there is no entry {seq} yet: the journal ends at {fleet.seq}")
    return fleet


async def _last_at(journal: Journal, time_ns: int, last: int) -> int:
    """The last of the first ``last`` entries whose time is not after ``time_ns``, by bisection."""
    if not last:
        raise UserError(f"nothing was known at {iso_time(time_ns)}: the journal is empty")
    now_ns = journal.now_ns()  # an estimate, never ahead of the server; the last entry may be
    if time_ns > now_ns and time_ns > (await journal.entry(last)).time_ns:
        raise UserError(f"{iso_time(time_ns)} is in the future: by the journal it is {iso_time(now_ns)}")
    begin_ns = (await journal.entry(1)).time_ns
    if begin_ns > time_ns:
        raise UserError(f"nothing was known at {iso_time(time_ns)}: the journal begins at {iso_time(begin_ns)}")
    before, after = 1, last + 1  # entry ``before`` is not later than the instant, ``after`` is, or does not exist
    while after - before > 1:
        middle = (before + after) // 2
        if (await journal.entry(middle)).time_ns <= time_ns:
            before = middle
        else:
            after = middle
    return before
