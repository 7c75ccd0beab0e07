"""Hear of events as they happen: a plain NATS subscription, with nats-py alone.

    NATS_URL=$(flowctl server status --nats-url) python plain.py 'flowctl.journal.component.*.*.*.exited'

Nobody remembers what was published while this program did not run; durable.py does not miss anything.
"""
# pyright: reportUnknownMemberType=false

import asyncio
import json
import os
import sys

import nats
from nats.aio.msg import Msg

SUBJECT = "flowctl.journal.component.*.*.*.exited"


async def main(subject: str) -> None:
    """Print one line of JSON for each event, until somebody presses Ctrl-C."""

    async def show(message: Msg) -> None:
        headers = message.headers or {}
        print(json.dumps({"type": headers["ce-type"], "of": headers["ce-subject"], "data": json.loads(message.data)}), flush=True)

    client = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1, ping_interval=5)
    await client.subscribe(subject, cb=show)
    await client.flush()
    print("listening", file=sys.stderr, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else SUBJECT))
