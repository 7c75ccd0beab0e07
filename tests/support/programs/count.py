"""A source of ``count`` numbered events, ``rate`` a second (0: as fast as they are taken).

The last one comes when the file ``last_after`` is there, if there is to be one.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from flowctl_sdk import Context, run, source


@source
async def numbers(ctx: Context) -> AsyncIterator[object]:
    """Number n stands at position n."""
    rate, count, last_after = float(ctx.config.get("rate", 0)), int(ctx.config["count"]), ctx.config.get("last_after")
    loop = asyncio.get_running_loop()
    begun, first = loop.time(), ctx.resume_at
    for n in range(first, count):
        while last_after and n == count - 1 and not Path(last_after).exists():
            await asyncio.sleep(0.05)
        if rate:
            ahead = (n - first) / rate - (loop.time() - begun)
            if ahead > 0:
                await asyncio.sleep(ahead)
        yield {"n": n}


run(numbers)
