"""The registry of a schedule: hands out the addresses of proxies, keeps dead letters, and every account that it was given."""

import asyncio
from collections.abc import AsyncIterator

from chaos.balance import Account, End, Share, unbalanced
from chaos.proxy import Gates
from flowctl.control.v1 import control_pb2 as control
from support.registry_fake import FakeRegistry, Key, Node, ServicerContext

SHOWN = 5


class GatedRegistry(FakeRegistry):
    """Tells everybody the address of a proxy in place of the instance's own. ``fenced`` refuses superseded incarnations.

    ``accounts`` are the last counters of each incarnation, ``letters`` the dead letters as (component, event id, attempts),
    ``problems`` the heartbeats whose counters did not add up, ``beats`` how many were looked at.
    """

    def __init__(self, graph: dict[str, Node], gates: Gates, *, fenced: bool) -> None:
        super().__init__(graph, heartbeat_ms=100)
        self.gates = gates
        self.fenced = fenced
        self.accounts: dict[tuple[Key, int], Account] = {}
        self.letters: list[tuple[str, str, int]] = []
        self.problems: list[str] = []
        self.beats = 0

    async def RegisterComponent(  # noqa: N802
        self, request: control.RegisterComponentRequest, context: ServicerContext
    ) -> control.RegisterComponentResponse:
        key = (request.instance.component, request.instance.index)
        known = self.known.get(key)
        if request.address and (known is None or request.instance.incarnation >= known.incarnation):
            request.address = self.gates.lead(key, request.address)
        return await super().RegisterComponent(request, context)

    async def Heartbeat(  # noqa: N802
        self, request: control.HeartbeatRequest, context: ServicerContext
    ) -> control.HeartbeatResponse:
        response = await super().Heartbeat(request, context)
        account = account_of(request)
        self.beats += 1
        self.accounts[(request.instance.component, request.instance.index), request.instance.incarnation] = account
        if len(self.problems) < SHOWN:
            self.problems += unbalanced(account)
        return response

    async def PutDeadLetter(  # noqa: N802
        self, request: control.PutDeadLetterRequest, context: ServicerContext
    ) -> control.PutDeadLetterResponse:
        component, _ = await self._check(request.instance, context)
        letter = request.letter
        self.letters.append((component, f"{letter.origin}:{letter.position}{letter.path}", letter.attempts))
        return control.PutDeadLetterResponse(number=len(self.letters))

    async def WatchRedrives(  # noqa: N802
        self, request: control.WatchRedrivesRequest, context: ServicerContext
    ) -> AsyncIterator[control.Redrive]:
        await self._check(request.instance, context)
        yield control.Redrive(caught_up=True)
        await asyncio.Event().wait()

    async def _check(self, instance: control.Instance, context: ServicerContext, *, known: bool = True) -> Key:
        key = (instance.component, instance.index)
        if not self.fenced and key in self.known:
            return key
        return await super()._check(instance, context, known=known)


def account_of(request: control.HeartbeatRequest) -> Account:
    """A heartbeat's counters."""
    reason = control.DeregisterReason.Name(request.ending).removeprefix("DEREGISTER_REASON_").lower()
    return Account(
        instance=f"{request.instance.component}.{request.instance.index}",
        incarnation=request.instance.incarnation,
        ending="" if reason == "unspecified" else reason,
        counters=dict(request.metrics),
        ends=[
            End(
                peer=edge.peer,
                out=edge.direction == control.DIRECTION_OUT,
                events=edge.events_total,
                acked=edge.acked_total,
                in_flight=edge.in_flight,
                superseded=edge.superseded_total,
                dropped=edge.dropped_total,
                sequence=(edge.sender_incarnation, edge.epoch),
                next=edge.next_offset,
                done=edge.done_offset,
            )
            for edge in request.edges
        ],
        shares=[
            Share(
                component=group.component,
                offered=group.offered_total,
                acked=group.acked_total,
                in_flight=group.in_flight,
                dropped=group.dropped_total,
                skipped=group.skipped_total,
            )
            for group in request.groups
        ],
    )
