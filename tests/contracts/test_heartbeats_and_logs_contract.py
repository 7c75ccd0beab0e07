"""What every store does with heartbeats and log lines: one suite for JetStream and for its twin in memory."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from flowctl.journal import subjects
from flowctl.journal.heartbeats import EdgeCounters, Heartbeat, HostBeat, ServiceBeat
from flowctl.journal.logs import LogLine
from flowctl.journal.store import Store
from support.journals import StoreUnderTest, instance, opened
from support.polling import take


@pytest.fixture(params=["memory", "jetstream"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    async with opened(request.param) as under_test:
        yield under_test.store


@pytest.fixture
async def under_test() -> AsyncIterator[StoreUnderTest]:
    async with opened("jetstream") as under_test:
        yield under_test


def beat(index: int, sent: int = 0) -> Heartbeat:
    return Heartbeat(
        instance(index), 1, {"sent": float(sent)}, [EdgeCounters("sink.0", "out", events_total=sent, connected=True)]
    )


def line(number: int, *, index: int = 0, component: str = "reader", pipeline: str = "orders", line_id: str = "") -> LogLine:
    return LogLine(
        instance(index, component, pipeline), 1, "stdout", f"line {number} ü", 1_700_000_000_000_000_000 + number, line_id
    )


async def test_a_follower_gets_the_last_beat_of_everybody_and_then_every_new_one(store: Store):
    """However many beats are stored, a new follower begins with one for each."""
    for sent in range(5):
        await store.heartbeats.publish([beat(index, sent) for index in range(3)])
    await store.heartbeats.publish([HostBeat("here", "agent-1", 3), ServiceBeat("registry", "a")])
    beats = store.heartbeats.follow()
    first = await take(5, beats)
    assert {subjects.beat_subject(stored.beat) for stored in first} == {
        "flowctl.heartbeat.component.orders.reader.0",
        "flowctl.heartbeat.component.orders.reader.1",
        "flowctl.heartbeat.component.orders.reader.2",
        "flowctl.heartbeat.host.here",
        "flowctl.heartbeat.service.registry.a",
    }
    assert all(stored.beat.metrics == {"sent": 4.0} for stored in first if isinstance(stored.beat, Heartbeat))
    waiting = asyncio.create_task(take(3, beats))
    await store.heartbeats.publish([beat(1, 5), beat(1, 6), beat(0, 7)])
    news = await waiting
    assert [stored.beat for stored in news] == [beat(1, 5), beat(1, 6), beat(0, 7)]
    assert [stored.seq for stored in news] == [18, 19, 20]
    assert all(earlier.time_ns <= later.time_ns for earlier, later in pairwise(news))


async def test_beats_of_many_callers_at_once(store: Store):
    """Concurrent publishers are all served."""
    await asyncio.gather(*(store.heartbeats.publish([beat(index)]) for index in range(500)))
    assert len(await take(500, store.heartbeats.follow())) == 500


async def test_lines_are_read_by_pipeline_component_and_instance(store: Store):
    """Each filter gives its own lines, in order."""
    await store.logs.publish([line(0), line(1, index=1), line(2, component="writer"), line(3, pipeline="other"), line(4)])
    assert [entry async for entry in store.logs.read("orders")] == [
        line(0),
        line(1, index=1),
        line(2, component="writer"),
        line(4),
    ]
    assert [entry async for entry in store.logs.read("orders", component="reader")] == [line(0), line(1, index=1), line(4)]
    assert [entry async for entry in store.logs.read("orders", component="reader", index=0)] == [line(0), line(4)]
    assert [entry async for entry in store.logs.read("absent")] == []


@pytest.mark.parametrize("tail", [0, 1, 3, 64, 65, 700, 10_000])
async def test_the_last_lines(store: Store, tail: int):
    """``tail`` gives that many from the end of what the filter matches, however sparse it is."""
    await store.logs.publish([line(number, index=number % 7) for number in range(4_900)])
    lines = [entry async for entry in store.logs.read("orders", component="reader", index=3, tail=tail)]
    assert lines == [line(number, index=3) for number in range(4_900) if number % 7 == 3][len(lines) * -1 :][:tail]
    assert len(lines) == min(tail, 700)


async def test_a_line_is_stored_once(store: Store):
    """A line that is published again under its id, after a doubtful first time, is not there twice; lines without id are."""
    await store.logs.publish([line(0, line_id="a"), line(1, line_id="b"), line(2), line(2)])
    await store.logs.publish([line(1, line_id="b"), line(3, line_id="c")])
    assert [entry.text async for entry in store.logs.read("orders")] == [f"line {n} ü" for n in (0, 1, 2, 2, 3)]


async def test_following_lines(store: Store):
    """Stored ones first (the last of them with ``tail``), then new ones that match, at once."""
    await store.logs.publish([line(number) for number in range(5)])
    lines = store.logs.read("orders", component="reader", tail=2, follow=True)
    assert await take(2, lines) == [line(3), line(4)]
    waiting = asyncio.create_task(take(1, lines))
    await store.logs.publish([line(5, component="writer"), line(6)])
    assert await waiting == [line(6)]


async def test_foreign_messages_are_passed_over(under_test: StoreUnderTest):
    """What is no heartbeat, or speaks for somebody else, and what is no log line, disturbs no reader."""
    store = under_test.store
    subject = subjects.heartbeat_subject(instance(0))
    await under_test.put(subject, {}, b"{")
    await under_test.put(
        subjects.heartbeat_subject(instance(1)), {}, b'{"instance":{"pipeline":"orders","component":"reader","index":7}}'
    )
    await under_test.put("flowctl.heartbeat.nonsense", {}, b"{}")
    await under_test.put(subjects.log_subject(instance(0)), {}, b"[[[")
    await store.heartbeats.publish([beat(2)])
    await store.logs.publish([line(0)])
    assert [stored.beat for stored in await take(1, store.heartbeats.follow())] == [beat(2)]
    assert [entry async for entry in store.logs.read("orders")] == [line(0)]
