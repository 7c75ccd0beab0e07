"""Where a recording comes from: an exported file, or a range of the journal and what is left of its heartbeats."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from flowctl import past
from flowctl.errors import UserError
from flowctl.fleet import Fleet
from flowctl.instants import AtSequence, parse_instant
from flowctl.journal import beat_codec, codec
from flowctl.journal.bundle import BundleReader
from flowctl.journal.heartbeats import StoredBeat
from flowctl.journal.log import Entry
from flowctl.journal.store import Store
from flowctl_cli.replaying.timeline import merged

T = TypeVar("T")

SEPARATOR = ".."


class Recording(msgspec.Struct):
    """The state before, and then everything in order. ``notes`` say what is not there."""

    fleet: Fleet
    events: AsyncIterator[Entry | StoredBeat]
    notes: list[str] = msgspec.field(default_factory=list[str])


def is_file(text: str) -> bool:
    """Whether the words mean a file, rather than a range of the journal."""
    if text.endswith(".zip") or "/" in text:
        return True
    try:
        return Path(text).exists()
    except OSError:  # too long for a name, or nobody may look there
        return False


@contextlib.asynccontextmanager
async def of_file(path: Path) -> AsyncGenerator[Recording]:
    """What an exported file holds.

    Raises:
        UserError: it cannot be opened.
        DamagedFileError: it is damaged, or no exported journal.
    """
    try:
        opened = path.open("rb")
    except OSError as error:
        raise UserError(f"it cannot be read: {error.strerror}", place=str(path)) from error
    with opened as file, BundleReader(file, name=str(path)) as reader:
        manifest = reader.manifest
        notes: list[str] = []
        fleet = Fleet()
        if manifest.first_seq > 1:
            notes.append(
                f"the file begins with entry {manifest.first_seq}: what was said before is not known, and decisions on that are"
                " left out"
            )
            fleet.seq = manifest.first_seq - 1
        entries = (codec.decode(each.seq, each.time_ns, each.subject, each.headers, each.data) for each in reader.records())
        heard = (
            StoredBeat(each.seq, each.time_ns, beat)
            for each in reader.heartbeats()
            if (beat := beat_codec.decode(each.subject, each.data)) is not None
        )
        yield Recording(fleet, merged(_each(entries), _each(heard)), notes)


async def of_journal(store: Store, text: str) -> Recording:
    """A range of the journal: ``FROM..TO``, ``FROM..``, ``FROM`` or nothing for all of it; both are sequences or times.

    A time in which nothing was written is a recording of nothing.

    Raises:
        UserError: it is no range, or the journal does not go so far.
    """
    begin, _, end = text.partition(SEPARATOR)
    last = await _sequence(store, end.strip()) if end.strip() else await store.journal.last_sequence()
    before, since = 0, False
    if begin.strip():
        instant = parse_instant(begin.strip())
        before = await past.resolve(store, instant)
        since = not isinstance(instant, AtSequence)
        if not since:
            before -= 1
    if since and before == last:
        return Recording(await past.fleet_at(store, before), _each([]), ["nothing was recorded in that time"])
    if not 0 <= before < last:
        raise UserError(
            f"there is nothing to replay: {text.strip() or 'the journal'} has no entries"
            if last <= before
            else f"{begin.strip()} lies before the journal's first entry"
        )
    fleet = await past.fleet_at(store, before)
    first_ns = (await store.journal.entry(before + 1)).time_ns
    last_entry = await store.journal.entry(last)
    whole = last == await store.journal.last_sequence()
    heard = store.heartbeats.read(since_ns=first_ns)
    until_ns = None if whole else last_entry.time_ns
    return Recording(fleet, merged(store.journal.read(after=before, upto=last), _until(heard, until_ns)))


async def _sequence(store: Store, text: str) -> int:
    return await past.resolve(store, parse_instant(text))


async def _until(heard: AsyncIterator[StoredBeat], time_ns: int | None) -> AsyncIterator[StoredBeat]:
    async for stored in heard:
        if time_ns is not None and stored.time_ns > time_ns:
            return
        yield stored


async def _each(items: Iterable[T]) -> AsyncIterator[T]:
    for item in items:
        yield item
