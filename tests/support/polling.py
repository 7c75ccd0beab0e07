"""Waiting for a condition, with a deadline, instead of sleeping and hoping."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(condition: Callable[[], bool], what: str, *, timeout_s: float = 10.0) -> None:
    """Return once ``condition`` holds; fail saying ``what`` was waited for if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(0.002)


async def take(count: int, items: AsyncIterator[T], *, timeout_s: float = 10.0) -> list[T]:
    """The next ``count`` items of an endless iterator, within the time."""
    taken: list[T] = []
    async with asyncio.timeout(timeout_s):
        while len(taken) < count:
            taken.append(await anext(items))
    return taken
