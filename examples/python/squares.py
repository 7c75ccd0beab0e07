"""A source as a function: the squares, one after the other."""

import asyncio
from collections.abc import AsyncIterator

from flowctl_sdk import Context, run, source


@source
async def squares(ctx: Context) -> AsyncIterator[dict[str, int]]:
    """The squares from where the last start left off."""
    for n in range(ctx.resume_at, ctx.config.get("count", 100)):
        yield {"n": n, "square": n * n}
        await asyncio.sleep(ctx.config.get("every_s", 0.01))


if __name__ == "__main__":
    run(squares)
