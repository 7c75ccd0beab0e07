"""Reading a part of the journal without reading the rest: filters at the server, from the end, from a time."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowctl.journal import subjects
from flowctl.journal.heartbeats import HostBeat
from flowctl.journal.jetstream.reader import Raw, parse
from flowctl.journal.log import Entry
from flowctl.journal.paging import newest_first
from flowctl.journal.store import Store
from support.journals import opened, running, starting, stop


@pytest.fixture(params=["memory", "jetstream"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    async with opened(request.param) as under_test:
        yield under_test.store


async def filled(store: Store, rounds: int = 3) -> None:
    """Rounds of ten entries: one of the pipeline, nine of its instances."""
    for number in range(rounds):
        await store.journal.append([stop(str(number)), *(starting(index, number + 1) for index in range(9))], actor="test")


STARTS_OF_0 = "flowctl.journal.component.*.*.0.starting"
STOPS = "flowctl.journal.pipeline.*.stop_requested"


async def test_several_filters_are_one_reading(store: Store):
    """What any of the wildcards covers, in order; counted without being read."""
    await filled(store)
    found = [entry.seq async for entry in store.journal.read(after=1, subject=[STARTS_OF_0, STOPS])]
    assert found == [2, 11, 12, 21, 22]
    assert await store.journal.count(after=1, subject=[STARTS_OF_0, STOPS]) == 5
    assert await store.journal.count(after=30) == 0
    assert [entry.seq async for entry in store.journal.read(upto=11, subject=STOPS)] == [1, 11]


async def test_newest_first_is_reading_backwards(store: Store):
    """The same entries as forwards, whatever the range and the filter."""
    await filled(store, 60)
    for after, upto, subject in ((0, None, None), (7, 555, None), (0, 600, STOPS), (100, 101, STARTS_OF_0), (600, None, None)):
        forwards = [entry.seq async for entry in store.journal.read(after=after, upto=upto, subject=subject)]
        backwards = [entry.seq async for entry in newest_first(store.journal, after=after, upto=upto, subject=subject)]
        assert backwards == forwards[::-1]


async def test_a_dense_part_behind_a_sparse_one_is_read_in_parts(store: Store, monkeypatch: pytest.MonkeyPatch):
    """The windows grow over what holds nothing, and shrink again: never more than so many entries at once."""
    monkeypatch.setattr("flowctl.journal.paging.MAX_AT_ONCE", 40)
    monkeypatch.setattr("flowctl.journal.paging.FIRST_WINDOW", 8)
    for _ in range(4):
        await store.journal.append([stop(str(number)) for number in range(100)], actor="test")
    for _ in range(4):
        await store.journal.append([running() for _ in range(100)], actor="test")
    held: list[int] = []
    read = store.journal.read

    async def counted(**words: Any) -> AsyncIterator[Entry]:
        held.append(0)
        async for entry in read(**words):
            held[-1] += 1
            yield entry

    monkeypatch.setattr(store.journal, "read", counted)
    assert [entry.seq async for entry in newest_first(store.journal, subject=STOPS)] == list(range(400, 0, -1))
    assert max(held) <= 45


async def test_the_newest_of_many_costs_little(monkeypatch: pytest.MonkeyPatch):
    """Ten of ten thousand: the server is asked for a few hundred at most, not for all of them."""
    async with opened("jetstream") as under_test:
        journal = under_test.store.journal
        for number in range(20):
            await journal.append([stop(str(number)) for _ in range(500)], actor="test")
        parsed: list[Raw] = []

        def counted(message: tuple[bytes, bytes, bytes, bytes]) -> Raw:
            parsed.append(parse(message))
            return parsed[-1]

        monkeypatch.setattr("flowctl.journal.jetstream.reader.parse", counted)
        found: list[int] = []
        async for entry in newest_first(journal, subject=STOPS):
            found.append(entry.seq)
            if len(found) == 10:
                break
        assert found == list(range(10_000, 9_990, -1))
        assert len(parsed) <= 300


async def test_beats_are_read_from_a_time_on(store: Store):
    """And of those that are meant only; what comes later is not waited for."""
    for count in range(4):
        await store.heartbeats.publish([HostBeat("a", "x", count), HostBeat("b", "x", count)])
    everything = [beat async for beat in store.heartbeats.read()]
    assert len(everything) == 8
    later = [beat.seq async for beat in store.heartbeats.read(since_ns=everything[4].time_ns)]
    assert later[0] <= 5 <= later[1] or later[0] == 5
    assert later[-1] == 8
    mine = [beat async for beat in store.heartbeats.read(after=2, subject=f"{subjects.HEARTBEAT_ROOT}.host.b")]
    assert [(beat.seq, beat.beat) for beat in mine] == [
        (4, HostBeat("b", "x", 1)),
        (6, HostBeat("b", "x", 2)),
        (8, HostBeat("b", "x", 3)),
    ]
    assert [beat async for beat in store.heartbeats.read(after=8)] == []
