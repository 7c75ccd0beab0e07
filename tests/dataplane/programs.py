"""The components that the data plane's tests run: ``programs.py <name>``."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from flowctl_sdk import Context, Event, Processor, Sink, Window, processor, run, sink, source


@source
async def numbers(ctx: Context) -> AsyncIterator[dict[str, int]]:
    """``count`` numbers, with a pause of ``pause_s`` after every ``burst`` of them."""
    pause_s, burst = ctx.config.get("pause_s", 0), ctx.config.get("burst", 100)
    for n in range(ctx.resume_at, ctx.config["count"]):
        yield {"n": n, "key": n % ctx.config.get("keys", 16)}
        if pause_s and n % burst == 0:
            await asyncio.sleep(pause_s)


@source
async def payloads(ctx: Context) -> AsyncIterator[bytes]:
    """``count`` payloads of ``size`` bytes."""
    payload = b"x" * ctx.config.get("size", 200)
    for _ in range(ctx.resume_at, ctx.config["count"]):
        yield payload


@source
def lines(ctx: Context) -> Iterator[str]:
    """A plain generator."""
    for n in range(ctx.resume_at, ctx.config["count"]):
        yield f"line {n}"


@processor
def double(event: Event) -> dict[str, int]:
    """Doubles n."""
    return {**event.json(), "n": event.json()["n"] * 2}


@processor
def same(event: Event) -> bytes:
    """Passes on."""
    return event.payload


@processor
def even(event: Event) -> bytes | None:
    """Keeps even numbers."""
    return event.payload if event.json()["n"] % 2 == 0 else None


@processor
def twice(event: Event) -> list[bytes]:
    """Each event two times."""
    return [event.payload, event.payload]


@processor
async def slow_same(event: Event) -> bytes:
    """Passes on, letting others run."""
    await asyncio.sleep(0)
    return event.payload


class Fails(Processor):
    """Raises on n == ``at``, the first ``times`` times."""

    def __init__(self) -> None:
        self.left = 0

    async def open(self, ctx: Context) -> None:
        self.at = ctx.config["at"]
        self.left = ctx.config.get("times", 1_000_000)

    def process(self, event: Event) -> bytes:
        if event.json()["n"] == self.at and self.left > 0:
            self.left -= 1
            raise ValueError("seven is right out")
        return event.payload


@processor(window=Window(count=10, seconds=60))
def tens(events: list[Event]) -> dict[str, object]:
    """The numbers of ten events; fewer at the end."""
    return {"n": [event.json()["n"] for event in events]}


@processor(window=Window(seconds=0.2))
def moments(events: list[Event]) -> dict[str, int]:
    """How many events a fifth of a second had."""
    return {"n": len(events)}


@processor(window=Window(count=5_000))
def too_many(events: list[Event]) -> int:
    """Cannot be kept."""
    return len(events)


class Store(Sink):
    """Appends ``<id> <payload>`` to ``path``, synced before it returns; waits ``pause_s`` for each write."""

    async def open(self, ctx: Context) -> None:
        self.pause_s = ctx.config.get("pause_s", 0)
        self.file = Path(ctx.config["path"]).open("ab", buffering=0)  # noqa: SIM115

    async def write(self, events: list[Event]) -> None:
        if self.pause_s:
            await asyncio.sleep(self.pause_s)
        self.file.write(b"".join(event.id.encode() + b" " + event.payload + b"\n" for event in events))
        os.fsync(self.file.fileno())

    async def close(self) -> None:
        self.file.close()


class Count(Sink):
    """Counts and says how many events a second arrived."""

    async def open(self, ctx: Context) -> None:
        ctx.log.info("counting")
        self.count = 0
        self.first = 0.0

    async def write(self, events: list[Event]) -> None:
        self.first = self.first or time.perf_counter()
        self.count += len(events)

    async def close(self) -> None:
        elapsed = time.perf_counter() - self.first
        sys.stdout.write(f"counted {self.count} events, {self.count / elapsed:.0f} events/s\n")


@sink
def discard(event: Event) -> None:
    """Looks at the event."""
    _ = event.payload


@sink
async def crawl(event: Event) -> None:
    """Takes an event a second."""
    _ = event.payload
    await asyncio.sleep(1)


PROGRAMS: dict[str, Any] = {
    "numbers": numbers,
    "payloads": payloads,
    "lines": lines,
    "double": double,
    "same": same,
    "even": even,
    "twice": twice,
    "tens": tens,
    "moments": moments,
    "too_many": too_many,
    "slow_same": slow_same,
    "fails": Fails,
    "store": Store,
    "count": Count,
    "discard": discard,
    "crawl": crawl,
}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(PROGRAMS[sys.argv[1]])
