"""The same data plane without end-to-end acknowledgement, for comparison: what an ack costs is what this leaves out.

A batch is forgotten as soon as it is written to its stream, and a processor is done with its input as soon as its output is
queued. Credit stays: without it nothing would bound the buffers. Loses events whenever anything dies.
"""

from collections.abc import Sequence
from typing import Any

from flowctl_sdk import downstream, neighbours, outbox, routing, upstream
from flowctl_sdk.acks import Held
from flowctl_sdk.columns import Columns
from flowctl_sdk.credit import Allowance


class ForgetfulOutbox(outbox.Outbox):
    """Keeps nothing that was sent."""

    def take(self, allowance: Allowance) -> outbox.Entry | None:
        """The next entry, which is then forgotten."""
        entry = super().take(allowance)
        if entry is not None:
            self.acknowledge(entry.end - 1)
        return entry


def apply() -> None:
    """Change the SDK in this process."""
    dispatch = routing.Router.dispatch
    send = upstream.EventStream._send  # pyright: ignore[reportPrivateUsage]

    def forgetful_dispatch(self: routing.Router, columns: Columns, pendings: Sequence[Held]) -> None:
        del pendings
        dispatch(self, columns, [])

    async def ringing_send(self: Any, context: Any, link: upstream.Link) -> None:  # noqa: ANN401
        take = link.outbox.take

        def take_and_ring(allowance: Allowance) -> outbox.Entry | None:
            entry = take(allowance)
            if entry is not None:
                self._room.ring()
            return entry

        link.outbox.take = take_and_ring
        await send(self, context, link)

    class SilentEdge(downstream.Edge):
        """Grants credit and acknowledges nothing."""

        async def _tell(self, call: Any, window: downstream.Window) -> None:  # noqa: ANN401
            while True:
                await self._wake.wait()
                window.acknowledge(self._done_up_to)
                grant = window.grant()
                self._told_up_to = self._done_up_to
                if grant is not None:
                    credit = downstream.Credit(events=grant[0], bytes=grant[1])
                    await call.write(downstream.FromDownstream(credit=credit).SerializeToString())

    routing.Outbox = ForgetfulOutbox
    routing.Router.dispatch = forgetful_dispatch
    upstream.EventStream._send = ringing_send  # pyright: ignore[reportPrivateUsage]
    neighbours.Edge = SilentEdge
