"""Real registries for tests: a gRPC server on a free port, and a client."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import grpc.aio

from flowctl.control.v1 import control_pb2 as pb
from flowctl.control.v1.control_pb2_grpc import ComponentRegistryStub
from flowctl.errors import FlowctlError
from flowctl.journal.events import Aggregate, JournalEvent
from flowctl.journal.log import Draft, Entry
from flowctl.journal.store import Store
from flowctl.projection import Projection
from flowctl.serving import ServiceContext
from flowctl.settings import RegistrySettings, load_settings
from flowctl_registry.service import RegistryService


class RunningRegistry:
    """A registry, its client, and the store that it works on."""

    def __init__(self, store: Store, projection: Projection, service: RegistryService, channel: grpc.aio.Channel) -> None:
        self.store = store
        self.projection = projection
        self.service = service
        self.channel = channel
        self.stub = ComponentRegistryStub(channel)

    async def send(self, method: str, data: bytes) -> bytes:
        """Send these bytes as the request of a method; the bytes of the answer."""
        call: Any = self.channel.unary_unary(f"/flowctl.control.v1.ComponentRegistry/{method}")  # pyright: ignore[reportUnknownVariableType]
        return await call(data, timeout=5)

    async def append(self, aggregate: Aggregate, *events: JournalEvent) -> list[Entry]:
        """Somebody else appends facts; returns when the registry has read them."""
        drafts = [Draft(aggregate, event) for event in events]
        entries = await self.store.journal.append(drafts, actor="test")
        await self.projection.caught_up(entries[-1].seq)
        return entries

    async def events(self) -> list[object]:
        """Every event of the journal."""
        return [entry.event async for entry in self.store.journal.read()]


@contextlib.asynccontextmanager
async def registry_on(store: Store, *, name: str = "r1") -> AsyncGenerator[RunningRegistry]:
    """A registry on a store, with a projection of its own."""
    projection = Projection(store.journal)
    following = await projection.start()
    settings = load_settings(RegistrySettings, name=name, registry_listen="127.0.0.1:0")
    service = RegistryService(ServiceContext(store=store, projection=projection), settings)
    await service.start()
    try:
        async with grpc.aio.insecure_channel(service.address) as channel:
            yield RunningRegistry(store, projection, service, channel)
    finally:
        await service.stop()
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError, FlowctlError):
            await following


def instance(component: str = "tool", index: int = 0, *, pipeline: str = "stray", incarnation: int = 1) -> pb.Instance:
    """An instance; by default one that no pipeline has."""
    return pb.Instance(pipeline=pipeline, component=component, index=index, incarnation=incarnation)


def registration(
    who: pb.Instance | None = None,
    *,
    kind: int = pb.KIND_SOURCE,
    address: str = "127.0.0.1:5000",
    boot_id: str = "boot-1",
    health_endpoint: str = "",
    name: str = "",
    output_types: Sequence[str] = (),
    labels: dict[str, str] | None = None,
) -> pb.RegisterComponentRequest:
    """A registration that is in order unless told otherwise."""
    return pb.RegisterComponentRequest(
        instance=who if who is not None else instance(),
        kind=kind,  # pyright: ignore[reportArgumentType] - numbers that are no kind are sent too
        address=address,
        boot_id=boot_id,
        health_endpoint=health_endpoint,
        metadata=pb.Metadata(name=name, output_types=output_types, labels=labels or {}),
    )
