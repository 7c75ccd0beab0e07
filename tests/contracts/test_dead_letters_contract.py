"""What every store does with dead letters: one suite for JetStream and for its twin in memory."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from flowctl.errors import DeadLettersFullError, JournalUnavailableError, LetterTooLargeError, NotFoundError
from flowctl.journal import subjects
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.jetstream.streams import StreamInfo, dead_letter_settings
from flowctl.journal.letters import DeadLetter, Envelope
from flowctl.journal.memory import MemoryStore
from flowctl.journal.store import Store
from support.journals import StoreUnderTest, instance, opened
from support.nats import nats_store


@pytest.fixture(params=["memory", "jetstream"])
async def under_test(request: pytest.FixtureRequest) -> AsyncIterator[StoreUnderTest]:
    async with opened(request.param) as under_test:
        yield under_test


@pytest.fixture
def store(under_test: StoreUnderTest) -> Store:
    return under_test.store


def letter(position: int, *, component: str = "parse", index: int = 0, pipeline: str = "orders", run: int = 1) -> DeadLetter:
    return DeadLetter(
        instance=instance(index, component, pipeline),
        incarnation=2,
        origin="lines.0",
        position=position,
        path="/split.0",
        run=run,
        type="line",
        time_ns=1_700_000_000_000_000_000 + position,
        metadata={"file": "ü.txt", "two": "a\nb"},
        error="ValueError: ü\nnext line",
        attempts=3,
    )


async def test_a_letter_comes_back_whole(store: Store):
    """Everything that is known of the event, and its payload byte for byte, line feeds and all."""
    payload = bytes(range(256)) * 3
    number = await store.dead_letters.put(letter(7), payload)
    stored = await store.dead_letters.get(number)
    assert (stored.number, stored.letter, stored.payload) == (number, letter(7), payload)
    assert stored.letter.event_id == "lines.0:7/split.0"
    assert stored.time_ns > 0
    assert [each async for each in store.dead_letters.read("orders")] == [stored]


async def test_the_largest_event_is_kept(store: Store):
    """What fits into a message of the data plane fits into a letter."""
    payload = b"\x00\xff" * (2 * 1024 * 1024)
    number = await store.dead_letters.put(letter(0), payload)
    assert (await store.dead_letters.get(number)).payload == payload


async def test_letters_are_read_by_pipeline_and_component(store: Store):
    """Each filter gives its own, oldest first, also from the outside alone and from a number on."""
    letters = store.dead_letters
    put = [letter(0), letter(1, index=1), letter(2, component="store"), letter(3, pipeline="other"), letter(4)]
    numbers = [await letters.put(each, b"x") for each in put]
    assert numbers == sorted(set(numbers))
    assert [each.letter.position async for each in letters.read("orders")] == [0, 1, 2, 4]
    assert [each.letter.position async for each in letters.read("orders", "parse")] == [0, 1, 4]
    assert [each.letter.position async for each in letters.read("orders", "parse", after=numbers[1])] == [4]
    assert [each async for each in letters.read("absent")] == []
    assert await letters.envelopes("orders", "parse") == [
        Envelope(numbers[at], instance(index, "parse"), (await letters.get(numbers[at])).time_ns)
        for at, index in ((0, 0), (1, 1), (4, 0))
    ]
    assert await letters.envelopes("absent") == []


async def test_a_letter_is_stored_once(store: Store):
    """A doubtful put is repeated; so is an event that was replayed to another incarnation. Another run is another event."""
    letters = store.dead_letters
    first = await letters.put(letter(1), b"a")
    other = await letters.put(letter(1, component="store"), b"a")
    assert await letters.put(letter(1), b"a") == first
    assert await letters.put(letter(1, index=1), b"a") == first
    assert len({first, other, await letters.put(letter(1, run=2), b"a")}) == 3
    assert len(await letters.envelopes("orders")) == 3


async def test_there_is_none_of_that_number(store: Store):
    """Neither before nor after what is there."""
    number = await store.dead_letters.put(letter(1), b"a")
    for absent in (0, number + 1):
        with pytest.raises(NotFoundError, match=f"no dead letter {absent}"):
            await store.dead_letters.get(absent)


async def test_many_at_once(store: Store):
    """Concurrent writers are all served."""
    numbers = await asyncio.gather(*(store.dead_letters.put(letter(n), b"%d" % n) for n in range(200)))
    assert len(set(numbers)) == 200
    assert {each.letter.position async for each in store.dead_letters.read("orders")} == set(range(200))


async def test_a_full_store_says_so(under_test: StoreUnderTest):
    """No letter is dropped for another: the next one is refused, and those that were stored stay."""
    store = under_test.store
    if isinstance(store, MemoryStore):
        store.dead_letters.max_bytes = 5_000
    else:
        assert isinstance(store, JetStreamStore)
        smaller = dead_letter_settings(1) | {"max_bytes": 5_000}
        await store.connection.api(f"STREAM.UPDATE.{subjects.DEAD_LETTER_STREAM}", smaller, StreamInfo)
    await store.dead_letters.put(letter(0), b"x" * 3_000)
    with pytest.raises(DeadLettersFullError, match="no room for another one: maximum bytes exceeded"):
        await store.dead_letters.put(letter(1), b"x" * 3_000)
    assert [each.letter.position async for each in store.dead_letters.read("orders")] == [0]


async def test_what_the_server_cannot_take_is_named():
    """A letter above the server's max_payload is refused before it is sent, with the setting to change."""
    async with nats_store() as store:
        with pytest.raises(LetterTooLargeError, match=r"lines.0:1/split.0 is too large") as caught:
            await store.dead_letters.put(letter(1), b"x" * 9_000_000)
        assert "max_payload" in (caught.value.hint or "")


async def test_foreign_messages_are_passed_over():
    """What is no letter disturbs no reader."""
    async with opened("jetstream") as under_test:
        subject = subjects.dead_letter_subject(instance(0, "parse"))
        await under_test.put(subject, {}, b"{")
        await under_test.put(subject, {}, b"\xff\xfe\nabc")
        number = await under_test.store.dead_letters.put(letter(1), b"a")
        assert [each.number async for each in under_test.store.dead_letters.read("orders")] == [number]
        with pytest.raises(NotFoundError, match="is no dead letter"):
            await under_test.store.dead_letters.get(1)


async def test_an_absent_store(store: Store):
    """Says so."""
    if isinstance(store, MemoryStore):
        store.set_available(available=False)
        with pytest.raises(JournalUnavailableError):
            await store.dead_letters.put(letter(1), b"a")
    else:
        await store.close()
        with pytest.raises(JournalUnavailableError):
            await store.dead_letters.put(letter(1), b"a")
