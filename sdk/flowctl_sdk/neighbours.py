"""The instances around this one: follows the topology, dials upstreams, serves downstreams, knows when nothing can follow."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final

import grpc
import grpc.aio

from flowctl.control.v1 import control_pb2 as control
from flowctl.ids import InstanceId
from flowctl_sdk.downstream import Edge
from flowctl_sdk.drops import DropWarnings
from flowctl_sdk.inbox import Inbox
from flowctl_sdk.routing import GroupSpec, Router
from flowctl_sdk.signals import Bell
from flowctl_sdk.upstream import EventStream
from flowctl_sdk.wire import SERVER_OPTIONS, peer

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]

CLOSE_GRACE_S: Final = 0.25
PART_TIMEOUT_S: Final = 2.0

_log = logging.getLogger("flowctl.instance")


class Newest:
    """Which topology is the newest? Registries read one journal, and one of them may lag, or be cut off from it."""

    def __init__(self) -> None:
        self._sequence = 0
        self._registrations = 0

    def admits(self, sequence: int, registrations: int) -> bool:
        """Whether to apply a topology of this journal sequence (0 is unknown), after so many registrations.

        An instance registers again when the journal does not know it: that is another journal, and its sequences start afresh.
        An equal sequence is admitted: what is the same is applied twice without harm.
        """
        if registrations != self._registrations:
            self._registrations, self._sequence = registrations, 0
        if not sequence:
            return True
        newest = self._sequence = max(sequence, self._sequence)
        return sequence == newest


class Neighbours:
    """The data plane of one instance.

    ``room`` is rung when routing may go on: an acknowledgement, a topology. ``settled`` is rung when something is done that an
    ending may wait for. ``spawn`` runs a task whose error ends the instance. ``alone`` is an instance without a registry: whoever
    dials is served, and only the streams themselves tell that nothing follows.
    """

    def __init__(self, me: InstanceId, incarnation: int, spawn: Spawn, *, alone: bool) -> None:
        self._me = me
        self._incarnation = incarnation
        self._spawn = spawn
        self._alone = alone
        self._completed = False
        self._closing = False
        self._server: grpc.aio.Server | None = None
        self.room = Bell()
        self.settled = Bell()
        self.inbox = Inbox(self.settled.ring)
        self.edges: dict[tuple[str, int], Edge] = {}
        self.router = Router(time.monotonic_ns, DropWarnings(time.monotonic_ns))
        self._stream = EventStream(me, incarnation, self.router, self.room, self.settled, admit=self._admit if alone else None)

    # -- serving and dialling ------------------------------------------------------------------------------------------

    async def serve(self, listen: str) -> int:
        """Start the data plane's server at ``host:port``; returns the port.

        Raises:
            OSError: if it cannot be bound.
        """
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers((self._stream.handler(),))
        try:
            port = server.add_insecure_port(listen)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {listen}: {error}") from error
        await server.start()
        self._server = server
        return port

    async def close(self) -> None:
        """Stop serving; streams that are open end with OK."""
        if self._server is not None:
            self._stream.close()
            await self._server.stop(CLOSE_GRACE_S)

    def apply(self, topology: control.Topology) -> None:
        """Take a topology: who is downstream, and where the upstreams are."""
        _log.debug("topology received: %s", describe(topology))
        for group in topology.downstreams:
            for instance in group.instances:
                self._stream.expect(instance.component, instance.index, instance.incarnation)
        self._route([_group_spec(group) for group in topology.downstreams])
        wanted: set[tuple[str, int]] = set()
        for upstream in topology.upstreams:
            instance = upstream.instance
            key = (instance.component, instance.index)
            wanted.add(key)
            edge = self.edges.get(key) or self._connect(
                key, InstanceId(instance.pipeline, instance.component, instance.index), instance.incarnation
            )
            edge.ended |= upstream.completed
            edge.move("" if upstream.completed else upstream.address, instance.incarnation)
        for key in [key for key in self.edges if key not in wanted]:
            self._spawn(self._part(self.edges.pop(key)))
        self._completed = bool(topology.upstreams) and all(upstream.completed for upstream in topology.upstreams)
        self.settled.ring()

    def dial(self, addresses: tuple[str, ...]) -> None:
        """Without a topology: receive from whoever listens at these addresses."""
        for number, address in enumerate(addresses):
            self._connect((f"input-{number}", 0), InstanceId("", "", 0), 0).move(address, 0)

    def _connect(self, key: tuple[str, int], upstream: InstanceId, incarnation: int) -> Edge:
        edge = Edge(peer(self._me, self._incarnation), peer(upstream, incarnation), self.inbox, self.settled)
        self.edges[key] = edge
        edge.task = self._spawn(edge.run())
        return edge

    def _admit(self, component: str, index: int) -> None:
        groups = {name: group.spec for name, group in self.router.groups.items()}
        members = groups[component].members if component in groups else ()
        groups[component] = GroupSpec(component, tuple(sorted({*members, index})))
        self._route(list(groups.values()))

    def _route(self, specs: list[GroupSpec]) -> None:
        self.router.apply(specs)
        self._stream.members_changed()
        self.room.ring()

    # -- how far things are --------------------------------------------------------------------------------------------

    @property
    def retired(self) -> bool:
        """Whether nothing can come any more, and nothing of this instance is unacknowledged."""
        over = self._completed or (
            self._alone and self._upstreams_ended and all(edge.in_flight == 0 for edge in self.edges.values())
        )
        return over and self.idle and self.end_known

    @property
    def drained(self) -> bool:
        """Whether an instance that stops has nothing more to wait for.

        A downstream that has left will not acknowledge what it was sent. An upstream of ours sends the inputs of that again.
        """
        return self.inbox.idle and self.router.awaited == 0 and all(edge.told for edge in self.edges.values())

    @property
    def idle(self) -> bool:
        """Whether what has come is worked off, passed on and acknowledged in both directions."""
        return self.inbox.idle and self.router.outstanding == 0 and all(edge.told for edge in self.edges.values())

    @property
    def end_known(self) -> bool:
        """Whether downstreams know that nothing follows; with a registry it is the topology that tells them."""
        return not self._alone or self._server is None or (self.router.finished and self._stream.end_told)

    @property
    def in_flight(self) -> int:
        """Events received and sent that are not acknowledged."""
        return self.router.outstanding + sum(edge.in_flight for edge in self.edges.values())

    @property
    def _upstreams_ended(self) -> bool:
        return bool(self.edges) and all(edge.ended for edge in self.edges.values())

    def close_intake(self) -> None:
        """Take nothing more in; go on acknowledging."""
        self._closing = True
        for edge in self.edges.values():
            edge.close_intake()
        self.settled.ring()

    async def _part(self, edge: Edge) -> None:
        """Work off what came from an upstream that is no longer one, if it does not take long, and take leave of it."""
        edge.close_intake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PART_TIMEOUT_S):
                await self.settled.until(lambda: edge.in_flight == 0)
        await edge.leave()

    async def leave(self) -> None:
        """Take leave of the upstreams: they know then what is done."""
        await asyncio.gather(*(edge.leave() for edge in self.edges.values()))

    @property
    def intake_over(self) -> bool:
        """Whether nothing more comes in for now: all inputs have ended, or the instance stops."""
        return self._closing or self._upstreams_ended

    async def pass_on_the_end(self) -> None:
        """Say that nothing follows once all inputs have said so and everything is worked off; a restarted input takes it back."""
        while True:
            await self.settled.until(lambda: not self.router.finished and self._upstreams_ended and self.inbox.idle)
            self.router.finish()


def describe(topology: control.Topology) -> str:
    """The topology in one line, for the log."""
    parts = [
        f"from {upstream.instance.component}.{upstream.instance.index} "
        + ("(completed)" if upstream.completed else f"at {upstream.address or '(not up)'}")
        for upstream in topology.upstreams
    ]
    parts += [f"to {group.component} x{len(group.instances)}" for group in topology.downstreams]
    return ", ".join(parts) or "no neighbours"


def _group_spec(group: control.DownstreamGroup) -> GroupSpec:
    members = tuple(sorted(instance.index for instance in group.instances))
    return GroupSpec(group.component, members, group.partition_by, group.when_full == control.WHEN_FULL_DROP)
