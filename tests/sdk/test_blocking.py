"""Code that blocks runs in a thread when it says so, and the event loop goes on."""

import asyncio
import threading

import pytest

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
