"""Export and import: the same journal again, entry for entry; damage, other journals and interruptions are told, not stored."""

import io
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from flowctl import past
from flowctl.errors import DamagedFileError, JournalCorruptError, JournalUnavailableError, RefusedError, UserError
from flowctl.fleet import Fleet
from flowctl.instants import parse_instant
from flowctl.journal.audit import Audit
from flowctl.journal.bundle import BundleReader, BundleWriter
from flowctl.journal.heartbeats import HostBeat
from flowctl.journal.log import Record
from flowctl.journal.memory import MemoryStore
from flowctl.journal.transfer import check_file, export_journal, import_journal
from support.journals import StoreUnderTest, collected, opened, running, starting, stop
from support.nats import connect, nats_server
from support.records import journal


async def fold(under_test: StoreUnderTest) -> Fleet:
    """What everything in the store's journal says."""
    fleet = Fleet()
    async for entry in under_test.store.journal.read():
        fleet.fold(entry)
    return fleet


async def fill(under_test: StoreUnderTest) -> None:
    """Some entries by flowctl, some that are unknown or poison, and heartbeats."""
    for n in range(30):
        await under_test.store.journal.append([stop(f"ü{n}"), running(), starting(n)], actor="test", correlation="c")
    await under_test.put("flowctl.journal.pipeline.orders.stopped_for_good", {"ce-id": "x", "ce-type": "flowctl.x.y.v9"}, b"{}")
    await under_test.put("flowctl.journal.pipeline.orders.submitted", {}, b"\xff\x00 nonsense")
    await under_test.put("flowctl.journal.what", {"x-odd": "ä"}, b"")
    await under_test.store.journal.append([stop("after")], actor="test")
    await under_test.store.heartbeats.publish([HostBeat("h1", "a", 1), HostBeat("h1", "a", 2)])


async def exported(under_test: StoreUnderTest, **options: int | bool) -> io.BytesIO:
    """Its whole journal as a file."""
    file = io.BytesIO()
    upto = await under_test.store.journal.last_sequence()
    await export_journal(under_test.store, file, **{"upto": upto, **options})  # type: ignore[arg-type]
    file.seek(0)
    return file


@pytest.mark.parametrize(("source", "target"), [("jetstream", "jetstream"), ("memory", "jetstream"), ("jetstream", "memory")])
async def test_an_imported_journal_is_the_exported_one(source: str, target: str):
    """The same sequences, hashes, times and state, whatever lies in it; and exported again it is the same file."""
    async with opened(source) as there, opened(target) as here:  # type: ignore[arg-type]
        await fill(there)
        file = await exported(there, heartbeats=True)
        with BundleReader(file) as reader:
            assert reader.manifest.heartbeats == 2
            done = await import_journal(here.store.journal, reader)
        assert (done.entries, done.stored) == (94, 94)
        for old, new in zip(await collected(there.store.journal.read()), await collected(here.store.journal.read()), strict=True):
            assert old == new
        assert (await fold(here)).digest() == (await fold(there)).digest()
        with BundleReader(await exported(here)) as again, BundleReader(file) as first:
            assert list(again.records()) == list(first.records())
            assert (await import_journal(here.store.journal, again)).stored == 0
        await here.store.journal.append([stop("goes on")], actor="test")
        audit = Audit()
        async for record in here.store.journal.records():
            audit.add(record)
        audit.finish()
        assert (audit.seq, audit.differences) == (95, [])


async def test_times_survive():
    """An instant means the same entry in the imported journal, although its server saw all of them just now."""
    async with opened("jetstream") as here:
        records = journal(400)
        with BundleReader(bundle_of(records)) as reader:
            await import_journal(here.store.journal, reader)
        assert [entry.time_ns for entry in await collected(here.store.journal.read())] == [each.time_ns for each in records]
        # The records are a quarter of a second apart, beginning at 2023-11-14T22:13:20.25Z.
        assert await past.resolve(here.store, parse_instant("2023-11-14T22:14:00Z")) == 160
        assert await past.resolve(here.store, parse_instant("18")) == 18
        assert (await past.fleet_at(here.store, 160)).time_ns == records[159].time_ns


async def test_a_part_is_exported_with_what_it_follows():
    """Its digests continue those of the whole journal; it is verified by itself, and not imported."""
    async with opened("jetstream") as there, opened("memory") as here:
        await fill(there)
        with BundleReader(await exported(there, after=40, upto=70)) as reader:
            assert [record.seq for record in reader.records()] == list(range(41, 71))
            assert check_file(reader).differences == []
            with pytest.raises(UserError, match="entries 41 to 70: only a journal from entry 1"):
                await import_journal(here.store.journal, reader)


