"""Spans of the journal as people name them: which sequences and times lie between two instants."""

from flowctl.errors import UserError
from flowctl.instants import Ago, AtSequence, AtTime, Instant, time_of
from flowctl.journal.store import Store
from flowctl.past import resolve


async def bounds(store: Store, since: Instant | None, until: Instant | None) -> tuple[int, int]:
    """The sequences between which (the first excluded, the second included) lies what is neither before nor after these.

    Raises:
        UserError: the first is later than the second, or in the future.
    """
    journal = store.journal
    last = await journal.last_sequence()
    after = 0 if since is None else await _last_before(store, since, last)
    upto = last if until is None else await _last_upto(store, until, last)
    if since is not None and until is not None and after > upto:
        raise UserError("--since is later than --until")
    return after, upto


async def _last_before(store: Store, instant: Instant, last: int) -> int:
    match instant:
        case AtSequence(seq=seq):
            if seq > last:
                raise UserError(f"there is no entry {seq} yet: the journal ends at {last}")
            return max(0, seq - 1)
        case Ago(span_ns=0):
            return last
        case _:
            time_ns = time_of(instant, store.journal.now_ns())
            if not last or (await store.journal.entry(1)).time_ns >= time_ns:
                return 0
            return await resolve(store, AtTime(time_ns - 1))


async def _last_upto(store: Store, instant: Instant, last: int) -> int:
    match instant:
        case AtSequence(seq=seq):
            return min(seq, last)
        case _:
            time_ns = time_of(instant, store.journal.now_ns()) if not isinstance(instant, Ago) or instant.span_ns else None
            if time_ns is None or time_ns >= store.journal.now_ns():
                return last
            if not last or (await store.journal.entry(1)).time_ns > time_ns:
                return 0
            return await resolve(store, AtTime(time_ns))


async def time_at(store: Store, instant: Instant, now_ns: int) -> int:
    """The instant in Unix nanoseconds."""
    if isinstance(instant, AtSequence):
        return (await store.journal.entry(instant.seq)).time_ns if instant.seq else 0
    return time_of(instant, now_ns)
