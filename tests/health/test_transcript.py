"""The life of a component as the journal tells it, with a real registry, health monitor and JetStream store."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from flowctl import api
from flowctl.control.v1 import control_pb2 as pb
from flowctl.endpoints import Endpoints, call
from flowctl.errors import FlowctlError
from flowctl.journal.events import ComponentEvent, ComponentStatusChanged
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.log import Entry
from flowctl.projection import Projection
from flowctl.serving import ServiceContext
from flowctl.settings import HealthSettings, load_settings
from flowctl_health.service import HealthService
from support.nats import connect, nats_server, nats_store
from support.polling import eventually
from support.registries import RunningRegistry, instance, registration, registry_on

SILENCE_S = 1.2


@contextlib.asynccontextmanager
async def monitor_on(store: JetStreamStore, *, name: str = "h1") -> AsyncGenerator[HealthService]:
    """A health monitor with a projection of its own and little patience."""
    projection = Projection(store.journal)
    following = await projection.start()

    def endpoints(service: str) -> Endpoints:
        return Endpoints(lambda: store.nc, service, name=name)

    settings = load_settings(HealthSettings, name=name, silence_s=SILENCE_S, check_interval_s=0.2)
    monitor = HealthService(ServiceContext(store=store, projection=projection, endpoints=endpoints), settings)
    await monitor.start()
    try:
        yield monitor
    finally:
        await monitor.stop()
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError, FlowctlError):
            await following


@pytest.fixture
async def registry() -> AsyncIterator[RunningRegistry]:
    """A registry and a health monitor on a NATS server of their own."""
    async with nats_store() as store, registry_on(store) as running, monitor_on(store):
        yield running


def status_is(registry: RunningRegistry, status: str) -> bool:
    """Whether the registry's fold of the journal says so of every instance."""
    return {each.status for each in registry.projection.fleet.instances.values()} == {status}


def line(entry: Entry) -> str:
    """An entry as a line of the transcript: who wrote it, of which subject, what it says."""
    event = entry.event
    assert isinstance(event, ComponentEvent)
    words = {
        "ComponentRegistered": "registered",
        "ComponentDeregistered": f"deregistered {getattr(event, 'reason', '')}",
        "ComponentStatusChanged": f"{getattr(event, 'previous', '')} -> {getattr(event, 'status', '')}",
    }
    return f"{entry.actor} {entry.subject.removeprefix('flowctl.journal.component.')} {words[type(event).__name__]}"


async def test_the_life_of_a_component(registry: RunningRegistry):
    """Register, beat, fall silent, be found, beat again, be healthy, deregister: each once, with its evidence."""
    await registry.stub.RegisterComponent(registration())
    beat = pb.HeartbeatRequest(instance=instance())
    for _ in range(4):
        await registry.stub.Heartbeat(beat)
        await asyncio.sleep(SILENCE_S / 2)
    assert status_is(registry, "healthy")
    await registry.stub.Heartbeat(beat)
    began = time.monotonic()
    await eventually(lambda: status_is(registry, "unhealthy"), "the silence to be found")
    assert SILENCE_S - 0.05 < time.monotonic() - began < SILENCE_S + 1.5
    await registry.stub.Heartbeat(beat)
    began = time.monotonic()
    await eventually(lambda: status_is(registry, "healthy"), "the heartbeat to heal")
    assert time.monotonic() - began < 1.0
    farewell = pb.DeregisterRequest(instance=instance(), reason=pb.DEREGISTER_REASON_COMPLETED)
    await registry.stub.Deregister(farewell)
    await asyncio.sleep(SILENCE_S * 1.5)

    entries = [entry async for entry in registry.store.journal.read()]
    assert [line(entry) for entry in entries] == [
        "registry/r1 stray.tool.0.registered registered",
        "health/h1 stray.tool.0.status_changed healthy -> unhealthy",
        "health/h1 stray.tool.0.status_changed unhealthy -> healthy",
        "registry/r1 stray.tool.0.deregistered deregistered completed",
    ]
    found, healed = entries[1], entries[2]
    assert isinstance(found.event, ComponentStatusChanged)
    assert isinstance(healed.event, ComponentStatusChanged)
    assert found.event.silence_s is not None
    assert SILENCE_S < found.event.silence_s < SILENCE_S + 1.0
    last_ms = found.event.last_heartbeat_ms
    assert last_ms is not None
    assert found.time_ns / 1e6 - last_ms >= SILENCE_S * 1_000
    assert healed.event.last_heartbeat_ms is not None
    assert healed.event.last_heartbeat_ms > last_ms
    store = registry.store
    assert isinstance(store, JetStreamStore)
    info = await call(store.nc, api.HEALTH, "info", api.InfoRequest(), api.Info, timeout_s=5)
    assert (info.ready, info.name) == (True, "h1")


async def test_a_monitor_that_comes_late(registry: RunningRegistry):
    """A second monitor started afterwards agrees with the journal and adds nothing to it."""
    await registry.stub.RegisterComponent(registration())
    await eventually(lambda: status_is(registry, "unhealthy"), "the silence to be found")
    store = registry.store
    assert isinstance(store, JetStreamStore)
    async with monitor_on(store, name="h2"):
        await asyncio.sleep(SILENCE_S * 2)
    assert len(await registry.events()) == 2


async def test_nats_restarted_under_everybody():
    """The server goes away for longer than the silence: nobody is marked, and afterwards silence is found again."""
    async with nats_server() as server, contextlib.AsyncExitStack() as stack:
        store = await connect(server, request_timeout_s=1.0)
        stack.push_async_callback(store.close)
        registry = await stack.enter_async_context(registry_on(store))
        monitor = await stack.enter_async_context(monitor_on(store))
        await registry.stub.RegisterComponent(registration())
        await registry.stub.Heartbeat(pb.HeartbeatRequest(instance=instance()))
        await server.stop(adopted=True)
        await eventually(lambda: monitor.readiness() is not None, "the monitor to see that the journal is away")
        await asyncio.sleep(3)
        await server.start()
        await eventually(lambda: monitor.readiness() is None, "the monitor to see that the journal is back", timeout_s=30)
        await eventually(lambda: registry.service.readiness() is None, "the registry to be ready again", timeout_s=30)
        await registry.stub.Heartbeat(pb.HeartbeatRequest(instance=instance()))
        assert len(await registry.events()) == 1
        await eventually(lambda: status_is(registry, "unhealthy"), "the silence to be found", timeout_s=20)
        assert len(await registry.events()) == 2
