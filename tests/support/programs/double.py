"""A processor that doubles ``n`` (or multiplies it by ``factor``) and says which instance of it did."""

from flowctl_sdk import Context, Event, Processor, run


class Double(Processor):
    """Doubles."""

    async def open(self, ctx: Context) -> None:
        """Remember who runs, and by what to multiply."""
        self.factor = int(ctx.config.get("factor", 2))
        self.who = f"{ctx.instance.component}.{ctx.instance.index}"

    def process(self, event: Event) -> object:
        """One in, one out."""
        return {**event.json(), "double": event.json()["n"] * self.factor, "by": self.who}


run(Double)
