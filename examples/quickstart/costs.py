"""A processor: lets the strikes through that cost money, and says what hit what, when, where and for how much."""

from typing import Any

from flowctl_sdk import Context, Event, Processor, run

BANDS = ((1_000_000, "above a million"), (100_000, "above a hundred thousand"), (10_000, "above ten thousand"), (0, "less"))


def priced(row: dict[str, str], at_least_dollars: int) -> dict[str, Any] | None:
    """The strike of one row of the file, or None if it cost less than ``at_least_dollars``."""
    dollars = int(row["Cost Total $"] or 0)
    if dollars < at_least_dollars:
        return None
    speed = row["Speed IAS in knots"]
    return {
        "date": row["Flight Date"],
        "airport": row["Airport Name"].title(),
        "aircraft": row["Aircraft Make Model"],
        "species": row["Wildlife Species"],
        "speed_knots": int(speed) if speed else None,
        "dollars": dollars,
        "band": next(name for limit, name in BANDS if dollars >= limit),
    }


class Costs(Processor):
    """Lets the strikes through that cost money."""

    async def open(self, ctx: Context) -> None:
        """Read the configuration."""
        self._at_least_dollars = int(ctx.config.get("at_least_dollars", 1))

    def process(self, event: Event) -> dict[str, Any] | None:
        """One event in; one out, or none."""
        return priced(event.json(), self._at_least_dollars)


if __name__ == "__main__":
    run(Costs)
