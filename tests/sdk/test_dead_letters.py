"""What the SDK does with events that a component fails on for good."""

from typing import Any

import pytest

from flowctl.control.v1.control_pb2 import DeadLetter
from flowctl.spec.model import Backoff, OnError
from flowctl_sdk import Event, processor, sink
from flowctl_sdk.author import Processor, Sink
from flowctl_sdk.calls import Failures
from flowctl_sdk.columns import Columns
from flowctl_sdk.faults import EventFailedError
from flowctl_sdk.inbox import Inbox
from flowctl_sdk.production import Numbering
from flowctl_sdk.redrives import columns_of
from flowctl_sdk.windowed import WindowTransform
from flowctl_sdk.windows import Window
from flowctl_sdk.work import SinkWork, Transform

ASIDE = OnError(action="dead_letter", attempts=3, backoff=Backoff(initial_s=0.0, max_s=0.0))


class Box:
    """Keeps letters in memory."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, str, int]] = []

    async def keep(self, event: Event, error: str, attempts: int) -> None:
        """Keep one."""
        self.kept.append((event.id, error, attempts))


def numbers(count: int) -> Columns:
    """Events 0, 1, 2, …"""
    return Numbering("test.0", 0).columns([str(n) for n in range(count)], 0)[0]


def each(event: Event) -> object:
    """Raises on 3 and 5, filters 4."""
    if event.payload in {b"3", b"5"}:
        raise ValueError("bad")
    return None if event.payload == b"4" else event.payload


async def each_later(event: Event) -> object:
    """The same, awaited."""
    return each(event)


def listed(events: list[Event]) -> list[Any]:
    """The same for a batch."""
    return [each(event) for event in events]


PROCESSORS = {
    "def": processor(each),
    "async def": processor(each_later),
    "blocking": processor(blocking=True)(each),
    "batch": processor(batch=True)(listed),
    "blocking batch": processor(batch=True, blocking=True)(listed),
}


@pytest.mark.parametrize("name", PROCESSORS)
async def test_a_processor_goes_on_without_the_bad_ones(name: str):
    """The others come out in order; filtered and put aside are counted apart; each bad one was tried so many times."""
    component: Processor = PROCESSORS[name]
    box = Box()
    failures = Failures(ASIDE, box)
    transform = Transform(component, "each", failures)
    outputs, filtered = await transform(numbers(8))
    assert outputs is not None
    assert [event.payload for event in outputs.events()] == [b"0", b"1", b"2", b"6", b"7"]
    assert [event.id for event in outputs.events()][:2] == ["test.0:0/each.0", "test.0:1/each.0"]
    assert (filtered, transform.put_aside) == (1, 2)
    assert box.kept == [("test.0:3", "ValueError: bad", 3), ("test.0:5", "ValueError: bad", 3)]
    assert await transform(numbers(1)) is not None
    assert transform.put_aside == 0


@pytest.mark.parametrize("batch", [False, True])
async def test_what_is_no_event_is_put_aside_too(batch: bool):
    """A result that no event can be made of is the event's failure; trying again would not help."""

    def broken(event: Event) -> object:
        return {1, 2} if event.payload == b"1" else event.payload

    component = processor(batch=True)(lambda events: [broken(event) for event in events]) if batch else processor(broken)
    box = Box()
    outputs, _ = await Transform(component, "each", Failures(ASIDE, box))(numbers(3))
    assert outputs is not None
    assert [event.payload for event in outputs.events()] == [b"0", b"2"]
    ((event_id, error, attempts),) = box.kept
    assert (event_id, attempts) == ("test.0:1", 1)
    assert "no event" in error


