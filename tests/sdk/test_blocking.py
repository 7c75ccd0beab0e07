"""Code that blocks runs in a thread when it says so, and the event loop goes on."""

import asyncio
import threading
import time

import pytest

from flowctl.spec.model import Backoff, OnError
from flowctl_sdk import Event, calls, processor, sink
from flowctl_sdk.testing import consume, process


@pytest.mark.parametrize("batch", [False, True])
async def test_the_loop_goes_on_while_code_blocks(batch: bool):
    """A function that waits for something which only the loop can do gets it, in a processor and in a sink."""
    reached = threading.Event()

    def wait(events: list[Event]) -> list[bytes]:
        assert reached.wait(20), "the loop stood still"
        return [event.payload for event in events]

    def wait_for_one(event: Event) -> bytes:
        return wait([event])[0]

    component = processor(batch=True, blocking=True)(wait) if batch else processor(blocking=True)(wait_for_one)
    storing = sink(batch=True, blocking=True)(wait) if batch else sink(blocking=True)(wait_for_one)
    asyncio.get_running_loop().call_later(0.05, reached.set)
    assert [event.payload for event in await process(component, [b"a", b"b"])] == [b"a", b"b"]
    reached.clear()
    asyncio.get_running_loop().call_later(0.05, reached.set)
    await consume(storing, [b"a", b"b"])


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("batch", [False, True])
async def test_what_is_async_behind_a_def_is_awaited(batch: bool, blocking: bool):
    """An async sink behind a plain decorator has stored its events, in order, when it is done; so it may fail and try again."""
    stored: list[bytes] = []
    failures = 2

    async def store(events: list[Event]) -> None:
        nonlocal failures
        await asyncio.sleep(0)
        for event in events:
            if event.payload == b"40" and failures:
                failures -= 1
                raise ValueError("not yet")
        stored.extend(event.payload for event in events)

    def logged(event: Event) -> object:
        return None if event.payload == b"3" else store([event])

    def logged_batch(events: list[Event]) -> object:
        return store(events)

    component = sink(batch=True, blocking=blocking)(logged_batch) if batch else sink(blocking=blocking)(logged)
    payloads = [b"%d" % n for n in range(100)]
    await consume(component, payloads, on_error=OnError(action="retry", attempts=2, backoff=Backoff(initial_s=0.0, max_s=0.0)))
    assert stored == [payload for payload in payloads if batch or payload != b"3"]
    assert not failures


async def test_the_loop_goes_on_between_batches(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """A ``def`` that takes batches has the loop for some milliseconds, and not until all that has arrived is done.

    One that keeps it for long is named in the log, once.
    """
    monkeypatch.setattr(calls, "SLOW_NS", 150_000_000)
    turns = done = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def slow(events: list[Event]) -> None:
        nonlocal done
        time.sleep(0.002 if done < 12 else 0.2)
        done += len(events)

    call = calls.BatchCall(slow, calls.Failures(OnError()), blocking=False)
    counting = asyncio.create_task(count_turns())
    for _ in range(12):
        await call([Event(b"x")])
    assert turns >= 2
    assert "held up everything else" not in caplog.text
    before = turns
    for _ in range(2):
        await call([Event(b"x")] * 2)
    assert turns >= before + 2
    counting.cancel()
    assert caplog.text.count("one call with 2 events took") == 1
