"""A processor as a class, a batch at a time: the mean of the last few places of a walk.

What it remembers is lost when it is started anew, as in any program; what it was sent and has not passed on comes again.
"""

from collections import deque
from typing import Any

from flowctl_sdk import Context, Event, Processor, run


class Smooth(Processor):
    """The mean of the last few places."""

    batch = True

    async def open(self, ctx: Context) -> None:
        """Read the configuration."""
        self._last: deque[float] = deque(maxlen=ctx.config.get("window", 5))

    def process(self, events: list[Event]) -> list[dict[str, Any]]:
        """One answer for each event, in order."""
        return [self._smoothed(event.json()) for event in events]

    def _smoothed(self, step: dict[str, Any]) -> dict[str, Any]:
        self._last.append(step["place"])
        return {**step, "mean": round(sum(self._last) / len(self._last), 3)}


if __name__ == "__main__":
    run(Smooth)
