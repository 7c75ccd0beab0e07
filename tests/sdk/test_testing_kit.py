"""The test kit, and what authors may write."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from flowctl.spec.model import Backoff, OnError
from flowctl_sdk import Context, Event, Processor, Sink, Source, processor, sink, source
from flowctl_sdk.faults import EventFailedError
from flowctl_sdk.testing import consume, process, produce


@source
async def numbers(ctx: Context) -> AsyncIterator[dict[str, int]]:
    """Counts."""
    for n in range(ctx.resume_at, ctx.config.get("count", 5)):
        yield {"n": n}


@source
def words(_ctx: Context) -> Iterator[Any]:
    """Says something."""
    yield "one"
    yield b"two"
    yield [3]
    yield Event.of("five", position=5, type="word", metadata={"a": "b"}, cursor=b"c")
    yield "six"


class Evens(Source):
    async def open(self, ctx: Context) -> None:
        self.ctx = ctx

    async def events(self) -> AsyncIterator[Event]:  # pyright: ignore[reportIncompatibleMethodOverride]
        for n in range(0, 6, 2):
            yield Event.of({"n": n}, position=n)


async def test_sources():
    """Generators of either kind, functions or classes; positions count on from where the source resumes."""
    assert [(event.id, event.json()) for event in await produce(numbers)] == [(f"numbers.0:{n}", {"n": n}) for n in range(5)]
    assert [event.position for event in await produce(numbers, resume_at=3)] == [3, 4]
    assert len(await produce(numbers, config={"count": 10**9}, limit=7)) == 7
    assert [event.position for event in await produce(Evens)] == [0, 2, 4]
    found = await produce(words)
    assert [event.payload for event in found] == [b"one", b"two", b"[3]", b"five", b"six"]
    assert [event.position for event in found] == [0, 1, 2, 5, 6]
    assert (found[3].type, found[3].metadata) == ("word", {"a": "b"})


async def test_source_that_yields_nonsense():
    """A value that is no event, and a position that does not grow, name the event."""

    @source
    def nonsense(_ctx: Context) -> Iterator[object]:
        yield "fine"
        yield 42

    @source
    def backwards(_ctx: Context) -> Iterator[Event]:
        yield Event.of("a", position=5)
        yield Event.of("b", position=5)

    with pytest.raises(EventFailedError, match=r"event nonsense\.0:1: .* found int"):
        await produce(nonsense)
    with pytest.raises(EventFailedError, match="position 5 after 5: positions must grow"):
        await produce(backwards)


@processor
def double(event: Event) -> dict[str, int]:
    return {"n": event.json()["n"] * 2}


@processor
async def double_async(event: Event) -> dict[str, int]:
    return {"n": event.json()["n"] * 2}


@processor(blocking=True)
def double_blocking(event: Event) -> dict[str, int]:
    return {"n": event.json()["n"] * 2}


@processor(batch=True)
async def double_batch(events: list[Event]) -> list[dict[str, int]]:
    return [{"n": event.json()["n"] * 2} for event in events]


@processor(batch=True, blocking=True)
def double_batch_blocking(events: list[Event]) -> list[dict[str, int]]:
    return [{"n": event.json()["n"] * 2} for event in events]


class Double(Processor):
    async def open(self, ctx: Context) -> None:
        self.factor = ctx.config.get("factor", 2)

    def process(self, event: Event) -> dict[str, int]:
        return {"n": event.json()["n"] * self.factor}


class DoubleBatch(Processor):
    batch = True

    async def process(self, events: list[Event]) -> list[Event]:
        return [event.replace({"n": event.json()["n"] * 2}) for event in events]


@pytest.mark.parametrize(
    "component", [double, double_async, double_blocking, double_batch, double_batch_blocking, Double, DoubleBatch]
)
async def test_processors(component: Processor | type[Processor]):
    """def, async def, blocking, batch, function, class: the same events come out."""
    found = await process(component, [{"n": n} for n in range(1_000)])
    assert [event.json()["n"] for event in found] == [2 * n for n in range(1_000)]
    assert [event.position for event in found] == list(range(1_000))
    assert found[7].id.startswith("test.0:7/double")


async def test_processor_returns_nonsense():
    """The first event whose result is no event is named."""

    @processor
    def wrong(event: Event) -> Any:
        return 42 if event.json()["n"] == 3 else event.payload

    with pytest.raises(EventFailedError, match=r"event test\.0:3: .*found int"):
        await process(wrong, [{"n": n} for n in range(5)])


@pytest.mark.parametrize("blocking", [False, True])
async def test_retry(*, blocking: bool):
    """retry tries the failing event again, not those before it, as often as it says."""
    calls: list[int] = []

    def flaky(event: Event) -> bytes:
        n = event.json()["n"]
        calls.append(n)
        if n == 2 and calls.count(2) < 3:
            raise RuntimeError("not yet")
        return event.payload

    on_error = OnError(action="retry", attempts=2, backoff=Backoff(initial_s=0.001))
    component = processor(blocking=blocking)(flaky)
    assert len(await process(component, [{"n": n} for n in range(4)], on_error=on_error)) == 4
    assert calls == [0, 1, 2, 2, 2, 3]
    calls.clear()
    with pytest.raises(EventFailedError, match=r"event test\.0:2 failed after 2 attempts: RuntimeError: not yet"):
        await process(component, [{"n": n} for n in range(4)], on_error=OnError(action="retry", attempts=1))


async def test_sinks():
    """Functions of an event or of a list, def or async def, and classes."""
    found: list[bytes] = []

    @sink
    def one(event: Event) -> None:
        found.append(event.payload)

    @sink
    async def one_async(event: Event) -> None:
        found.append(event.payload)

    @sink(batch=True)
    async def many(events: list[Event]) -> None:
        found.extend(event.payload for event in events)

    @sink(blocking=True)
    def one_blocking(event: Event) -> None:
        found.append(event.payload)

    class Store(Sink):
        async def write(self, events: list[Event]) -> None:
            found.extend(event.payload for event in events)

    for component in (one, one_async, many, one_blocking, Store):
        found.clear()
        await consume(component, ["a", "b"])
        assert found == [b"a", b"b"]


def test_events_cannot_be_changed():
    """What an author sees is a value."""
    event = Event.of("a")
    with pytest.raises(AttributeError):
        event.payload = b"b"  # pyright: ignore[reportAttributeAccessIssue]
    assert event.replace("b").payload == b"b"


def test_counters():
    """Names are checked, and there is an end to them."""
    from pathlib import Path

    from flowctl.ids import InstanceId

    ctx = Context(config={}, instance=InstanceId("p", "c", 0), state_dir=Path())
    ctx.counter("rows")
    ctx.counter("rows", 2)
    assert ctx.counters == {"rows": 3}
    with pytest.raises(ValueError, match="not a counter name"):
        ctx.counter("Rows!")
    for n in range(31):
        ctx.counter(f"c{n}")
    with pytest.raises(ValueError, match="at most 32"):
        ctx.counter("one_more")
