"""Know how everything is, then hear of every change: a snapshot, and what follows it without a gap, with nats-py alone.

    NATS_URL=$(flowctl server status --nats-url) python follow.py 'flowctl.journal.component.*.*.*.status_changed'

The journal itself is the snapshot: the last entry of each subject says how that thing is now. One consumer delivers these in the
order of their stream sequences and goes straight on with what is new, so nothing falls between the two. It lives only as long as
somebody asks it; when it is gone, or skipped something, another one begins after the last sequence that was seen.
"""
# pyright: reportUnknownMemberType=false

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator

import nats
from nats.aio.msg import Msg
from nats.errors import Error
from nats.errors import TimeoutError as NothingNew
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

STREAM = "FLOWCTL_JOURNAL"
SUBJECT = "flowctl.journal.component.*.*.*.status_changed"


def say(**row: object) -> None:
    """Print one line of JSON."""
    print(json.dumps(row), flush=True)


async def deliveries(stream: JetStreamContext, subject: str, after: int | None) -> AsyncIterator[Msg | None]:
    """The last of each subject, or from ``after`` on everything; None when there is nothing before what is to come.

    Ends when the consumer is gone or a message was lost on the way: begin another one.
    """
    if after is None:
        config = ConsumerConfig(filter_subject=subject, deliver_policy=DeliverPolicy.LAST_PER_SUBJECT)
    else:
        config = ConsumerConfig(filter_subject=subject, deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=after + 1)
    config.ack_policy, config.inactive_threshold, config.mem_storage = AckPolicy.NONE, 60, True
    info = await stream.add_consumer(STREAM, config)
    subscription = await stream.pull_subscribe_bind(info.name, STREAM)
    if info.num_pending == 0:
        yield None
    delivered = 0
    while True:
        try:
            messages = await subscription.fetch(500, timeout=5)
        except NothingNew:
            await stream.consumer_info(STREAM, info.name)  # raises if it is gone
            continue
        for message in messages:
            delivered += 1
            if message.metadata.sequence.consumer != delivered:
                return
            yield message
            if message.metadata.num_pending == 0:
                yield None


async def main(subject: str) -> None:
    """Print the snapshot, then every change."""
    client = await nats.connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1, ping_interval=5)
    stream = client.jetstream()
    after: int | None = None
    phase, known = "snapshot", 0
    while True:
        try:
            async for message in deliveries(stream, subject, after):
                if message is not None:
                    after, known = message.metadata.sequence.stream, known + 1
                    say(phase=phase, seq=after, subject=message.subject, data=json.loads(message.data))
                elif phase == "snapshot":
                    say(phase="complete", seq=after or 0, subjects=known)
                    phase = "change"
        except (Error, TimeoutError, OSError) as error:
            print(f"{type(error).__name__}: going on after {after}", file=sys.stderr, flush=True)
            await asyncio.sleep(0.2)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else SUBJECT))
