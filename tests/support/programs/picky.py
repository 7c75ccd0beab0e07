"""A processor that fails on what the file ``rules`` says: ``{"bad": [3, 7]}``, read at the start. ``batch``: a list at once."""

import json
from pathlib import Path
from typing import Any

from flowctl_sdk import Context, Event, Processor, run


class Picky(Processor):
    """Passes everything else on."""

    async def open(self, ctx: Context) -> None:
        """Read the rules."""
        self.bad = set(json.loads(Path(ctx.config["rules"]).read_text())["bad"])
        self.batch = bool(ctx.config.get("batch"))

    def process(self, event: Any) -> object:
        """Raise on the bad ones."""
        return [self.one(each) for each in event] if self.batch else self.one(event)

    def one(self, event: Event) -> object:
        """Raise on a bad one."""
        if event.json()["n"] in self.bad:
            raise ValueError(f"{event.json()['n']} is bad")
        return event.json()


run(Picky)
