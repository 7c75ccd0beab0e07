"""A processor that puts its own incarnation into each event, so that a sink sees which run an event came through."""

from flowctl_sdk import Context, Event, Processor, run


class Relay(Processor):
    """Adds ``incarnation``."""

    async def open(self, ctx: Context) -> None:
        """Remember the incarnation."""
        self.incarnation = ctx.incarnation

    def process(self, event: Event) -> object:
        """Pass the event on."""
        return {**event.json(), "incarnation": self.incarnation}


run(Relay)
