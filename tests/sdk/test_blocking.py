"""Code that blocks runs in a thread when it says so, and the event loop goes on."""

import asyncio
import threading

import pytest

from flowctl.spec.model import Backoff, OnError
from flowctl_sdk import Event, processor, sink
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
