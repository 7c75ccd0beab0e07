"""The components of the schedules: ``programs.py <name>``. With ``CHAOS_SABOTAGE`` the SDK in this process is broken first."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import flowctl_sdk.outbox
import flowctl_sdk.runtime
import flowctl_sdk.wire
from flowctl_sdk import Context, Event, Sink, Window, processor, run, source
from flowctl_sdk.inbox import Arrival, Inbox
from flowctl_sdk.runtime import Runtime
from flowctl_sdk.upstream import EventStream

# So that a schedule takes seconds: checkpoints ten times as often, a dead connection noticed after a second.
CHECKPOINT_INTERVAL_S = 0.1
BAD_EVERY, BAD_REST = 251, 7
KEEPALIVE_MS = {"grpc.keepalive_time_ms": 500, "grpc.keepalive_timeout_ms": 500, "grpc.http2.ping_timeout_ms": 1_000}


@source
async def numbered(ctx: Context) -> AsyncIterator[Event]:
    """``count`` numbered events with a key, paced until the file ``calm`` appears; the last one waits for it with ``hold``."""
    calm = Path(ctx.config["calm"])
    pause_s, burst, keys = ctx.config["pause_s"], ctx.config["burst"], ctx.config["keys"]
    hold, count = ctx.config.get("hold", False), ctx.config["count"]
    for n in range(ctx.resume_at, count):
        while hold and n == count - 1 and not calm.exists():
            await asyncio.sleep(0.05)
        key = f"k{n * 7_919 % keys}"
        yield Event.of({"n": n, "k": key}, metadata={"k": key})
        if n % burst == burst - 1 and not calm.exists():
            await asyncio.sleep(pause_s)


@processor
def same(event: Event) -> bytes:
    """Passes on."""
    return event.payload


@processor
def twice(event: Event) -> list[bytes]:
    """Each event two times."""
    return [event.payload, event.payload]


@processor
def some(event: Event) -> bytes | None:
    """Not those whose number three divides."""
    return event.payload if event.json()["n"] % 3 else None


@processor
async def slow(event: Event) -> bytes:
    """Lets others run at every event."""
    await asyncio.sleep(0)
    return event.payload


@processor(batch=True)
async def batched(events: list[Event]) -> list[bytes]:
    """A batch at a time."""
    return [event.payload for event in events]


@processor
def picky(event: Event) -> bytes:
    """Fails on a few."""
    if event.json()["n"] % BAD_EVERY == BAD_REST:
        raise ValueError(f"{event.id} is bad")
    return event.payload


def windowed(count: int) -> Any:
    """Makes one event of each window, which says what it was made of."""

    @processor(window=Window(count=count, seconds=0.5))
    def gathered(events: list[Event]) -> dict[str, Any]:
        return {"of": [{"id": event.id, **event.json()} for event in events]}

    return gathered


class Store(Sink):
    """Appends ``<id> <n> <k> <monotonic ns>`` lines to ``<directory>/<component>.<index>.<incarnation>``.

    What a window was made of is written one by one, each with the id that it would have had by itself. There is one file for
    each incarnation: a line that a kill cut short is the last of its file. What is written survives the process (not the
    machine, which no schedule kills), so nothing is synced.
    """

    async def open(self, ctx: Context) -> None:
        name = f"{ctx.instance.component}.{ctx.instance.index}.{ctx.incarnation}"
        self.pause_s = ctx.config["pause_ms"] / 1000
        self.file = os.open(Path(ctx.config["directory"]) / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def write(self, events: list[Event]) -> None:
        if self.pause_s:
            await asyncio.sleep(self.pause_s)
        now_ns = time.monotonic_ns()
        lines: list[str] = []
        for event in events:
            document = event.json()
            if "of" in document:
                step = event.path.rpartition("/")[2]
                lines += [f"{each['id']}/{step} {each['n']} {each['k']} {now_ns}\n" for each in document["of"]]
            else:
                lines.append(f"{event.id} {document['n']} {document['k']} {now_ns}\n")
        data = "".join(lines).encode()
        while data:
            data = data[os.write(self.file, data) :]


def hasten() -> None:
    """Shorten the SDK's intervals, and an edge's outbox to ``CHAOS_OUTBOX`` events."""
    assert flowctl_sdk.outbox.OUTBOX_EVENTS > 0
    flowctl_sdk.outbox.OUTBOX_EVENTS = int(os.environ["CHAOS_OUTBOX"])  # pyright: ignore[reportAttributeAccessIssue]
    flowctl_sdk.runtime.CHECKPOINT_INTERVAL_S = CHECKPOINT_INTERVAL_S  # pyright: ignore[reportAttributeAccessIssue]
    for options in (flowctl_sdk.wire.CHANNEL_OPTIONS, flowctl_sdk.wire.SERVER_OPTIONS):
        options[:] = [(name, KEEPALIVE_MS.get(name, value)) for name, value in options]


def acknowledge_early() -> None:
    """Acknowledge what has arrived before it is worked on."""
    put = Inbox.put

    def early(self: Inbox, arrival: Arrival) -> None:
        put(self, arrival)
        arrival.pending.release()

    Inbox.put = early


def checkpoint_ahead() -> None:
    """Commit what was emitted, whether or not any sink has it."""
    commit: Any = Runtime._commit  # pyright: ignore[reportPrivateUsage]

    async def ahead(self: Any) -> None:
        if self._production is not None and self._mark is not None:
            position = self._production._numbering.next - 1
            self._mark = type(self._mark)(position, self._mark.cursor)
        await commit(self)

    Runtime._commit = ahead  # pyright: ignore[reportPrivateUsage]


def fence_off() -> None:
    """Serve downstreams of any incarnation."""
    check: Any = EventStream._check  # pyright: ignore[reportPrivateUsage]

    def unfenced(self: Any, hello: Any) -> None:
        self._seen.clear()
        check(self, hello)

    EventStream._check = unfenced  # pyright: ignore[reportPrivateUsage]


SABOTAGE = {"acks-early": acknowledge_early, "checkpoints-ahead": checkpoint_ahead, "fence-off": fence_off}
PROGRAMS: dict[str, Any] = {
    "numbered": numbered,
    "same": same,
    "twice": twice,
    "some": some,
    "slow": slow,
    "batched": batched,
    "picky": picky,
    "windowed": windowed,
    "store": Store,
}

if __name__ == "__main__":
    hasten()
    if sabotage := os.environ.get("CHAOS_SABOTAGE"):
        SABOTAGE[sabotage]()
    name, *arguments = sys.argv[1:]
    run(PROGRAMS[name](*map(int, arguments)) if arguments else PROGRAMS[name])
