"""A source of ``count`` numbered events, ``rate`` a second (0: as fast as they are taken)."""

import asyncio
from collections.abc import AsyncIterator

from flowctl_sdk import Context, run, source


@source
async def numbers(ctx: Context) -> AsyncIterator[object]:
    """Number n stands at position n."""
    rate = float(ctx.config.get("rate", 0))
    loop = asyncio.get_running_loop()
    begun, first = loop.time(), ctx.resume_at
    for n in range(first, int(ctx.config["count"])):
        if rate:
            ahead = (n - first) / rate - (loop.time() - begun)
            if ahead > 0:
                await asyncio.sleep(ahead)
        yield {"n": n}


run(numbers)
