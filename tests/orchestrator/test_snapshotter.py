"""Snapshots as the orchestrator takes them: as it goes, those of the past, and never one that holds up or changes the fold."""

import asyncio
import logging

import pytest

from flowctl import image
from flowctl.clock import SystemClock
from flowctl.errors import JournalUnavailableError
from flowctl.fleet import Fleet
from flowctl.journal.memory import MemoryStore
from flowctl.journal.snapshots import Snapshot
from flowctl.journal.store import Store
from flowctl.snapshotting import nearest, schema
from support.journals import running, starting, stop
from support.orchestrators import orchestrator
from support.polling import eventually


@pytest.fixture(autouse=True)
def _dense(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction] - autouse
    """Snapshots at every tenth entry."""
    for module in ("flowctl.past", "flowctl.projection", "flowctl_orchestrator.snapshotter"):
        monkeypatch.setattr(f"{module}.EVERY", 10)


async def _write(store: Store, rounds: int) -> None:
    for number in range(rounds):
        await store.journal.append([stop(str(number)), *(starting(i, number + 1) for i in range(5)), running()], actor="test")


def _taken(store: MemoryStore) -> list[int]:
    return sorted(head.seq for head in store.snapshots.stored if head.schema == schema())


async def test_snapshots_of_the_past_and_of_what_comes():
    """All multiples that there are, by two orchestrators at once, each once; and each is the state of just that entry."""
    store = MemoryStore()
    await _write(store, 5)
    async with orchestrator(store), orchestrator(store, name="two"):
        await eventually(lambda: _taken(store) == [10, 20, 30], "the snapshots of the past")
        await _write(store, 2)
        await eventually(lambda: _taken(store) == [10, 20, 30, 40], "a snapshot of what came")
    fleet = Fleet()
    async for entry in store.journal.read():
        fleet.fold(entry)
        if entry.seq % 10 == 0:
            found = await nearest(store.journal, store.snapshots, upto=entry.seq)
            assert found is not None
            assert found.digest() == fleet.digest()


async def test_a_snapshot_that_cannot_be_stored_stops_nobody(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """It is said in the log, and the next one is taken."""
    store = MemoryStore()
    put = store.snapshots.put
    failures = [JournalUnavailableError("no room"), RuntimeError("a mistake of ours")]

    async def fails(snapshot: Snapshot) -> None:
        if failures:
            raise failures.pop(0)
        await put(snapshot)

    monkeypatch.setattr(store.snapshots, "put", fails)
    async with orchestrator(store):
        with caplog.at_level(logging.WARNING):
            for left in (1, 0):
                await _write(store, 2)
                await eventually(lambda left=left: len(failures) == left, "an attempt")
            await _write(store, 2)
            await eventually(lambda: 40 in _taken(store), "the next snapshot")
    assert "there is no snapshot of entry 10: no room" in caplog.text
    assert "there is no snapshot of entry 20" in caplog.text


async def test_a_frozen_fleet_does_not_change_with_the_fold():
    """However the fold goes on: the bytes are those of the moment."""
    store = MemoryStore()
    await _write(store, 3)
    fleet = Fleet()
    frozen, before = image.frozen(fleet), fleet.digest()
    async for entry in store.journal.read():
        fleet.fold(entry)
        assert image.restored(b"".join(image.pieces(frozen))).digest() == before
        frozen, before = image.frozen(fleet), fleet.digest()


async def test_the_loop_goes_on_while_a_large_snapshot_is_made():
    """Ten thousand instances: nobody waits long for a piece."""
    fleet = Fleet()
    store = MemoryStore()
    for first in range(0, 10_000, 500):
        await store.journal.append([starting(index) for index in range(first, first + 500)], actor="test")
    async for entry in store.journal.read():
        fleet.fold(entry)
    begun = SystemClock().monotonic_ns()
    frozen = image.frozen(fleet)
    worst = SystemClock().monotonic_ns() - begun
    pieces: list[bytes] = []
    making = image.pieces(frozen)
    while True:
        begun = SystemClock().monotonic_ns()
        piece = next(making, None)
        worst = max(worst, SystemClock().monotonic_ns() - begun)
        if piece is None:
            break
        pieces.append(piece)
        await asyncio.sleep(0)
    assert image.restored(b"".join(pieces)).digest() == fleet.digest()
    assert worst < 500_000_000
