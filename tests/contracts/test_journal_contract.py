"""What every journal does: one suite for the JetStream journal on a real server and for its twin in memory."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import cast

import pytest

from flowctl.errors import ConflictError, InvalidIdError, JournalCorruptError, RefusedError
from flowctl.journal import subjects
from flowctl.journal.codec import MAX_ENTRY_BYTES
from flowctl.journal.events import Aggregate, PipelineStopRequested
from flowctl.journal.log import Draft, Entry, Head, Journal, Poison, Unknown
from support.journals import (
    ORDERS,
    StoreUnderTest,
    check_chains,
    collected,
    head_of,
    opened,
    running,
    starting,
    stop,
)
from support.polling import take


@pytest.fixture(params=["memory", "jetstream"])
async def opened_store(request: pytest.FixtureRequest) -> AsyncIterator[StoreUnderTest]:
    async with opened(request.param) as store:
        yield store


@pytest.fixture
def journal(opened_store: StoreUnderTest) -> Journal:
    return opened_store.store.journal


# --- appending -------------------------------------------------------------------------------------------------------------


async def test_an_appended_entry_is_read_back_as_it_was_returned(journal: Journal):
    """What append returns is what is stored: sequence, id, hash, event and context (the time is the server's own)."""
    [entry] = await journal.append([Draft(ORDERS, PipelineStopRequested(reason="ü\n"), 7)], actor="cli", correlation="c-1")
    [read] = await collected(journal.read())
    assert entry.seq == 1
    assert (read.actor, read.correlation, read.causation) == ("cli", "c-1", 7)
    assert read.event == PipelineStopRequested(reason="ü\n")
    for name in ("seq", "id", "hash", "previous_hash", "event", "subject", "aggregate", "ce_type", "data"):
        assert getattr(read, name) == getattr(entry, name), name
    assert abs(read.time_ns - entry.time_ns) < 1_000_000_000


async def test_an_empty_journal_has_nothing(journal: Journal):
    """No entries, no head, sequence 0; appending nothing changes nothing."""
    assert await journal.append([], actor="test") == []
    assert await journal.last_sequence() == 0
    assert await journal.head(ORDERS) == Head.EMPTY
    assert await collected(journal.read()) == []


async def test_the_head_is_the_last_entry_of_the_aggregate(journal: Journal):
    """Entries of other types and of other aggregates do not confuse it."""
    await journal.append([stop("a")], actor="test")
    [last] = await journal.append([running()], actor="test")
    await journal.append([starting(0), stop("x", Aggregate.of_pipeline("orders-2"))], actor="test")
    assert await journal.head(ORDERS) == head_of(last)
    assert await journal.last_sequence() == 4


async def test_an_expected_head_is_accepted_once(journal: Journal):
    """Of two writers with the same expectation, the second gets a conflict and nothing of it is written."""
    [first] = await journal.append([stop("a")], actor="test", expect={ORDERS: Head.EMPTY})
    [second] = await journal.append([stop("b")], actor="test", expect={ORDERS: head_of(first)})
    for stale in (Head.EMPTY, head_of(first), Head(second.seq + 1, "")):
        with pytest.raises(ConflictError):
            await journal.append([stop("c")], actor="test", expect={ORDERS: stale})
    assert [entry.seq for entry in await collected(journal.read())] == [1, 2]


async def test_entries_elsewhere_do_not_conflict(journal: Journal):
    """The expectation concerns the aggregate alone, not the journal's last sequence."""
    [entry] = await journal.append([stop("a")], actor="test")
    await journal.append([starting(0), starting(1)], actor="test")
    [later] = await journal.append([stop("b")], actor="test", expect={ORDERS: head_of(entry)})
    assert later.seq == 4


async def test_several_drafts_are_stored_together_and_in_order(journal: Journal):
    """Sequences are contiguous, several entries of one aggregate are chained among themselves."""
    drafts = [stop("a"), starting(0), running(), starting(1), starting(0, 2)]
    entries = await journal.append(drafts, actor="test", expect={draft.aggregate: Head.EMPTY for draft in drafts})
    assert [entry.seq for entry in entries] == [1, 2, 3, 4, 5]
    read = await collected(journal.read())
    assert [entry.event for entry in read] == [draft.event for draft in drafts]
    check_chains(read)


async def test_one_stale_aggregate_refuses_all_drafts(journal: Journal):
    """All or none: also what did not conflict is not written."""
    await journal.append([starting(1)], actor="test")
    expect = dict.fromkeys((starting(n).aggregate for n in range(3)), Head.EMPTY)
    with pytest.raises(ConflictError):
        await journal.append([starting(0), starting(1), starting(2)], actor="test", expect=expect)
    assert await journal.last_sequence() == 1


async def test_five_hundred_drafts_at_once(journal: Journal):
    """The promised size of one append works, and one more is refused before anything is written."""
    await journal.append([starting(n) for n in range(500)], actor="test")
    check_chains(await collected(journal.read()))
    with pytest.raises(RefusedError, match="at most 500"):
        await journal.append([starting(n) for n in range(501)], actor="test")
    assert await journal.last_sequence() == 500


async def test_without_expectation_everybody_gets_in(journal: Journal):
    """Concurrent writers on one aggregate that expect nothing all succeed, and the chain holds."""
    await asyncio.gather(*(journal.append([stop(str(n)), running()], actor="test") for n in range(50)))
    entries = await collected(journal.read())
    assert len(entries) == 100
    check_chains(entries)


async def test_of_concurrent_writers_with_one_expectation_one_wins(journal: Journal):
    """Twenty writers decide on the same state: one is right, nineteen are told."""
    outcomes = await asyncio.gather(
        *(journal.append([stop(str(n))], actor="test", expect={ORDERS: Head.EMPTY}) for n in range(20)), return_exceptions=True
    )
    assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == 19
    [entry] = await collected(journal.read())
    assert [[entry.id]] == [[e.id for e in outcome] for outcome in outcomes if isinstance(outcome, list)]


async def test_concurrent_appends_of_many_aggregates(journal: Journal):
    """A crowd of callers, each with its own aggregate and expectation: everybody's entries, everybody's own answer."""

    async def life(index: int) -> list[Entry]:
        head, mine = Head.EMPTY, list[Entry]()
        for incarnation in range(1, 4):
            draft = starting(index, incarnation)
            mine += await journal.append([draft], actor="test", expect={draft.aggregate: head})
            head = head_of(mine[-1])
        return mine

    lives = await asyncio.gather(*(life(index) for index in range(100)))
    stored = {entry.seq: entry for entry in await collected(journal.read())}
    assert sorted(stored) == list(range(1, 301))
    check_chains(list(stored.values()))
    for entry in (entry for mine in lives for entry in mine):
        assert stored[entry.seq].id == entry.id


async def test_an_expectation_of_hash_is_the_chain(journal: Journal):
    """The previous hash of an entry is that of the head that its writer named."""
    [first] = await journal.append([stop("a")], actor="test", expect={ORDERS: Head.EMPTY})
    [second] = await journal.append([stop("b")], actor="test", expect={ORDERS: head_of(first)})
    assert (first.previous_hash, second.previous_hash) == ("", first.hash)


@pytest.mark.parametrize("name", ["*", ">", "", ".", "..", "a.b", "-rf", "$JS", "Orders", "a b", "a\r\nPUB x 0", "ö", "a" * 64])
async def test_a_name_that_is_no_id_is_refused_at_the_entrance(journal: Journal, name: str):
    """A wildcard would be stored as it stands; so would everything else that no reader could find again."""
    with pytest.raises(InvalidIdError):
        await journal.append([stop("a", Aggregate.of_pipeline(name))], actor="test")
    with pytest.raises(InvalidIdError):
        await journal.append([Draft(Aggregate("component", ("orders", name, "0")), starting(0).event)], actor="test")
    assert await journal.last_sequence() == 0


async def test_an_event_belongs_to_its_kind_of_aggregate(journal: Journal):
    """An event of a pipeline cannot be appended to a host."""
    with pytest.raises(ValueError, match="does not belong"):
        await journal.append([Draft(Aggregate.of_host("here"), PipelineStopRequested())], actor="test")
    with pytest.raises(ValueError, match="not an instance"):
        await journal.append([Draft(Aggregate("component", ("orders", "reader", "007")), starting(0).event)], actor="test")


async def test_an_entry_has_a_greatest_size(journal: Journal):
    """The largest that is allowed is stored whole; one byte more is refused in words."""
    frame = len('{"type":"PipelineStopRequested","reason":""}')
    await journal.append([stop("x" * (MAX_ENTRY_BYTES - frame))], actor="test")
    with pytest.raises(RefusedError, match="bytes"):
        await journal.append([stop("x" * (MAX_ENTRY_BYTES - frame + 1))], actor="test")
    [entry] = await collected(journal.read())
    assert len(entry.data) == MAX_ENTRY_BYTES


async def test_context_cannot_break_the_headers(journal: Journal):
    """Line breaks and outer spaces in actor and correlation neither inject a header nor break the hash."""
    [entry] = await journal.append([stop()], actor=" cli\r\nce-id: forged ", correlation="\t a \n b ")
    [read] = await collected(journal.read())
    assert (read.id, read.hash, read.correlation) == (entry.id, entry.hash, "a b")


# --- reading ---------------------------------------------------------------------------------------------------------------


async def test_reading_a_range(journal: Journal):
    """``after < seq <= upto``, and no further than what is there."""
    await journal.append([starting(n) for n in range(10)], actor="test")
    for after, upto, expected in (
        (0, None, range(1, 11)),
        (3, 7, range(4, 8)),
        (9, 100, [10]),
        (10, None, []),
        (11, None, []),
        (5, 5, []),
        (7, 3, []),
    ):
        assert [e.seq for e in await collected(journal.read(after=after, upto=upto))] == list(expected), (after, upto)


async def test_reading_by_subject(journal: Journal):
    """One wildcard answers a question."""
    await journal.append([starting(0), stop("a"), starting(1), starting(0, 2), running()], actor="test")
    for subject, expected in (
        ("flowctl.journal.component.orders.*.*.starting", [1, 3, 4]),
        (subjects.aggregate_filter(starting(0).aggregate), [1, 4]),
        ("flowctl.journal.pipeline.>", [2, 5]),
        ("flowctl.journal.>", [1, 2, 3, 4, 5]),
        ("flowctl.journal.host.>", []),
    ):
        assert [e.seq for e in await collected(journal.read(subject=subject))] == expected, subject
    assert [e.seq for e in await collected(journal.read(after=1, upto=3, subject="flowctl.journal.component.>"))] == [3]


async def test_a_reading_may_be_left(journal: Journal):
    """Leaving in the middle disturbs nobody."""
    await journal.append([starting(n) for n in range(20)], actor="test")
    async for entry in journal.read():
        if entry.seq == 3:
            break
    assert len(await collected(journal.read())) == 20


async def test_following_from_the_middle(journal: Journal):
    """What is there after the position, then what comes."""
    await journal.append([starting(n) for n in range(10)], actor="test")
    entries = journal.follow(after=6)
    assert [e.seq for e in await take(4, entries)] == [7, 8, 9, 10]
    waiting = asyncio.create_task(take(2, entries))
    await journal.append([stop("a"), running()], actor="test")
    assert [e.seq for e in await waiting] == [11, 12]


async def test_following_while_others_write_sees_no_gap(journal: Journal):
    """Followers that start at any moment see every entry once, in order."""

    async def write(component: str) -> None:
        for incarnation in range(1, 41):
            await journal.append([starting(n, incarnation, component) for n in range(10)], actor="test")

    async def follow(after: int) -> list[int]:
        return [entry.seq for entry in await take(2000 - after, journal.follow(after=after), timeout_s=30)]

    followers = [asyncio.create_task(follow(0))]
    writers = [asyncio.create_task(write(f"writer-{n}")) for n in range(5)]
    followers += [asyncio.create_task(follow(await journal.last_sequence() // 2)) for _ in range(10)]
    await asyncio.gather(*writers)
    for follower in followers:
        seen = await follower
        assert seen == list(range(2001 - len(seen), 2001))


async def test_following_a_subject(journal: Journal):
    """A filtered follower sees the matching entries only, in order."""
    entries = journal.follow(subject="flowctl.journal.pipeline.>")
    waiting = asyncio.create_task(take(3, entries))
    for n in range(3):
        await journal.append([starting(n), stop(str(n))], actor="test")
    assert [cast("PipelineStopRequested", e.event).reason for e in await waiting] == ["0", "1", "2"]


async def test_following_after_an_end_that_was_never_reached(journal: Journal):
    """A journal that ends before what was seen has lost entries: an alarm, not a fresh start."""
    await journal.append([stop("a")], actor="test")
    with pytest.raises(JournalCorruptError, match="ends at 1"):
        await anext(aiter(journal.follow(after=2)))


async def test_two_followers_do_not_share(journal: Journal):
    """Each sees everything."""
    await journal.append([starting(n) for n in range(5)], actor="test")
    one, two = await asyncio.gather(take(5, journal.follow()), take(5, journal.follow()))
    assert one == two


# --- what others put there -------------------------------------------------------------------------------------------------

GOOD = {"ce-id": "foreign-1", "ce-type": "flowctl.pipeline.stop_requested.v1"}
SUBJECT = "flowctl.journal.pipeline.orders.stop_requested"
POISON: dict[str, tuple[str, dict[str, str], bytes]] = {
    "invalid JSON": (SUBJECT, GOOD, b"{"),
    "not UTF-8": (SUBJECT, GOOD, b'{"type":"PipelineStopRequested","reason":"\xff"}'),
    "no data": (SUBJECT, GOOD, b""),
    "another type's data": (SUBJECT, GOOD, b'{"type":"PipelineScaled","component":"a","replicas":2}'),
    "a wrong field type": (SUBJECT, GOOD, b'{"type":"PipelineStopRequested","reason":7}'),
    "deep nesting": (SUBJECT, GOOD, b"[" * 100_000),
    "no headers": (SUBJECT, {}, b"{}"),
    "no id": (SUBJECT, {"ce-type": GOOD["ce-type"]}, b'{"type":"PipelineStopRequested"}'),
    "no type": (SUBJECT, {"ce-id": "x"}, b'{"type":"PipelineStopRequested"}'),
    "a wrong hash": (SUBJECT, GOOD | {"ce-previoushash": "zz"}, b'{"type":"PipelineStopRequested"}'),
    "a type of another subject": (SUBJECT, GOOD | {"ce-type": "flowctl.host.left.v1"}, b"{}"),
    "a foreign subject": ("flowctl.journal.something.else.entirely", GOOD, b"{}"),
    "a wildcard as a name": ("flowctl.journal.pipeline.*.stop_requested", GOOD, b'{"type":"PipelineStopRequested"}'),
    "a payload of nearly 1 MB": (SUBJECT, GOOD, b'"' + b"x" * 1_000_000 + b'"'),
}
UNKNOWN: dict[str, tuple[str, dict[str, str], bytes]] = {
    "a later version": (SUBJECT, GOOD | {"ce-type": "flowctl.pipeline.stop_requested.v2"}, b"{}"),
    "an unknown type": (
        "flowctl.journal.pipeline.orders.renamed",
        GOOD | {"ce-type": "flowctl.pipeline.renamed.v1"},
        b'{"type":"PipelineRenamed"}',
    ),
    "another system's type": (SUBJECT, GOOD | {"ce-type": "com.example.happened"}, b"{}"),
}


@pytest.mark.parametrize("case", [*POISON, *UNKNOWN])
async def test_what_cannot_be_read_is_shown_and_passed_over(opened_store: StoreUnderTest, case: str):
    """A foreign entry comes out as poison or unknown; those before and after it are as ever, to readers and writers."""
    journal = opened_store.store.journal
    await journal.append([stop("before")], actor="test")
    subject, headers, data = (POISON | UNKNOWN)[case]
    await opened_store.put(subject, headers, data)
    await journal.append([stop("after")], actor="test")
    for entries in (await collected(journal.read()), await take(3, journal.follow())):
        assert [e.seq for e in entries] == [1, 2, 3]
        assert isinstance(entries[1].event, Poison if case in POISON else Unknown), entries[1].event
        assert entries[2].event == PipelineStopRequested(reason="after")


async def test_a_foreign_entry_with_an_id_that_exists(opened_store: StoreUnderTest):
    """The same id with another payload is stored as any entry; the reader sees both, and nothing breaks."""
    journal = opened_store.store.journal
    [entry] = await journal.append([stop("mine")], actor="test")
    await opened_store.put(SUBJECT, GOOD | {"ce-id": entry.id}, b'{"type":"PipelineStopRequested","reason":"theirs"}')
    async with aclosing(cast("AsyncGenerator[Entry]", journal.follow())) as entries:
        assert [e.id for e in await take(2, entries)] == [entry.id, entry.id]
    with pytest.raises(ConflictError):
        await journal.append([stop("again")], actor="test", expect={ORDERS: head_of(entry)})


# --- time ------------------------------------------------------------------------------------------------------------------


async def test_the_journals_time_does_not_run_ahead(journal: Journal):
    """An entry's own time is never in the journal clock's future by more than the way to the server and back."""
    following = journal.follow()
    await journal.append([stop("a")], actor="test")
    [entry] = await take(1, following)
    assert 0 <= journal.now_ns() - entry.time_ns < 2_000_000_000