BROKEN = {
    "a number in the metadata": Event(b"", metadata={"n": 5}),  # type: ignore[dict-item]
    "a number as key": Event(b"", metadata={5: "n"}),  # type: ignore[dict-item]
    "metadata that is a list": Event(b"", metadata=["n"]),  # type: ignore[arg-type]
    "half a character": Event(b"", metadata={"n": "\ud800"}),
    "a negative time": Event(b"", time_ns=-1),
    "a time too large": Event(b"", time_ns=1 << 63),
    "a time in parts": Event(b"", time_ns=0.5),  # type: ignore[arg-type]
    "a number as type": Event(b"", type=7),  # type: ignore[arg-type]
    "text as payload": Event("x"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", BROKEN)
async def test_an_event_that_fits_into_no_message_is_no_event(name: str):
    """What Python lets into an ``Event`` and a message does not: the input is put aside; a source says which event it was."""
    broken, box = BROKEN[name], Box()
    for component in (
        processor(lambda event: broken if event.payload == b"1" else event),
        processor(batch=True)(lambda events: [broken if event.payload == b"1" else event for event in events]),
    ):
        outputs, _ = await Transform(component, "each", Failures(ASIDE, box))(numbers(3))
        assert outputs is not None
        assert [event.payload for event in Columns.decoded(outputs.encoded()).events()] == [b"0", b"2"]
    assert [kept[0] for kept in box.kept] == ["test.0:1"] * 2
    with pytest.raises(EventFailedError, match=r"test.0:1: the source yielded something that is no event: (its|a key|'utf-8')"):
        Numbering("test.0", 0).columns([b"0", broken], 0)


async def test_one_that_fails_beside_one_that_is_no_event():
    """Each becomes one letter, and the others are not called again."""
    called: list[bytes] = []

    def work(event: Event) -> object:
        called.append(event.payload)
        if event.payload == b"0":
            raise ValueError("bad")
        return {1, 2} if event.payload == b"2" else None if event.payload == b"3" else event.payload

    box = Box()
    transform = Transform(processor(work), "each", Failures(ASIDE, box))
    outputs, filtered = await transform(numbers(5))
    assert outputs is not None
    assert [event.payload for event in outputs.events()] == [b"1", b"4"]
    assert [(kept[0], kept[2]) for kept in box.kept] == [("test.0:0", 3), ("test.0:2", 1)]
    assert (filtered, transform.put_aside) == (1, 2)
    assert called == [b"0"] * 3 + [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("tries", [2, 3, 9])
async def test_a_window_has_its_attempts(tries: int):
    """It is called again with the same events; when the attempts are spent, all of them are put aside."""
    calls: list[int] = []

    def work(events: list[Event]) -> object:
        calls.append(len(events))
        if len(calls) < tries:
            raise ValueError("bad")
        return b"sum"

    box = Box()
    component = processor(window=Window(count=3))(work)
    transform = WindowTransform(component, Window(count=3), "sums", Failures(ASIDE, box))
    outputs, filtered = await transform(numbers(3))
    assert calls == [3] * min(tries, 3)
    if tries <= 3:
        assert outputs is not None
        assert (len(outputs), filtered, transform.put_aside, box.kept) == (1, 2, 0, [])
    else:
        assert (outputs, filtered, transform.put_aside) == (None, 0, 3)
        assert box.kept == [(f"test.0:{n}", "its window failed: ValueError: bad", 3) for n in range(3)]


async def test_a_window_that_gives_what_is_no_event():
    """Its events are put aside at once; trying again would not help."""
    box = Box()
    component = processor(window=Window(count=3))(lambda _: {1, 2})
    transform = WindowTransform(component, Window(count=3), "sums", Failures(ASIDE, box))
    assert await transform(numbers(3)) == (None, 0)
    assert (transform.put_aside, [kept[2] for kept in box.kept]) == (3, [1, 1, 1])


async def test_all_bad():
    """Nothing comes out, and nothing counts as filtered."""

    def broken(event: Event) -> object:
        raise ValueError(event.id)

    transform = Transform(processor(broken), "each", Failures(ASIDE, Box()))
    assert await transform(numbers(3)) == (None, 0)
    assert transform.put_aside == 3


async def test_a_sink_writes_the_rest():
    """A write of many that raises is repeated event by event."""
    written: list[bytes] = []

    class Store(Sink):
        async def write(self, events: list[Event]) -> None:
            for event in events:
                each(event)
            written.extend(event.payload for event in events)

    def store(event: Event) -> None:
        each(event)
        written.append(event.payload)

    for component in (Store(), sink(store)):
        box = Box()
        written.clear()
        await SinkWork(component, Inbox(), Failures(ASIDE, box)).write(numbers(7).events())
        assert written == [b"0", b"1", b"2", b"4", b"6"]
        assert [kept[0] for kept in box.kept] == ["test.0:3", "test.0:5"]


async def test_without_a_registry():
    """There is nobody to keep the event, so the instance ends, and says so."""
    with pytest.raises(EventFailedError, match=r"test.0:3 failed, and there is no registry to keep it"):
        await Transform(processor(each), "each", Failures(ASIDE))(numbers(8))


def test_a_redriven_event_has_its_old_identity():
    """Its id, time, type and metadata are what they were, so a sink that knows what it has written recognises it."""
    letter = DeadLetter(origin="lines.0", position=7, path="/split.1", payload=b"x", time_ns=5, type="line", metadata={"a": "b"})
    (event,) = columns_of(letter).events()
    assert event.id == "lines.0:7/split.1"
    assert (event.payload, event.time_ns, event.type, event.metadata) == (b"x", 5, "line", {"a": "b"})
