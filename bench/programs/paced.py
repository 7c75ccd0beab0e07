"""The programs of the latency bench: ``paced.py ROLE``.

``source`` yields ``rate`` events a second, each beginning with the moment at which it was due (CLOCK_MONOTONIC, eight bytes):
whatever holds the source up counts, so nothing is hidden by a pause. ``sink`` writes the latency of each event, four bytes of
microseconds, in the order of arrival. With ``every_ms`` in its config the source is idle between single events instead.
"""

import sys
import time
from array import array
from collections.abc import Generator
from pathlib import Path

from flowctl_sdk import Context, Event, Sink, processor, run, source
from flowctl_sdk.author import Component

TICK_NS = 1_000_000


@source
def paced(ctx: Context) -> Generator[bytes]:
    """A burst every millisecond, or a single event now and then."""
    filler = bytes(192)
    due = time.monotonic_ns()
    tick_ns = int(float(ctx.config.get("every_ms", 1)) * 1e6)
    burst = 1 if "every_ms" in ctx.config else int(ctx.config["rate"]) * TICK_NS // 1_000_000_000
    while True:
        due += tick_ns
        wait_ns = due - time.monotonic_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / 1e9)
        if "every_ms" in ctx.config:
            # Nothing can be held up here, and how late the clock woke this program is not the pipeline's.
            due = time.monotonic_ns()
        stamp = due.to_bytes(8, "little") + filler
        for _ in range(burst):
            yield stamp


@processor
def same(event: Event) -> bytes:
    """Pass the event on."""
    return event.payload


class Clock(Sink):
    """Writes how old each event is."""

    async def open(self, ctx: Context) -> None:
        """Open the file."""
        self.file = Path(ctx.config["path"]).open("ab", buffering=0)  # noqa: SIM115 - closed in close()

    async def write(self, events: list[Event]) -> None:
        """Write the ages of a batch, at the moment at which it came."""
        now = time.monotonic_ns()
        ages = [(now - int.from_bytes(event.payload[:8], "little")) // 1_000 for event in events]
        self.file.write(array("I", ages).tobytes())

    async def close(self) -> None:
        """Close the file."""
        self.file.close()


ROLES: dict[str, Component | type[Component]] = {"source": paced, "processor": same, "sink": Clock}

if __name__ == "__main__":
    run(ROLES[sys.argv[1]])
