"""A small registry with a real gRPC server: what a component needs of the control plane, for tests of the data plane alone.

It knows a graph of components, gives every registered instance its topology and pushes changes, keeps checkpoints, and remembers
every request. It runs in a thread with a loop of its own, so that a busy test does not slow it down.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import grpc.aio

from flowctl.control.v1 import control_pb2 as control
from flowctl.control.v1 import control_pb2_grpc as control_grpc

Key = tuple[str, int]
T = TypeVar("T")
ServicerContext = Any


@dataclass
class Node:
    """A component of the graph."""

    kind: str
    inputs: tuple[str, ...] = ()
    replicas: int = 1
    partition_by: str = ""
    when_full: int = 0


@dataclass
class Known:
    """What was registered of an instance."""

    incarnation: int
    address: str
    completed: bool = False
    ended: str = ""
    heartbeats: list[control.HeartbeatRequest] = field(default_factory=list[control.HeartbeatRequest])


class FakeRegistry(control_grpc.ComponentRegistryServicer):
    """``graph`` may be changed by ``update``; everything else is read only.

    ``behind``: its topologies have a sequence so much lower, as those of a registry that lags.
    ``keeps_leaving``: an instance that was scaled away stays an upstream until it has ended, as with the real registry.
    """

    def __init__(self, graph: dict[str, Node], *, pipeline: str = "test", heartbeat_ms: int = 200) -> None:
        self.graph = graph
        self.pipeline = pipeline
        self.heartbeat_ms = heartbeat_ms
        self.behind = 0
        self.keeps_leaving = False
        self.known: dict[Key, Known] = {}
        self.checkpoints: dict[Key, list[tuple[int, bytes]]] = {}
        self.deregistered: list[tuple[Key, str, str]] = []
        self.registrations: list[control.RegisterComponentRequest] = []
        self.address = ""
        self._sequence = 0
        self._changed: set[asyncio.Event] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="registry", daemon=True)
        self._server: grpc.aio.Server | None = None
        self._port = 0

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> "FakeRegistry":
        """Start serving, at the same address as before if it ran already."""
        if not self._thread.is_alive():
            self._thread.start()
        self._do(self._serve())
        return self

    async def _serve(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        control_grpc.add_ComponentRegistryServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        self.address = f"127.0.0.1:{self._port}"
        await self._server.start()

    def pause(self) -> None:
        """Go away, keeping what is known."""

        async def stop() -> None:
            assert self._server is not None
            await self._server.stop(None)

        self._do(stop())

    def stop(self) -> None:
        """Go away for good."""
        self.pause()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def update(self, change: Callable[["FakeRegistry"], None]) -> None:
        """Change something and push topologies."""

        async def apply() -> None:
            change(self)
            self._push()

        self._do(apply())

    def forget(self, component: str, index: int) -> None:
        """Have the instance unknown, as if it had never registered."""
        self.update(lambda registry: registry.known.pop((component, index), None) and None)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _push(self) -> None:
        self._sequence += 1
        for event in self._changed:
            event.set()

    # -- what a component calls ----------------------------------------------------------------------------------------

    async def RegisterComponent(  # noqa: N802
        self, request: control.RegisterComponentRequest, context: ServicerContext
    ) -> control.RegisterComponentResponse:
        key = await self._check(request.instance, context, known=False)
        self.registrations.append(request)
        self.known[key] = Known(request.instance.incarnation, request.address)
        self._push()
        response = control.RegisterComponentResponse(
            component_id=f"{self.pipeline}.{key[0]}.{key[1]}", heartbeat_interval_ms=self.heartbeat_ms
        )
        if self.checkpoints.get(key):
            position, cursor = self.checkpoints[key][-1]
            response.checkpoint.CopyFrom(control.Checkpoint(position=position, cursor=cursor))
        return response

    async def Heartbeat(  # noqa: N802
        self, request: control.HeartbeatRequest, context: ServicerContext
    ) -> control.HeartbeatResponse:
        key = await self._check(request.instance, context)
        self.known[key].heartbeats.append(request)
        return control.HeartbeatResponse(heartbeat_interval_ms=self.heartbeat_ms)

    async def Deregister(  # noqa: N802
        self, request: control.DeregisterRequest, context: ServicerContext
    ) -> control.DeregisterResponse:
        key = await self._check(request.instance, context)
        reason = control.DeregisterReason.Name(request.reason).removeprefix("DEREGISTER_REASON_").lower()
        self.deregistered.append((key, reason, request.detail))
        self.known[key].ended = reason
        self.known[key].completed = reason == "completed"
        if not self.known[key].completed:
            self.known[key].address = ""
        self._push()
        return control.DeregisterResponse()

    async def CommitCheckpoint(  # noqa: N802
        self, request: control.CommitCheckpointRequest, context: ServicerContext
    ) -> control.CommitCheckpointResponse:
        key = await self._check(request.instance, context)
        committed = self.checkpoints.setdefault(key, [])
        if committed and request.checkpoint.position < committed[-1][0]:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the checkpoint goes backwards")
        committed.append((request.checkpoint.position, request.checkpoint.cursor))
        return control.CommitCheckpointResponse()

    async def GetComponents(  # noqa: N802
        self, request: control.GetComponentsRequest, context: ServicerContext
    ) -> control.GetComponentsResponse:
        del request
        return await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no component asks for this")

    async def GetComponentStatus(  # noqa: N802
        self, request: control.GetComponentStatusRequest, context: ServicerContext
    ) -> control.GetComponentStatusResponse:
        del request
        return await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no component asks for this")

    async def PutDeadLetter(  # noqa: N802
        self, request: control.PutDeadLetterRequest, context: ServicerContext
    ) -> control.PutDeadLetterResponse:
        del request
        return await context.abort(grpc.StatusCode.UNIMPLEMENTED, "keeps no dead letters")

    async def WatchRedrives(  # noqa: N802
        self, request: control.WatchRedrivesRequest, context: ServicerContext
    ) -> AsyncIterator[control.Redrive]:
        del request
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "keeps no dead letters")
        yield control.Redrive()

    async def SettleRedrives(  # noqa: N802
        self, request: control.SettleRedrivesRequest, context: ServicerContext
    ) -> control.SettleRedrivesResponse:
        del request
        return await context.abort(grpc.StatusCode.UNIMPLEMENTED, "keeps no dead letters")

    async def WatchTopology(  # noqa: N802
        self, request: control.WatchTopologyRequest, context: ServicerContext
    ) -> AsyncIterator[control.Topology]:
        key = await self._check(request.instance, context)
        changed = asyncio.Event()
        self._changed.add(changed)
        last: control.Topology | None = None
        try:
            while True:
                await self._check(request.instance, context)
                topology = self._topology(key[0])
                if last is None or topology != last:
                    last = control.Topology()
                    last.CopyFrom(topology)
                    topology.sequence = max(1, self._sequence - self.behind)
                    yield topology
                await changed.wait()
                changed.clear()
        finally:
            self._changed.discard(changed)

    # -- parts ---------------------------------------------------------------------------------------------------------

    async def _check(self, instance: control.Instance, context: ServicerContext, *, known: bool = True) -> Key:
        key = (instance.component, instance.index)
        current = self.known.get(key)
        if current is not None and instance.incarnation < current.incarnation:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"incarnation {instance.incarnation} of {key[0]}.{key[1]} is superseded by {current.incarnation}",
            )
        if current is None and known:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"{key[0]}.{key[1]} is not registered")
        return key

    def _instance(self, component: str, index: int) -> control.Instance:
        known = self.known.get((component, index))
        incarnation = known.incarnation if known else 0
        return control.Instance(pipeline=self.pipeline, component=component, index=index, incarnation=incarnation)

    def _upstreams(self, name: str) -> list[int]:
        replicas = self.graph[name].replicas
        leaving = [
            index
            for (component, index), known in self.known.items()
            if component == name and index >= replicas and not known.ended
        ]
        return [*range(replicas), *(sorted(leaving) if self.keeps_leaving else ())]

    def _topology(self, component: str) -> control.Topology:
        topology = control.Topology()
        for name in self.graph[component].inputs:
            for index in self._upstreams(name):
                known = self.known.get((name, index))
                topology.upstreams.add(
                    instance=self._instance(name, index),
                    address=known.address if known else "",
                    completed=known.completed if known else False,
                )
        for name, node in self.graph.items():
            if component in node.inputs:
                topology.downstreams.add(
                    component=name,
                    instances=[self._instance(name, index) for index in range(node.replicas)],
                    partition_by=node.partition_by,
                    when_full=control.WhenFull.ValueType(node.when_full),
                )
        return topology
