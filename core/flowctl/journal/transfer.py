"""A journal out of a store into a file, and out of a file into an empty store.

``flowctl.journal.bundle`` says what the file is. An import gives the same entries at the same sequences with the same hashes and
times, so every fold of it has the same digest. It may be interrupted anywhere: what is there then is refused by everybody
(``JetStreamStore.connect``) until the same import is run to its end.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import IO, Final

import msgspec

from flowctl import __version__
from flowctl.errors import JournalCorruptError, RefusedError, UserError
from flowctl.journal import codec, seals, subjects
from flowctl.journal.audit import Audit
from flowctl.journal.bundle import BundleReader, BundleWriter, Manifest
from flowctl.journal.log import Journal, Record
from flowctl.journal.store import Store

GROUP: Final = 500

Progress = Callable[[str, int, int], None]
"""Told what is being done, how many entries are done and how many there are."""


class Imported(msgspec.Struct, frozen=True):
    """What an import did: ``stored`` of ``entries`` were not there yet; ``digest`` is the journal's."""

    entries: int
    stored: int
    digest: str


def silent(_what: str, _done: int, _total: int) -> None:
    """The progress that nobody wants to see."""


async def export_journal(
    store: Store, file: IO[bytes], *, after: int = 0, upto: int, heartbeats: bool = False, progress: Progress = silent
) -> Manifest:
    """Write the entries with ``after < seq <= upto``, and the heartbeats of their time that are still there.

    Raises:
        JournalCorruptError: an entry is missing.
        UserError: one is so large that nobody could read it back.
        JournalUnavailableError: the server does not answer.
    """
    journal, digest = store.journal, seals.NOTHING
    if after:
        async for record in journal.records(upto=after):
            digest = seals.advance(digest, _hash(record), record.time_ns)
            _tell(progress, "reading what comes before", record.seq, after)
    with BundleWriter(file, before=digest, made_by=f"flowctl {__version__}") as writer:
        first: Record | None = None
        seq, last_ns = after, 0
        async for record in journal.records(after=after, upto=upto):
            if record.seq != seq + 1:
                break
            writer.add(record)
            first = first or record
            seq, last_ns = record.seq, record.time_ns
            _tell(progress, "exporting", seq - after, upto - after)
        if seq != upto:
            raise JournalCorruptError(f"the journal has no entry {seq + 1}", hint="`flowctl verify` says what is wrong with it")
        if heartbeats and first is not None:
            whole = upto == await journal.last_sequence()
            async for stored in store.heartbeats.read(since_ns=first.time_ns):
                if whole or stored.time_ns <= last_ns:
                    data = msgspec.json.encode(stored.beat, order="deterministic")
                    writer.add_heartbeat(Record(stored.seq, stored.time_ns, subjects.beat_subject(stored.beat), {}, data))
        return writer.close()


async def import_journal(
    journal: Journal, reader: BundleReader, *, unverified: bool = False, progress: Progress = silent
) -> Imported:
    """Store what the file holds in an empty journal, or in one that an interrupted import of the same file left.

    The file is read to its end before the first entry is stored. ``unverified`` imports entries that do not fit together.

    Raises:
        DamagedFileError: the file is not what was written.
        UserError: it does not begin with the journal's first entry, holds none, or its entries do not fit together.
        RefusedError: the journal holds something else.
        JournalUnavailableError: interrupted; the same call goes on from there.
        JournalCorruptError: what is stored now is not what is in the file.
    """
    manifest = reader.manifest
    if manifest.entries == 0:
        raise UserError("the file holds no entries")
    if manifest.first_seq != 1:
        raise UserError(
            f"the file holds entries {manifest.first_seq} to {manifest.last_seq}: only a journal from entry 1 can be imported",
            hint="export without --from",
        )
    differences = check_file(reader, progress=progress).differences
    if differences and not unverified:
        raise UserError(
            f"the entries in the file do not fit together: {differences[0].detail}",
            hint="`flowctl verify FILE` says more; --unverified imports it all the same",
        )
    present = await _present(journal, reader.records(), progress, manifest.entries)
    group: list[Record] = []
    for record in reader.records(after=present):
        group.append(record)
        if len(group) == GROUP or record.seq == manifest.last_seq:
            await journal.restore(group, upto=manifest.last_seq)
            _tell(progress, "importing", record.seq, manifest.entries)
            group = []
    digest = await _digest(journal.records(upto=manifest.last_seq), progress, manifest.entries)
    if digest != manifest.digest:
        raise JournalCorruptError(f"what was imported has the digest {digest}, and the file {manifest.digest}")
    return Imported(manifest.entries, manifest.entries - present, digest)


def check_file(reader: BundleReader, *, audit: Audit | None = None, progress: Progress = silent) -> Audit:
    """Read the whole file and audit its entries.

    Raises:
        DamagedFileError: it is not what was written.
    """
    manifest = reader.manifest
    audit = audit or Audit(after=max(0, manifest.first_seq - 1), digest=manifest.before)
    for record in reader.records():
        audit.add(record)
        _tell(progress, "checking", audit.entries, manifest.entries)
    for _ in reader.heartbeats():
        pass
    reader.snapshot()
    audit.finish()
    return audit


async def _present(journal: Journal, wanted: Iterator[Record], progress: Progress, total: int) -> int:
    """How many of the wanted entries the journal holds, if it holds nothing else."""
    count = 0
    async for record in journal.records():
        other = next(wanted, None)
        if other is None or (record.seq, record.time_ns, _hash(record)) != (other.seq, other.time_ns, _hash(other)):
            last = await journal.last_sequence()
            what = f"it holds {last} entries, and its entry {record.seq} is not the file's"
            raise RefusedError(f"the journal is not empty: {what}", hint="import into a state directory or server of its own")
        count += 1
        _tell(progress, "comparing", count, total)
    return count


async def _digest(records: AsyncIterator[Record], progress: Progress, total: int) -> str:
    digest = seals.NOTHING
    async for record in records:
        digest = seals.advance(digest, _hash(record), record.time_ns)
        _tell(progress, "reading back", record.seq, total)
    return digest


def _hash(record: Record) -> str:
    return codec.entry_hash(record.subject, record.headers, record.data)


def _tell(progress: Progress, what: str, done: int, total: int) -> None:
    if done % 1_000 == 0 or done == total:
        progress(what, done, total)
