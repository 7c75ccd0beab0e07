"""Group commit, and what happens when the server says no or says nothing."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest

from flowctl.errors import ConflictError, JournalUnavailableError
from flowctl.journal.embedded import EmbeddedNats
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.log import Entry, Head
from support.journals import ORDERS, check_chains, collected, head_of, running, starting, stop
from support.nats import connect, nats_server
from support.polling import eventually
from support.unreliable import lossy_proxy


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedNats]:
    async with nats_server() as server:
        yield server


@pytest.fixture
async def store(server: EmbeddedNats) -> AsyncIterator[JetStreamStore]:
    store = await connect(server)
    yield store
    await store.close()


async def test_concurrent_appends_share_batches(store: JetStreamStore):
    """A thousand callers at once cost a few fsyncs, not a thousand; each gets the sequence of its own entry."""
    drafts = [starting(n) for n in range(1000)]
    answers = await asyncio.gather(
        *(store.journal.append([draft], actor="test", expect={draft.aggregate: Head.EMPTY}) for draft in drafts)
    )
    counts = store.journal.commit_counts
    assert (counts.appends, counts.entries, counts.read_backs) == (1000, 1000, 0)
    assert counts.groups <= 5
    stored = {entry.id: entry for entry in await collected(store.journal.read())}
    for draft, [entry] in zip(drafts, answers, strict=True):
        assert (stored[entry.id].seq, stored[entry.id].event) == (entry.seq, draft.event)


async def test_a_conflict_in_a_group_hits_its_owner_alone(store: JetStreamStore):
    """Stale members of a batch get their conflict; their neighbours are written."""
    await store.journal.append([starting(n) for n in range(0, 100, 10)], actor="other")
    drafts = [[starting(n), starting(n, 2)] for n in range(100)]
    outcomes = await asyncio.gather(
        *(store.journal.append(pair, actor="test", expect={pair[0].aggregate: Head.EMPTY}) for pair in drafts),
        return_exceptions=True,
    )
    for n, outcome in enumerate(outcomes):
        assert isinstance(outcome, ConflictError if n % 10 == 0 else list), (n, outcome)
    entries = await collected(store.journal.read())
    assert len(entries) == 10 + 2 * 90
    check_chains(entries)


async def test_a_caller_that_gave_up_does_not_disturb_the_others(store: JetStreamStore):
    """Cancelled appends leave the group to the rest."""
    tasks = [asyncio.create_task(store.journal.append([starting(n)], actor="test")) for n in range(50)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert all(len(task.result()) == 1 for task in tasks[1::2])
    check_chains(await collected(store.journal.read()))


@pytest.mark.parametrize("several", [False, True])
async def test_a_lost_acknowledgement_is_looked_up(server: EmbeddedNats, several: bool):
    """The server wrote, its answer was lost with the connection: reading back finds the entries, and they are there once."""
    port = urlsplit(server.url).port
    assert port is not None
    async with lossy_proxy(port) as proxy:
        store = await JetStreamStore.connect(
            server.url.replace(f":{port}", f":{proxy.port}"), name="test", monitor_url=server.monitor_url
        )
        head = Head.EMPTY
        for round_number in range(5):
            proxy.lose_replies = True
            drafts = [stop(str(round_number)), *([running(), starting(round_number)] if several else [])]
            expect = {draft.aggregate: Head.EMPTY for draft in drafts} | {ORDERS: head}
            entries = await store.journal.append(drafts, actor="test", expect=expect)
            assert proxy.lost == round_number + 1
            head = head_of([entry for entry in entries if entry.aggregate == ORDERS][-1])
        assert store.journal.commit_counts.read_backs >= 5
        stored = await collected(store.journal.read())
        assert len(stored) == 5 * (3 if several else 1)
        check_chains(stored)
        await store.close()


async def test_a_server_that_hangs_and_comes_back(server: EmbeddedNats):
    """The answer is late, not lost: the append is repeated under the same ids and written once."""
    store = await connect(server, request_timeout_s=6)
    [first] = await store.journal.append([stop("a")], actor="test")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        waiting = asyncio.create_task(store.journal.append([stop("b"), running()], actor="test", expect={ORDERS: head_of(first)}))
        await eventually(lambda: store.journal.commit_counts.read_backs > 0, "the first answer is given up on")
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert [entry.seq for entry in await waiting] == [2, 3]
    check_chains(await collected(store.journal.read()))
    assert await store.journal.last_sequence() == 3
    await store.close()


async def test_a_server_that_stays_away_is_said_in_time(server: EmbeddedNats):
    """An append ends with its deadline, with an error that says that nobody knows; the same append later is safe."""
    store = await connect(server, request_timeout_s=0.5)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(5):
            with pytest.raises(JournalUnavailableError, match="does not answer"):
                await store.journal.append([stop("a")], actor="test", expect={ORDERS: Head.EMPTY})
            with pytest.raises(JournalUnavailableError):
                await store.journal.last_sequence()
    finally:
        os.kill(server.pid, signal.SIGCONT)
    with contextlib.suppress(ConflictError):  # the first one arrived after all
        await store.journal.append([stop("a")], actor="test", expect={ORDERS: Head.EMPTY})
    assert len(await collected(store.journal.read())) == 1
    await store.close()


async def test_nothing_acknowledged_is_lost_when_the_server_is_killed_under_eight_writers(server: EmbeddedNats):
    """Eight processes' worth of writers on one aggregate, the server killed -9 three times: every acknowledged entry is there
    once, and the chain is whole.
    """
    stores = [await connect(server, name=f"writer-{n}") for n in range(8)]
    acknowledged: list[Entry] = []
    done = asyncio.Event()

    async def write(store: JetStreamStore, writer: int) -> None:
        number = 0
        while not done.is_set():
            number += 1
            try:
                drafts = [stop(f"{writer}/{number}"), *([running()] if number % 3 == 0 else [])]
                acknowledged.extend(await store.journal.append(drafts, actor=f"writer-{writer}"))
            except (JournalUnavailableError, ConflictError):
                continue

    writers = [asyncio.create_task(write(store, n)) for n, store in enumerate(stores)]
    for kill in range(3):
        enough = len(acknowledged) + 60
        await eventually(lambda: len(acknowledged) >= enough, "entries are acknowledged", timeout_s=30)  # noqa: B023
        os.kill(server.pid, signal.SIGKILL)
        await eventually(lambda: server.restarts > kill, "the server runs again")  # noqa: B023
    enough = len(acknowledged) + 60
    await eventually(lambda: len(acknowledged) >= enough, "writers go on", timeout_s=30)
    done.set()
    await asyncio.gather(*writers)
    stored = await collected(stores[0].journal.read())
    check_chains(stored)
    assert {(entry.seq, entry.id, entry.hash) for entry in acknowledged} <= {(e.seq, e.id, e.hash) for e in stored}
    assert len({entry.seq for entry in acknowledged}) == len(acknowledged)
    for store in stores:
        await store.close()
