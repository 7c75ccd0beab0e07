"""Time travel on every twin: a time means the last entry that had happened, and the fleet is what the fold knew after it."""

from collections.abc import AsyncIterator

import pytest

from flowctl.errors import JournalCorruptError, NotFoundError, UserError
from flowctl.fleet import Fleet
from flowctl.journal.log import Entry
from flowctl.journal.store import Store
from flowctl.past import Ago, AtSequence, AtTime, fleet_at, parse_instant, resolve
from support.journals import StoreUnderTest, collected, opened, running, starting, stop


@pytest.fixture(params=["memory", "jetstream"])
async def opened_store(request: pytest.FixtureRequest) -> AsyncIterator[StoreUnderTest]:
    async with opened(request.param) as store:
        yield store


@pytest.fixture
def store(opened_store: StoreUnderTest) -> Store:
    return opened_store.store


async def _some_history(store: Store) -> list[Entry]:
    """Entries alone and in batches, whose times are partly equal."""
    for number in range(4):
        await store.journal.append([stop(str(number))], actor="test")
        await store.journal.append([starting(index, number + 1) for index in range(10)] + [running()], actor="test")
    return await collected(store.journal.read())


async def test_every_entry_can_be_fetched_alone(store: Store):
    """As a reading shows it; what is not there yet is said so."""
    entries = await _some_history(store)
    assert [await store.journal.entry(entry.seq) for entry in entries] == entries
    for seq in (0, len(entries) + 1):
        with pytest.raises(NotFoundError):
            await store.journal.entry(seq)


async def test_a_time_means_the_last_entry_that_is_not_later(store: Store):
    """To the nanosecond, also between entries and where several have the same time."""
    entries = await _some_history(store)
    for entry in entries:
        for time_ns in (entry.time_ns - 1, entry.time_ns, entry.time_ns + 1):
            expected = sum(each.time_ns <= time_ns for each in entries)
            if expected:
                assert await resolve(store, AtTime(time_ns)) == expected
    assert await resolve(store, parse_instant("now")) == len(entries)


async def test_a_sequence_means_itself(store: Store):
    """0 is before everything."""
    entries = await _some_history(store)
    for seq in (0, 1, len(entries)):
        assert await resolve(store, AtSequence(seq)) == seq


async def test_what_lies_outside_of_the_journal_is_refused_in_one_sentence(store: Store):
    """The future, in entries and in time, and the time before the first entry."""
    with pytest.raises(UserError, match="the journal is empty"):
        await resolve(store, AtSequence(1))
    with pytest.raises(UserError, match="the journal is empty"):
        await resolve(store, Ago(1))
    assert await resolve(store, parse_instant("now")) == 0
    entries = await _some_history(store)
    with pytest.raises(UserError, match=f"no entry {len(entries) + 1} yet: the journal ends at {len(entries)}"):
        await resolve(store, AtSequence(len(entries) + 1))
    with pytest.raises(UserError, match="in the future"):
        await resolve(store, AtTime(store.journal.now_ns() + 60_000_000_000))
    with pytest.raises(UserError, match="the journal begins at"):
        await resolve(store, AtTime(entries[0].time_ns - 1))


async def test_the_fleet_is_what_the_fold_knew(opened_store: StoreUnderTest):
    """After every single entry, poison included."""
    store = opened_store.store
    await _some_history(store)
    await opened_store.put("flowctl.journal.pipeline.orders.status_changed", {}, b"{")
    await store.journal.append([stop("last")], actor="test")
    fleet = Fleet()
    assert (await fleet_at(store, 0)).digest() == fleet.digest()
    async for entry in store.journal.read():
        fleet.fold(entry)
        assert (await fleet_at(store, entry.seq)).digest() == fleet.digest()
    assert fleet.poison_total == 1
    with pytest.raises(UserError, match="no entry"):
        await fleet_at(store, fleet.seq + 1)


async def test_an_entry_that_was_seen_and_is_gone_is_not_the_future():
    """Losing entries is an alarm, never a shorter history."""
    async with opened("jetstream") as opened_store:
        store = opened_store.store
        await store.journal.append([stop("a")], actor="test")
        store.journal.seen_sequence = 5  # type: ignore[attr-defined] - as if four more had been seen
        with pytest.raises(JournalCorruptError, match="entry 3"):
            await store.journal.entry(3)
