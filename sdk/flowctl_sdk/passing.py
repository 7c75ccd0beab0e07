"""Passing outputs on: a part at a time, each when there is room for it."""

import asyncio
from collections.abc import Sequence

from flowctl_sdk.acks import Held
from flowctl_sdk.columns import Columns
from flowctl_sdk.routing import Router, chunks
from flowctl_sdk.signals import Bell


async def pass_on(router: Router, room: Bell, columns: Columns, pendings: Sequence[Held]) -> None:
    """Dispatch a batch of any size, so that no outbox holds more than its bound and the one part that fills it.

    ``room`` is rung when the router may have become ready. Between two parts the loop has its turn: a downstream whose edge drops
    is not waited for, but what it was given can be sent, and what it acknowledged makes room.

    Raises:
        EventTooLargeError: if an event does not fit into a message.
    """
    for number, part in enumerate(chunks(columns)):
        if number:
            await asyncio.sleep(0)
        if not router.ready:
            await room.until(lambda: router.ready)
        router.dispatch(part, pendings)
