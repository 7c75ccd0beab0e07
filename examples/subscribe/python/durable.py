"""Write every event down exactly once, whatever is killed: a durable consumer, with nats-py alone.

    NATS_URL=$(flowctl server status --nats-url) python durable.py audit events.jsonl 'flowctl.journal.>'

How it neither misses nor repeats an event, through its own restart and the server's:

1. The server remembers for the consumer ``audit`` what was acknowledged, and sends again what was not.
2. An event is acknowledged only when it is on disk, and the acknowledgement is itself confirmed ("double ack").
3. The stream sequence stands in the output, beside the event. Killed between writing and acknowledging, the event comes again:
   then its sequence is not above the last one written, and it is only acknowledged.
4. ``max_ack_pending=1`` keeps the order: with more under way, newer events would overtake one that is sent again, and rule 3
   would take that one for a repetition.
"""
# pyright: reportUnknownMemberType=false

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import BinaryIO

import nats
from nats.aio.msg import Msg
from nats.errors import Error
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

STREAM = "FLOWCTL_JOURNAL"
ACK_WAIT_S = 2


class Output:
    """A file of one JSON object a line; ``last`` is the stream sequence of the last one."""

    def __init__(self, path: Path) -> None:
        path.touch()
        whole = path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]  # a line that a crash cut off will come again
        self.last: int = json.loads(whole.splitlines()[-1])["seq"] if whole else 0
        self._file: BinaryIO = path.open("r+b")
        self._file.truncate(len(whole))
        self._file.seek(len(whole))

    def write(self, row: dict[str, object]) -> None:
        """Append one line; it is on disk when this returns."""
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.last = int(str(row["seq"]))


async def take(message: Msg, output: Output) -> None:
    """Write one event, unless it is written already, then acknowledge it and wait until the server has that."""
    seq = message.metadata.sequence.stream
    if seq > output.last:
        headers = message.headers or {}
        output.write({"seq": seq, "type": headers["ce-type"], "id": headers["ce-id"], "data": json.loads(message.data)})
    await message.ack_sync(timeout=ACK_WAIT_S)


async def main(name: str, path: Path, subject: str) -> None:
    """Follow for ever."""
    output = Output(path)
    client = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1, ping_interval=5)
    stream = client.jetstream()
    config = ConsumerConfig(
        durable_name=name,
        filter_subject=subject,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_S,
        max_ack_pending=1,
    )
    while True:
        try:
            await stream.add_consumer(STREAM, config)  # changes nothing if it is there
            subscription = await stream.pull_subscribe_bind(name, STREAM)
            while True:
                for message in await subscription.fetch(1, timeout=5):
                    await take(message, output)
        except (Error, TimeoutError, OSError) as error:  # nothing new for a while, or the server is away: ask again
            print(f"{type(error).__name__}: going on after {output.last}", file=sys.stderr, flush=True)
            await asyncio.sleep(0.2)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "flowctl.journal.>"))
