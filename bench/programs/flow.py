"""The programs of the throughput bench, written as an author writes them: ``flow.py ROLE [--unacked]``.

``source`` yields payloads of ``size`` bytes as fast as they are taken; ``def``, ``async``, ``list`` and ``async-list`` are
processors that pass on what they get, an event or a batch at a time; ``sink`` counts.
"""

import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from tally import Tally

from flowctl_sdk import Context, Event, Sink, processor, run, source
from flowctl_sdk.author import Component


@source
async def flood(ctx: Context) -> AsyncGenerator[bytes]:
    """Payloads that differ in their first bytes, so that a key can be made of them."""
    size, kinds = int(ctx.config["size"]), int(ctx.config.get("kinds", 1))
    payloads = [(b"%d;" % kind).ljust(size, b"x") for kind in range(kinds)]
    while True:
        for payload in payloads:
            yield payload


@processor
def each(event: Event) -> bytes:
    """The plain function that the headline is about."""
    return event.payload


@processor
async def each_async(event: Event) -> bytes:
    """The same as a coroutine."""
    return event.payload


@processor(batch=True)
def batch(events: list[Event]) -> list[bytes]:
    """The same for a list."""
    return [event.payload for event in events]


@processor(batch=True)
async def batch_async(events: list[Event]) -> list[bytes]:
    """The same for a list, as a coroutine."""
    return [event.payload for event in events]


class Counter(Sink):
    """Counts events and bytes."""

    async def open(self, ctx: Context) -> None:
        """Open the tally of this instance."""
        self.tally = Tally(Path(ctx.config["directory"]) / f"{ctx.instance.component}.{ctx.instance.index}.tally")

    async def write(self, events: list[Event]) -> None:
        """Count a batch."""
        self.tally.add(len(events), sum(len(event.payload) for event in events))

    async def close(self) -> None:
        """Write the last totals."""
        self.tally.close()


ROLES: dict[str, Component | type[Component]] = {
    "source": flood,
    "def": each,
    "async": each_async,
    "list": batch,
    "async-list": batch_async,
    "sink": Counter,
}

if "--unacked" in sys.argv:
    import unacked

    unacked.apply()
run(ROLES[sys.argv[1]])
