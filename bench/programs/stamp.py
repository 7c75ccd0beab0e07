"""A sink that writes when each event arrived: ``<monotonic ns> <payload>`` lines to the file ``path`` of its config."""

import time
from pathlib import Path

from flowctl_sdk import Context, Event, Sink, run


class Stamp(Sink):
    """Appends one line an event, unbuffered."""

    async def open(self, ctx: Context) -> None:
        """Open the file."""
        self.file = Path(ctx.config["path"]).open("ab", buffering=0)  # noqa: SIM115 - closed in close()

    async def write(self, events: list[Event]) -> None:
        """Write the lines of a batch at once."""
        now = str(time.monotonic_ns()).encode()
        self.file.write(b"".join(b"%s %s\n" % (now, event.payload) for event in events))

    async def close(self) -> None:
        """Close the file."""
        self.file.close()


run(Stamp)
