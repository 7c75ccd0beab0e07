"""A projection under concurrency, conflicts, the journal's absence, cancellation and its listeners' errors."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from flowctl.clock import VirtualClock
from flowctl.decision import Decision, Rejected
from flowctl.errors import ConflictError, JournalCorruptError, JournalUnavailableError, NotFoundError
from flowctl.fleet import Fleet
from flowctl.journal import codec
from flowctl.journal.events import Aggregate, HostJoined, HostLeft, PipelineStopRequested
from flowctl.journal.log import Draft, Entry
from flowctl.journal.memory import MemoryStore
from flowctl.projection import Projection
from support.polling import eventually

HOST = Aggregate.of_host("h1")
JOINED = HostJoined(agent="h1", address="127.0.0.1", drivers=["process"])


@contextlib.asynccontextmanager
async def following(store: MemoryStore, clock: VirtualClock | None = None) -> AsyncGenerator[Projection]:
    """A projection that follows the store."""
    projection = Projection(store.journal, clock=clock)
    task = await projection.start()
    try:
        yield projection
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def count_up(fleet: Fleet) -> Decision:
    """A decision that stands on what was decided before: the host's address is a number, one higher each time."""
    host = fleet.hosts.get("h1")
    number = int(host.joined.address) + 1 if host is not None else 1
    return [Draft(HOST, HostJoined(agent="h1", address=str(number), drivers=[]))]


async def test_concurrent_decisions_are_decided_again():
    """Of many writers to one aggregate each decides on what the others wrote: nothing is lost, nothing is written twice."""
    store = MemoryStore()
    async with following(store) as one, following(store) as other:
        await asyncio.gather(*(each.decide(count_up, actor="t") for each in (one, other) for _ in range(8)))
        await eventually(lambda: one.fleet.seq == other.fleet.seq == 16, "both have read everything")
        assert one.fleet.hosts["h1"].joined.address == "16"
        assert one.fleet.digest() == other.fleet.digest()


async def test_it_gives_up_after_many_conflicts():
    """Somebody who always writes first makes a decision fail in the end, with nothing written by it."""
    store = MemoryStore()
    async with following(store) as projection:

        def always_late(fleet: Fleet) -> Decision:
            draft = Draft(HOST, JOINED)
            previous = fleet.head(HOST).hash
            stored = codec.encode(draft, entry_id="x", actor="other", correlation="", previous_hash=previous, wall_ns=1)
            store.journal.put(stored.subject, stored.headers, stored.data)
            return [Draft(HOST, HostLeft())]

        with pytest.raises(ConflictError, match="gave up"):
            await projection.decide(always_late, actor="t")
        written = [type(entry.event) async for entry in store.journal.read()]
        assert HostLeft not in written


async def test_absence_is_ridden_out():
    """While the journal is away nothing is decided and it says since when; what was written meanwhile is read afterwards."""
    clock = VirtualClock()
    store = MemoryStore(clock)
    async with following(store, clock) as projection:
        await projection.decide(count_up, actor="t")
        changed = asyncio.ensure_future(projection.changed())
        store.set_available(available=False)
        await clock.advance(1)
        assert changed.done(), "going away is news"
        assert projection.unavailable_since_ns is not None
        with pytest.raises(JournalUnavailableError):
            await projection.decide(count_up, actor="t")
        since = projection.unavailable_since_ns
        await clock.advance(10)
        assert projection.unavailable_since_ns == since, "it went away once"
        store.set_available(available=True)
        await clock.advance(1)
        assert projection.unavailable_since_ns is None, "back, though nothing was written"
        await projection.decide(count_up, actor="t")
        assert projection.fleet.hosts["h1"].joined.address == "2"


async def test_a_listener_that_raises_stops_nobody(caplog: pytest.LogCaptureFixture):
    """Its error is logged and counted; the other listeners and the fold go on."""
    store = MemoryStore()
    heard: list[int] = []

    def broken(entry: Entry) -> None:
        raise RuntimeError(f"boom at {entry.seq}")

    async with following(store) as projection:
        projection.listen(broken)
        projection.listen(lambda entry: heard.append(entry.seq))
        await projection.decide(count_up, actor="t")
        await projection.decide(count_up, actor="t")
    assert heard == [1, 2]
    assert projection.skipped_total == 2
    assert "a listener failed on entry 1" in caplog.text


async def test_a_cancelled_append_is_safe():
    """Whether it was written or not, the next decision stands on what is true."""
    store = MemoryStore()
    async with following(store) as projection:
        for turns in range(6):
            task = asyncio.create_task(projection.decide(count_up, actor="t"))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await projection.decide(count_up, actor="t")
        written = await store.journal.last_sequence()
        assert projection.fleet.seq == written
        assert projection.fleet.hosts["h1"].joined.address == str(written)


async def test_a_promised_answer_stands_on_everything_that_is_written():
    """With ``sync`` a refusal is not one of a state that is over: entries not yet folded are folded first."""
    store = MemoryStore()
    async with following(store) as projection:

        def must_be_known(fleet: Fleet) -> Decision:
            return [] if "h1" in fleet.hosts else Rejected("not_found", "no host h1")

        await store.journal.append([Draft(HOST, JOINED)], actor="somebody")
        with pytest.raises(NotFoundError):
            await projection.decide(must_be_known, actor="t")
        await store.journal.append([Draft(Aggregate.of_pipeline("p"), PipelineStopRequested())], actor="somebody")
        assert await projection.decide(must_be_known, actor="t", sync=True) == []


async def test_a_journal_that_lost_entries_ends_everything():
    """Whoever waits is told, nothing is decided any more, and following ends with the reason."""
    clock = VirtualClock()
    store = MemoryStore(clock)
    projection = Projection(store.journal, clock=clock)
    task = await projection.start()
    await projection.decide(count_up, actor="t")
    waiting = asyncio.ensure_future(projection.caught_up(99))
    store.set_available(available=False)
    await clock.advance(0)
    projection.journal = MemoryStore(clock).journal  # another server has taken its place, with nothing on it
    await clock.advance(1)
    with pytest.raises(JournalCorruptError):
        await task
    with pytest.raises(JournalCorruptError):
        await waiting
    with pytest.raises(JournalCorruptError):
        await projection.decide(count_up, actor="t")


async def test_start_waits_for_everything_and_leaves_nothing_behind():
    """It returns when all that is there is folded, and raises at once when the journal is away."""
    store = MemoryStore()
    for number in range(300):
        await store.journal.append([Draft(Aggregate.of_host(f"h{number}"), JOINED)], actor="t")
    async with following(store) as projection:
        assert projection.fleet.seq == 300
    store.set_available(available=False)
    with pytest.raises(JournalUnavailableError):
        await Projection(store.journal).start()
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "projection"] == []
