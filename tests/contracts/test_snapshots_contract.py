"""What every store of snapshots does; and that a snapshot is only ever a shorter way to the same state."""

import logging
from collections.abc import AsyncIterator
from typing import cast

import msgspec
import pytest

from flowctl import image, past
from flowctl.fleet import Fleet
from flowctl.journal import snapshots
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.memory import MemorySnapshots
from flowctl.journal.snapshots import Snapshot
from flowctl.journal.store import Store
from flowctl.journal.subjects import SNAPSHOT_STREAM
from flowctl.projection import Projection
from flowctl.snapshotting import nearest, schema, taken
from support.journals import StoreUnderTest, opened, running, starting, stop

SCHEMA = "5" * 64


@pytest.fixture(params=["memory", "jetstream"])
async def opened_store(request: pytest.FixtureRequest) -> AsyncIterator[StoreUnderTest]:
    async with opened(request.param) as store:
        yield store


@pytest.fixture
def store(opened_store: StoreUnderTest) -> Store:
    return opened_store.store


@pytest.fixture(autouse=True)
def _dense(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction] - autouse
    """Snapshots at every tenth entry."""
    for module in ("flowctl.past", "flowctl.projection"):
        monkeypatch.setattr(f"{module}.EVERY", 10)


def _snapshot(seq: int, size: int = 100, schema_: str = SCHEMA) -> Snapshot:
    state = bytes(range(256)) * (size // 256 + 1)
    return Snapshot.of(state[:size], seq=seq, entry_hash="a" * 64, schema=schema_, time_ns=seq)


def test_data_that_is_another_snapshots_is_refused():
    """Whole and well compressed, of the right size even: the checksum in the head says that it is not the one."""
    one, other = _snapshot(10), Snapshot.of(bytes(100), seq=10, entry_hash="a" * 64, schema=SCHEMA)
    assert one.state() != other.state()
    with pytest.raises(ValueError, match="checksum"):
        msgspec.structs.replace(one, data=other.data).state()


async def test_a_snapshot_is_returned_as_it_was_stored(store: Store):
    """Of any size, also larger than a message may be; by sequence; of another schema none."""
    assert await store.snapshots.heads(SCHEMA) == []
    incompressible = Snapshot.of(b"", seq=30, entry_hash="b" * 64, schema=SCHEMA)
    large = msgspec.structs.replace(incompressible, data=bytes(3_000_000))
    large = msgspec.structs.replace(large, head=msgspec.structs.replace(large.head, size_bytes=3_000_000))
    stored = [_snapshot(20), _snapshot(10, 0), large]
    for each in [*stored, *stored, _snapshot(10, schema_="6" * 64)]:
        await store.snapshots.put(each)
    heads = await store.snapshots.heads(SCHEMA)
    assert [head.seq for head in heads] == [10, 20, 30]
    for each in stored:
        assert each.head in heads
        assert await store.snapshots.get(each.head) == each
    assert await store.snapshots.heads("7" * 64) == []
    assert await store.snapshots.get(_snapshot(40).head) is None


async def test_two_writers_never_mix(store: Store):
    """Different bytes of one entry stay apart."""
    one, two = _snapshot(10, 100), _snapshot(10, 200)
    for each in (one, two, one):
        await store.snapshots.put(each)
    assert await store.snapshots.get(one.head) == one
    assert await store.snapshots.get(two.head) == two


async def _history(store: Store, rounds: int = 5) -> dict[int, str]:
    """Entries with snapshots at every tenth; the digest after each entry."""
    digests: dict[int, str] = {}
    fleet = Fleet()
    for number in range(rounds):
        await store.journal.append([stop(str(number)), *(starting(i, number + 1) for i in range(12)), running()], actor="test")
    async for entry in store.journal.read():
        fleet.fold(entry)
        digests[entry.seq] = fleet.digest()
        if entry.seq % 10 == 0:
            await store.snapshots.put(taken(fleet, entry.hash, b"".join(image.pieces(image.frozen(fleet)))))
    return digests


async def _follow(store: Store) -> Fleet:
    """The fleet of a projection that has just started, and after one more entry."""
    projection = Projection(store.journal, snapshots=store.snapshots)
    task = await projection.start()
    await projection.decide(lambda _: [stop("more")], actor="test")
    task.cancel()
    return projection.fleet


async def test_every_state_is_reached_with_and_without_snapshots(store: Store, monkeypatch: pytest.MonkeyPatch):
    """From the nearest one below, also exactly at one; what is read of the journal is the rest only."""
    digests = await _history(store)
    read = store.journal.read
    begun: list[int] = []

    def watched(*, after: int = 0, upto: int | None = None, **words: object):
        begun.append(after)
        return read(after=after, upto=upto, **words)  # type: ignore[arg-type]

    monkeypatch.setattr(store.journal, "read", watched)
    for seq, digest in digests.items():
        assert (await past.fleet_at(store, seq)).digest() == digest
    assert set(begun) == {seq - seq % 10 for seq in digests if seq % 10}


@pytest.mark.parametrize("damage", ["checksum", "state", "schema", "entry", "another", "future", "gone", "all gone"])
async def test_a_wrong_snapshot_is_passed_over(damage: str, caplog: pytest.LogCaptureFixture):
    """Of each kind, in memory where everything can be altered: the state is the same, the log says why it took longer."""
    async with opened("memory") as opened_store:
        store = opened_store.store
        digests = await _history(store)
        stored = cast("MemorySnapshots", store.snapshots).stored
        newest = max(stored, key=lambda head: head.seq)
        whole = stored.pop(newest)
        replace = msgspec.structs.replace
        match damage:
            case "checksum":
                stored[newest] = Snapshot(newest, whole.data[:-1] + b"x")
            case "state":
                wrong = Snapshot.of(b"\xff" * 10, seq=newest.seq, entry_hash=newest.entry_hash, schema=newest.schema)
                stored[wrong.head] = wrong
            case "schema":
                stored[replace(newest, schema=SCHEMA)] = whole
            case "entry":
                stored[replace(newest, entry_hash="f" * 64)] = whole
            case "another":
                other = stored[min(stored, key=lambda head: head.seq)]
                wrong = Snapshot.of(other.state(), seq=newest.seq, entry_hash=newest.entry_hash, schema=newest.schema)
                stored[wrong.head] = wrong
            case "future":
                stored[replace(newest, seq=1_000)] = whole
            case "all gone":
                stored.clear()
            case _:
                pass
        with caplog.at_level(logging.WARNING):
            assert (await past.fleet_at(store, max(digests))).digest() == digests[max(digests)]
            expected = await past.fleet_at(store, max(digests))
            fleet = await _follow(store)
        assert fleet.seq == expected.seq + 1
        said = [record.getMessage() for record in caplog.records if "passed over" in record.getMessage()]
        assert bool(said) == (damage in ("checksum", "state", "entry", "another"))


async def test_snapshots_of_a_journal_that_was_made_anew_are_not_believed():
    """The hash of the entry tells one journal from another; on a real server, where a deleted stream is no error either."""
    async with opened("jetstream") as opened_store:
        store = cast("JetStreamStore", opened_store.store)
        digests = await _history(store)
        [*_, head] = await store.snapshots.heads(schema())
        foreign = msgspec.structs.replace(head, seq=head.seq - 5)
        await store.snapshots.put(msgspec.structs.replace(await _whole(store, head), head=foreign))
        fleet = await nearest(store.journal, store.snapshots, upto=foreign.seq)
        assert fleet is not None
        assert fleet.seq == head.seq - 10
        await store.nc.jsm().delete_stream(SNAPSHOT_STREAM)
        assert await store.snapshots.heads(schema()) == []
        assert (await past.fleet_at(store, 40)).digest() == digests[40]


async def _whole(store: Store, head: snapshots.SnapshotHead) -> Snapshot:
    found = await store.snapshots.get(head)
    assert found is not None
    return found
