"""A NATS server for services that run alone.

``python nats_alone.py DIRECTORY`` prints its URL and serves until SIGTERM.
"""

import asyncio
import sys
from pathlib import Path

from flowctl.journal.embedded import EmbeddedNats
from flowctl.serving import stop_signals


async def main() -> None:
    """Serve."""
    server = EmbeddedNats(Path(sys.argv[1]))
    stop = stop_signals()
    await server.start()
    sys.stdout.write(f"{server.url}\n")
    sys.stdout.flush()
    await stop.wait()
    await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
