"""A processor that doubles ``n`` and says which incarnation of it did."""

from flowctl_sdk import Context, Event, Processor, run


class Double(Processor):
    """Doubles."""

    async def open(self, ctx: Context) -> None:
        """Remember who runs."""
        self.who = f"{ctx.instance.component}.{ctx.instance.index}"

    def process(self, event: Event) -> object:
        """One in, one out."""
        return {**event.json(), "double": event.json()["n"] * 2, "by": self.who}


run(Double)
