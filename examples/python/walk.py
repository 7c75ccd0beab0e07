"""A source as a class: a random walk that goes on where it was, with a cursor for what a position alone does not say."""

import random
from collections.abc import AsyncIterator

from flowctl_sdk import Checkpoint, Context, Event, Source, run


class Walk(Source):
    """Steps of a random walk."""

    async def open(self, ctx: Context) -> None:
        """Take up the walk where the last checkpoint left it."""
        self._ctx = ctx
        self._place = float(ctx.checkpoint.cursor) if ctx.checkpoint else 0.0

    async def events(self) -> AsyncIterator[Event]:
        """Each step, and with it the place from which to go on."""
        for step in range(self._ctx.resume_at, self._ctx.config.get("steps", 100)):
            self._place = round(self._place + random.uniform(-1, 1), 3)
            yield Event.of({"step": step, "place": self._place}, type="step", cursor=str(self._place).encode())

    async def committed(self, checkpoint: Checkpoint) -> None:
        """Every step up to here is in every sink: a source that reads a queue would acknowledge there now."""
        self._ctx.log.debug("safe up to step %d", checkpoint.position)


if __name__ == "__main__":
    run(Walk)
