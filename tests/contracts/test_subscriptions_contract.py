"""What every store does with durable subscriptions and undelivered notices: one suite for JetStream and the twin in memory."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from flowctl.errors import JournalUnavailableError, NoticesFullError
from flowctl.journal import subjects
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.jetstream.streams import StreamInfo, notice_settings
from flowctl.journal.memory import MemoryStore
from flowctl.journal.notices import Notice
from flowctl.journal.store import Store
from support.journals import StoreUnderTest, opened, running, stop
from support.nats import connect, nats_server

ALL = "flowctl.journal.>"
STOPS = "flowctl.journal.pipeline.*.stop_requested"


@pytest.fixture(params=["memory", "jetstream"])
async def under_test(request: pytest.FixtureRequest) -> AsyncIterator[StoreUnderTest]:
    async with opened(request.param) as under_test:
        yield under_test


@pytest.fixture
def store(under_test: StoreUnderTest) -> Store:
    return under_test.store


async def write(store: Store, count: int) -> None:
    """So many stops, one entry each."""
    await store.journal.append([stop(str(number)) for number in range(count)], actor="test")


async def test_it_begins_with_what_is_new_or_after_a_sequence(store: Store):
    """Nobody wants to be told of last year unless they say so."""
    await write(store, 3)
    fresh = await store.subscriptions.open("fresh", ALL)
    early = await store.subscriptions.open("early", ALL, after=1)
    await write(store, 1)
    assert (await fresh.next()).seq == 4
    assert (await early.next()).seq == 2


async def test_the_next_entry_comes_when_the_one_before_is_done(store: Store):
    """In order, none left out, only those of the subject; it waits for what is not there yet."""
    subscription = await store.subscriptions.open("stops", STOPS, after=0)
    waiting = asyncio.create_task(subscription.next())
    await store.journal.append([stop("a"), running(), stop("b"), running(), stop("c")], actor="test")
    entry = await waiting
    seen = [entry.seq]
    await subscription.done()
    for _ in range(2):
        await subscription.working()
        seen.append((await subscription.next()).seq)
        await subscription.working()
        await subscription.done()
    assert seen == [1, 3, 5]
    found = await store.subscriptions.look("stops")
    assert found is not None
    assert (found.seq, found.waiting) == (5, 0)


async def test_what_is_done_stays_done_and_what_is_not_comes_again(store: Store):
    """Opened anew under its name it goes on; another subject takes effect without a step back."""
    await write(store, 5)
    first = await store.subscriptions.open("again", ALL, after=0)
    for _ in range(2):
        await first.next()
        await first.done()
    second = await store.subscriptions.open("again", STOPS)
    assert (await second.next()).seq == 3
    found = await store.subscriptions.look("again")
    assert found is not None
    assert found.seq == 2
    assert found.waiting == 3


async def test_several_subjects(store: Store):
    """Only entries on one of them come; another set takes effect without a step back."""
    both = (STOPS, "flowctl.journal.host.>")
    subscription = await store.subscriptions.open("both", both, after=0)
    await store.journal.append([stop("a"), running(), stop("b")], actor="test")
    assert (await subscription.next()).seq == 1
    await subscription.done()
    assert (await subscription.next()).seq == 3
    again = await store.subscriptions.open("both", ALL)
    assert (await again.next()).seq in {2, 3}


async def test_a_forgotten_one_is_gone(store: Store):
    """And begins anew if it is opened again."""
    await write(store, 2)
    await store.subscriptions.open("gone", ALL, after=0)
    assert await store.subscriptions.forget("gone")
    assert not await store.subscriptions.forget("gone")
    assert await store.subscriptions.look("gone") is None


async def test_two_readers_do_not_get_one_entry_at_a_time(store: Store):
    """While one has it, the other waits."""
    await write(store, 1)
    one = await store.subscriptions.open("shared", ALL, after=0)
    two = await store.subscriptions.open("shared", ALL, after=0)
    if not isinstance(store, JetStreamStore):
        return  # the twin has one reader
    await one.next()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await two.next()


async def test_notices_are_kept_until_they_are_removed(store: Store):
    """In order, each under its number; keeping one again that is kept already adds nothing."""
    notices = [Notice(route="alerts", seq=seq, error="HTTP 500", attempts=3) for seq in (4, 9)]
    numbers = [await store.notices.put(notice) for notice in notices]
    assert await store.notices.put(notices[0]) == numbers[0]
    assert [(stored.number, stored.notice) for stored in await store.notices.read()] == list(zip(numbers, notices, strict=True))
    await store.notices.remove(numbers[0])
    await store.notices.remove(numbers[0])
    assert [stored.notice for stored in await store.notices.read()] == notices[1:]


async def test_notices_without_room_say_so(under_test: StoreUnderTest):
    """None is dropped for another: the next one is refused, those that are kept stay, and letting go of one makes room."""
    store = under_test.store
    if isinstance(store, MemoryStore):
        store.notices.max_bytes = 5_000
    else:
        assert isinstance(store, JetStreamStore)
        smaller = notice_settings(1) | {"max_bytes": 5_000}
        await store.connection.api(f"STREAM.UPDATE.{subjects.NOTICE_STREAM}", smaller, StreamInfo)
    first, second = (Notice(route="alerts", seq=seq, error="x" * 3_000) for seq in (4, 9))
    number = await store.notices.put(first)
    with pytest.raises(NoticesFullError, match="no room for another one: maximum bytes exceeded"):
        await store.notices.put(second)
    assert [stored.notice for stored in await store.notices.read()] == [first]
    await store.notices.remove(number)
    await store.notices.put(second)
    assert [stored.notice for stored in await store.notices.read()] == [second]


async def test_a_restart_of_the_server_loses_nothing(tmp_path_factory: pytest.TempPathFactory):
    """Neither the place nor what was under way."""
    directory = tmp_path_factory.mktemp("nats")
    async with nats_server(directory) as server:
        store = await connect(server)
        await write(store, 3)
        subscription = await store.subscriptions.open("steady", ALL, after=0)
        await subscription.next()
        await subscription.done()
        await store.close()
    async with nats_server(directory) as server:
        store = await connect(server)
        subscription = await store.subscriptions.open("steady", ALL)
        assert (await subscription.next()).seq == 2
        await store.close()
        with pytest.raises(JournalUnavailableError):
            await subscription.done()