def bundle_of(records: list[Record]) -> io.BytesIO:
    """A file of these."""
    file = io.BytesIO()
    writer = BundleWriter(file, chunk_lines=100)
    for record in records:
        writer.add(record)
    writer.close()
    file.seek(0)
    return file


async def test_what_is_wrong_with_a_file_is_found_before_anything_is_stored():
    """Damage, an edit that was made with the file's checksums put right, and a journal that is not empty."""
    records = journal(300)
    damaged = bytearray(bundle_of(records).getvalue())
    damaged[len(damaged) // 2] ^= 1
    with BundleReader(bundle_of([*records[:99], edited(records[99]), *records[100:]])) as reader:
        async with opened("memory") as here:
            with pytest.raises(UserError, match="do not fit together"):
                await import_journal(here.store.journal, reader)
            assert await here.store.journal.last_sequence() == 0
            with BundleReader(io.BytesIO(damaged)) as broken, pytest.raises(DamagedFileError, match=r"journal/\d+.jsonl:\d+"):
                await import_journal(here.store.journal, broken)
            assert await here.store.journal.last_sequence() == 0
            await import_journal(here.store.journal, reader, unverified=True)
        async with opened("memory") as other:
            await other.store.journal.append([stop("mine")], actor="test")
            with BundleReader(bundle_of(records)) as whole, pytest.raises(RefusedError, match="not empty: it holds 1 entries"):
                await import_journal(other.store.journal, whole)


async def test_an_empty_file_is_no_journal():
    """There is nothing to import, and that is what is said."""
    async with opened("memory") as here:
        with BundleReader(bundle_of([])) as reader, pytest.raises(UserError, match="holds no entries"):
            await import_journal(here.store.journal, reader)


async def test_what_was_stored_is_read_back():
    """A server that stored something else than it was given is found out."""
    records = journal(300)
    async with opened("memory") as here:
        restore = here.store.journal.restore

        async def otherwise(given: Sequence[Record], *, upto: int) -> None:
            await restore([edited(each) if each.seq == 120 else each for each in given], upto=upto)

        here.store.journal.restore = otherwise  # type: ignore[method-assign]
        with BundleReader(bundle_of(records)) as reader, pytest.raises(JournalCorruptError, match="what was imported"):
            await import_journal(here.store.journal, reader)


async def test_a_journal_with_a_hole_is_not_exported_as_if_it_were_whole():
    """The entry is named."""
    store = MemoryStore()
    await store.journal.restore(journal(300), upto=300)
    whole = store.journal.records

    async def holed(**range_: int | None) -> AsyncIterator[Record]:
        async for record in whole(**range_):  # type: ignore[arg-type]
            if record.seq != 120:
                yield record

    store.journal.records = holed  # type: ignore[method-assign,assignment]
    with pytest.raises(JournalCorruptError, match="has no entry 120"):
        await export_journal(store, io.BytesIO(), upto=300)


def edited(record: Record) -> Record:
    """The entry with other data."""
    return Record(record.seq, record.time_ns, record.subject, record.headers, record.data.replace(b"e", b"3", 1))


async def test_an_interrupted_import_is_refused_by_all_and_goes_on(tmp_path: Path):
    """Half a journal is never taken for one: whoever connects is told; the same import again completes it."""
    records = journal(1_300)
    async with nats_server(tmp_path) as server:
        store = await connect(server)
        await store.journal.restore(records[:500], upto=1_300)  # and then the importer died
        await store.close()
        with pytest.raises(JournalCorruptError, match="half of an imported one: it ends at 500 of 1300"):
            await connect(server)
        store = await connect(server, importing=True)
        with BundleReader(bundle_of(records)) as reader:
            done = await import_journal(store.journal, reader)
        assert (done.entries, done.stored) == (1_300, 800)
        await store.close()
        store = await connect(server)
        assert await store.journal.last_sequence() == 1_300
        await store.close()


async def test_an_export_does_not_hide_that_the_server_went_away():
    """It fails; a file that was not closed is none."""
    store, file = MemoryStore(), io.BytesIO()
    await store.journal.restore(journal(3_000, seal_every=0), upto=3_000)

    def leave(_what: str, _done: int, _total: int) -> None:
        store.set_available(available=False)

    with pytest.raises(JournalUnavailableError):
        await export_journal(store, file, after=1_000, upto=3_000, progress=leave)
    with pytest.raises(DamagedFileError):
        BundleReader(file)
