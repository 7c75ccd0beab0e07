"""Work that begins where it arrives: nobody can tell that it did."""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any

import pytest

from flowctl_sdk.acks import AckLog
from flowctl_sdk.columns import Columns, Names
from flowctl_sdk.inbox import AT_ONCE_NS, Arrival, Inbox
from flowctl_sdk.signals import Begun, Place
from support.polling import eventually

WHERE: contextvars.ContextVar[str] = contextvars.ContextVar("where", default="nowhere")


def arrival(position: int) -> Arrival:
    acks: AckLog[int] = AckLog(lambda _: None)
    return Arrival(Columns([b"x"], [1], [position], Names(["s.0"]), Names(), Names(), {}), acks.open(position))


async def test_a_step_is_taken_at_once_and_the_rest_awaited():
    """What needs no waiting is done when it is begun; what waits goes on where it is awaited."""
    seen: list[str] = []

    async def work(wait: bool) -> None:
        seen.append("begun")
        if wait:
            await asyncio.sleep(0.001)
        seen.append("done")

    assert Begun(work(wait=False)).done
    assert seen == ["begun", "done"]
    begun = Begun(work(wait=True))
    assert seen[2:] == ["begun"]
    assert not begun.done
    await begun
    assert seen[2:] == ["begun", "done"]


async def test_errors_and_cancellation_arrive_where_it_is_awaited():
    """An error of the first step is raised by the awaiter; a cancellation of the awaiter reaches the coroutine."""

    async def fails() -> None:
        raise ValueError("at once")

    begun = Begun(fails())
    assert begun.failed
    with pytest.raises(ValueError, match="at once"):
        await begun
    cleaned: list[bool] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.append(True)

    async def rest(work: Begun) -> None:
        await work

    task = asyncio.create_task(rest(Begun(waits())))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == [True]


async def test_an_author_finds_the_same_task_and_context_all_along():
    """The first step runs as the worker: a timeout, and a context variable that is reset after waiting, belong to it."""
    seen: list[tuple[object, str]] = []

    async def author() -> None:
        token = WHERE.set("in the author's code")
        async with asyncio.timeout(10):
            seen.append((asyncio.current_task(), WHERE.get()))
            await asyncio.sleep(0.001)
            seen.append((asyncio.current_task(), WHERE.get()))
        WHERE.reset(token)

    handed: asyncio.Future[Begun] = asyncio.get_running_loop().create_future()
    context = contextvars.copy_context()

    async def worker() -> None:
        await (await handed)

    task = asyncio.create_task(worker(), context=context)
    await asyncio.sleep(0)
    me = asyncio.current_task()
    work: Coroutine[Any, Any, None] = author()
    handed.set_result(Begun(work, Place(task, context)))
    assert asyncio.current_task() is me
    assert WHERE.get() == "nowhere"
    await task
    assert seen == [(task, "in the author's code")] * 2


async def test_an_inbox_serves_in_order_at_once_or_later():
    """One that comes to a rested worker is worked on before ``put`` returns; those that come meanwhile wait, in order."""
    handled: list[int] = []
    gate = asyncio.Event()
    inbox = Inbox()

    async def handle(arrived: Arrival) -> None:
        position = arrived.columns.positions[0]
        if position == 1:
            await gate.wait()
        handled.append(position)
        inbox.finish(1)

    serving = asyncio.create_task(inbox.serve(handle))
    await asyncio.sleep(3 * AT_ONCE_NS / 1e9)
    inbox.put(arrival(0))
    assert handled == [0]
    assert inbox.idle
    await asyncio.sleep(3 * AT_ONCE_NS / 1e9)
    for position in (1, 2, 3):
        inbox.put(arrival(position))
    assert not inbox.idle
    assert inbox.in_hand == 3
    gate.set()
    await eventually(lambda: inbox.idle, "everything worked on")
    assert handled == [0, 1, 2, 3]
    assert inbox.in_hand == 0
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_what_fails_at_once_fails_the_worker():
    """An error of the author's code ends the worker, not whoever brought the event."""
    inbox = Inbox()

    async def handle(arrived: Arrival) -> None:
        raise ValueError(f"not {arrived.columns.positions[0]}")

    serving = asyncio.create_task(inbox.serve(handle))
    await asyncio.sleep(3 * AT_ONCE_NS / 1e9)
    inbox.put(arrival(7))
    with pytest.raises(ValueError, match="not 7"):
        await serving
