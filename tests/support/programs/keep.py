"""A sink that appends each event's JSON to the file ``path``, on disk before it returns."""

import os
from pathlib import Path

from flowctl_sdk import Context, Event, Sink, run


class Keep(Sink):
    """At least once: after a crash the last events may stand twice."""

    async def open(self, ctx: Context) -> None:
        """Open the file for appending."""
        self.file = os.open(Path(ctx.config["path"]), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)

    async def write(self, events: list[Event]) -> None:
        """Write and sync."""
        os.write(self.file, b"".join(event.payload + b"\n" for event in events))
        os.fdatasync(self.file)

    async def close(self) -> None:
        """Close the file."""
        os.close(self.file)


run(Keep)
