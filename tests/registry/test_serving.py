"""A registry at work on a real JetStream store: what components and operators see of it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc  # pyright: ignore[reportMissingTypeStubs]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # pyright: ignore[reportMissingTypeStubs]

from flowctl import api
from flowctl.control.v1 import control_pb2 as pb
from flowctl.endpoints import Endpoints, call
from flowctl.errors import InvalidSettingError, JournalUnavailableError
from flowctl.journal.events import Aggregate, ComponentAssigned, ComponentRegistered, ComponentStarting, PipelineSubmitted
from flowctl.journal.heartbeats import Beat
from flowctl.journal.memory import MemoryStore
from flowctl.projection import Projection
from flowctl.serving import ServiceContext
from flowctl.settings import RegistrySettings, load_settings
from flowctl_registry.service import RegistryService
from support.nats import nats_store
from support.polling import eventually
from support.registries import RunningRegistry, instance, registration, registry_on
from support.stories import orders, spec_of

NAME = "flowctl.control.v1.ComponentRegistry"


@pytest.fixture
async def registry() -> AsyncIterator[RunningRegistry]:
    """A registry on a NATS server of its own."""
    async with nats_store() as store, registry_on(store) as running:
        yield running


async def start(registry: RunningRegistry, component: str, index: int = 0, *, incarnation: int = 1) -> None:
    """The orchestrator assigns and the agent starts an instance of pipeline ``orders``."""
    who = Aggregate.of_instance(orders(component, index))
    [(kind, found)] = [pair for pair in spec_of().components() if pair[1].id == component]
    [entry] = await registry.append(who, ComponentAssigned(host="h1", kind=kind, driver="process", revision=1, component=found))
    await registry.append(who, ComponentStarting(host="h1", incarnation=incarnation, assignment=entry.seq))


async def submit(registry: RunningRegistry) -> None:
    """Pipeline ``orders`` is submitted."""
    await registry.append(Aggregate.of_pipeline("orders"), PipelineSubmitted(revision=1, pipeline=spec_of()))


async def test_register_again_after_a_lost_connection(registry: RunningRegistry):
    """The same run of a program registers once in the journal, however often it says so; its checkpoint comes back."""
    for _ in range(3):
        answer = await registry.stub.RegisterComponent(registration())
        assert (answer.component_id, answer.heartbeat_interval_ms) == ("stray.tool.0", 10_000)
        assert not answer.HasField("checkpoint")
    checkpoint = pb.Checkpoint(position=41, cursor=b"\xff\x00")
    await registry.stub.CommitCheckpoint(pb.CommitCheckpointRequest(instance=instance(), checkpoint=checkpoint))
    answer = await registry.stub.RegisterComponent(registration(boot_id="boot-2"))
    assert (answer.checkpoint.position, answer.checkpoint.cursor) == (41, b"\xff\x00")
    names = [type(event).__name__ for event in await registry.events()]
    assert names == ["ComponentRegistered", "CheckpointCommitted", "ComponentRegistered"]


async def test_another_program_of_the_same_incarnation(registry: RunningRegistry):
    """Of a managed instance only one program per incarnation is let in."""
    await submit(registry)
    await start(registry, "numbers")
    who = instance("numbers", pipeline="orders")
    await registry.stub.RegisterComponent(registration(who))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await registry.stub.RegisterComponent(registration(who, boot_id="boot-2"))
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS


async def test_a_program_may_be_faster_than_the_fold(registry: RunningRegistry, monkeypatch: pytest.MonkeyPatch):
    """A registration that looks premature is decided anew on the journal as it is."""
    await submit(registry)

    async def at_once(seq: int, **_: object) -> None:
        del seq

    with monkeypatch.context() as patch:
        patch.setattr(registry.projection, "caught_up", at_once)
        await start(registry, "numbers")
    await registry.stub.RegisterComponent(registration(instance("numbers", pipeline="orders")))


async def test_topology_is_pushed_when_it_differs(registry: RunningRegistry):
    """At once, then for each change of a neighbour, and for nothing else; FAILED_PRECONDITION when superseded."""
    await submit(registry)
    await start(registry, "keep")
    who = instance("keep", pipeline="orders")
    await registry.stub.RegisterComponent(registration(who, kind=pb.KIND_SINK, address=""))
    watch: Any = registry.stub.WatchTopology(pb.WatchTopologyRequest(instance=who))
    first = await watch.read()
    assert [(up.instance.component, up.instance.index, up.address) for up in first.upstreams] == [
        ("double", 0, ""),
        ("double", 1, ""),
    ]
    assert {up.when_full for up in first.upstreams} == {pb.WHEN_FULL_DROP}

    await start(registry, "numbers")
    await registry.stub.RegisterComponent(registration(instance("numbers", pipeline="orders")))
    await start(registry, "double")
    assert [up.instance.incarnation for up in (await watch.read()).upstreams] == [1, 0]
    began = time.monotonic()
    upstream = registration(instance("double", pipeline="orders"), kind=pb.KIND_PROCESSOR)
    await registry.stub.RegisterComponent(upstream)
    changed = await watch.read()
    assert time.monotonic() - began < 1
    assert changed.upstreams[0].address == "127.0.0.1:5000"
    assert changed.sequence > first.sequence

    await start(registry, "keep", incarnation=2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "orders.keep.0 is superseded by incarnation 2"
    await eventually(lambda: "flowctl_registry_watchers 0.0" in _metrics(registry), "the watch to be forgotten")


def _metrics(registry: RunningRegistry) -> str:
    from prometheus_client import generate_latest

    return generate_latest(registry.service._context.metrics).decode()  # pyright: ignore[reportPrivateUsage]


async def test_a_watch_ends_with_its_instance(registry: RunningRegistry):
    """Who has deregistered needs no neighbours."""
    await registry.stub.RegisterComponent(registration())
    watch: Any = registry.stub.WatchTopology(pb.WatchTopologyRequest(instance=instance()))
    await watch.read()
    await registry.stub.Deregister(pb.DeregisterRequest(instance=instance(), reason=pb.DEREGISTER_REASON_STOPPED))
    assert await watch.read() is grpc.aio.EOF


async def test_hundreds_of_watchers_share_one_computation(registry: RunningRegistry):
    """Two hundred watchers of one component cost one computation for a burst of entries, and none for other pipelines."""
    processors = [{"id": "double", "command": ["d"], "inputs": ["numbers"], "replicas": 200}]
    sinks = [{"id": "keep", "command": ["k"], "inputs": ["double"]}]
    pipeline = spec_of(sources=[{"id": "numbers", "command": ["n"]}], processors=processors, sinks=sinks)
    await registry.append(Aggregate.of_pipeline("orders"), PipelineSubmitted(revision=1, pipeline=pipeline))
    component = pipeline.component("double")
    assert component is not None
    assigned = ComponentAssigned(host="h1", kind="processor", driver="process", revision=1, component=component)
    starting = ComponentStarting(host="h1", incarnation=1, assignment=1)
    registered = ComponentRegistered(incarnation=1, kind="processor", boot_id="b", address="h:1")
    for index in range(200):
        await registry.append(Aggregate.of_instance(orders("double", index)), assigned, starting, registered)
    watches: list[Any] = [
        registry.stub.WatchTopology(pb.WatchTopologyRequest(instance=instance("double", index, pipeline="orders")))
        for index in range(200)
    ]
    await asyncio.gather(*(watch.read() for watch in watches))
    hub = registry.service._watches  # pyright: ignore[reportPrivateUsage]
    before = hub.computed
    await registry.stub.RegisterComponent(registration())
    assert hub.computed == before
    began = time.monotonic()
    await start(registry, "numbers")
    answers = await asyncio.gather(*(watch.read() for watch in watches))
    assert time.monotonic() - began < 2
    assert {answer.upstreams[0].instance.incarnation for answer in answers} <= {0, 1}
    assert hub.computed - before <= 2
    for watch in watches:
        watch.cancel()
    await eventually(lambda: hub.watchers == 0, "all watchers to be forgotten")


async def test_lists_and_status(registry: RunningRegistry):
    """What was said at registration, with host, phase, neighbours and the last heartbeat."""
    await submit(registry)
    await start(registry, "double")
    who = instance("double", pipeline="orders")
    await registry.stub.RegisterComponent(
        registration(
            who, kind=pb.KIND_PROCESSOR, name="Doubler", labels={"team": "a"}, health_endpoint="http://127.0.0.1:1/health"
        )
    )
    await registry.stub.RegisterComponent(registration())
    await registry.stub.Heartbeat(pb.HeartbeatRequest(instance=who))
    status = pb.GetComponentStatusRequest(pipeline="orders", component="double")

    async def shown() -> pb.Component:
        return (await registry.stub.GetComponentStatus(status)).component

    async with asyncio.timeout(5):
        while not (found := await shown()).last_heartbeat_ms:
            await asyncio.sleep(0.01)
    assert (found.kind, found.status, found.phase) == (pb.KIND_PROCESSOR, pb.STATUS_HEALTHY, "running")
    assert (found.host, found.address, found.reason) == ("h1", "127.0.0.1:5000", "registered")
    assert (list(found.upstream), list(found.downstream)) == (["numbers"], ["keep"])
    assert (found.metadata.name, dict(found.metadata.labels)) == ("Doubler", {"team": "a"})
    assert found.last_heartbeat_ms >= found.registered_at_ms > 1_600_000_000_000

    async def listed(**wanted: Any) -> list[str]:
        answer = await registry.stub.GetComponents(pb.GetComponentsRequest(**wanted))
        return [each.instance.component for each in answer.components]

    assert await listed() == ["double", "tool"]
    assert await listed(pipeline="stray") == ["tool"]
    assert await listed(kind=pb.KIND_PROCESSOR) == ["double"]
    assert await listed(pipeline="other") == []


async def test_any_replica_knows_the_heartbeats_of_all(registry: RunningRegistry):
    """What one registry is told, another answers: live figures with rates, over NATS micro-services."""
    store: Any = registry.store
    settings = load_settings(RegistrySettings, name="r2", registry_listen="127.0.0.1:0")

    def endpoints(service: str) -> Endpoints:
        return Endpoints(lambda: store.nc, service, name="r2")

    context = ServiceContext(store=store, projection=registry.projection, endpoints=endpoints)
    second = RegistryService(context, settings)
    await second.start()
    await registry.stub.RegisterComponent(registration())
    for total in (100, 150):
        edge = pb.EdgeMetrics(peer="keep.0", direction=pb.DIRECTION_OUT, events_total=total, connected=True)
        metrics = {"events_out_total": float(total), "queue": 3.0}
        await registry.stub.Heartbeat(pb.HeartbeatRequest(instance=instance(), metrics=metrics, edges=[edge]))

    async def live() -> list[api.LiveView]:
        request = api.LiveRequest(pipeline="stray")
        return (await call(store.nc, api.REGISTRY, "live", request, api.LiveAnswer, timeout_s=5)).instances

    async with asyncio.timeout(5):
        while not (views := await live()) or views[0].metrics["events_out_total"] < 150:
            await asyncio.sleep(0.01)
    [view] = views
    assert (view.instance, view.metrics["queue"], view.edges[0].peer) == ("stray.tool.0", 3.0, "keep.0")
    assert view.rates["events_out_total"] > 0
    assert "queue" not in view.rates
    assert view.edges[0].rate == view.rates["events_out_total"]
    info = await call(store.nc, api.REGISTRY, "info", api.InfoRequest(), api.Info, timeout_s=5)
    assert (info.ready, info.addresses) == (True, {"grpc": second.address})
    await second.stop()


async def test_heartbeats_come_often_while_somebody_looks(registry: RunningRegistry):
    """Whoever registers or beats while its rates are asked for is told to come back in a second, not in ten."""
    store: Any = registry.store
    context = ServiceContext(
        store=store, projection=registry.projection, endpoints=lambda service: Endpoints(lambda: store.nc, service, name="r2")
    )
    second = RegistryService(context, load_settings(RegistrySettings, name="r2", registry_listen="127.0.0.1:0"))
    await second.start()
    async with grpc.aio.insecure_channel(second.address) as channel:
        looked_at = RunningRegistry(store, registry.projection, second, channel).stub
        assert (await looked_at.RegisterComponent(registration())).heartbeat_interval_ms == 10_000
        assert (await looked_at.Heartbeat(pb.HeartbeatRequest(instance=instance()))).heartbeat_interval_ms == 10_000
        await call(store.nc, api.REGISTRY, "live", api.LiveRequest(pipeline="stray"), api.LiveAnswer, timeout_s=5)
        assert (await looked_at.Heartbeat(pb.HeartbeatRequest(instance=instance()))).heartbeat_interval_ms == 1_000
        assert (await looked_at.RegisterComponent(registration())).heartbeat_interval_ms == 1_000
    await second.stop()


async def test_health_checking_and_reflection(registry: RunningRegistry):
    """Any gRPC tool can ask whether the registry serves, and what."""
    health: Any = health_pb2_grpc.HealthStub(registry.channel)
    messages: Any = health_pb2
    for service in ("", NAME):
        answer = await health.Check(messages.HealthCheckRequest(service=service))
        assert answer.status == messages.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(messages.HealthCheckRequest(service="nobody"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND

    channel: Any = registry.channel
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests: Any = reflection_pb2
    asked = [
        requests.ServerReflectionRequest(list_services=""),
        requests.ServerReflectionRequest(file_containing_symbol=NAME),
    ]
    answers = [answer async for answer in reflection.ServerReflectionInfo(iter(asked))]
    assert NAME in {service.name for service in answers[0].list_services_response.service}
    assert b"WatchTopology" in answers[1].file_descriptor_response.file_descriptor_proto[0]


async def test_without_a_journal():
    """UNAVAILABLE at once and NOT_SERVING; statuses are unknown; and everything is back when the journal is."""
    store = MemoryStore()
    async with registry_on(store) as registry:
        await registry.stub.RegisterComponent(registration())
        store.set_available(available=False)
        for request in (
            registry.stub.Heartbeat(pb.HeartbeatRequest(instance=instance()), timeout=2),
            registry.stub.RegisterComponent(registration(boot_id="boot-2"), timeout=2),
            registry.stub.Heartbeat(pb.HeartbeatRequest(instance=instance("unheard")), timeout=2),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await request
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        await eventually(lambda: registry.service.readiness() is not None, "the registry to say that it is not ready")
        health: Any = health_pb2_grpc.HealthStub(registry.channel)
        messages: Any = health_pb2
        assert (await health.Check(messages.HealthCheckRequest(service=NAME))).status == messages.HealthCheckResponse.NOT_SERVING
        [shown] = (await registry.stub.GetComponents(pb.GetComponentsRequest())).components
        assert shown.status == pb.STATUS_UNKNOWN
        assert shown.reason.endswith("it was healthy before")
        store.set_available(available=True)
        await eventually(lambda: registry.service.readiness() is None, "the registry to be ready again")
        await registry.stub.Heartbeat(pb.HeartbeatRequest(instance=instance()))


class _Stuck(MemoryStore):
    """A store whose heartbeats hang until ``free``."""

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Event()
        self.groups: list[int] = []
        publish = self.heartbeats.publish

        async def hanging(beats: list[Beat], **_within: float) -> None:
            self.groups.append(len(beats))
            await self.free.wait()
            await publish(beats)

        self.heartbeats.publish = hanging  # type: ignore[method-assign, assignment]


async def test_heartbeats_are_grouped_and_not_kept_for_the_dead():
    """What waits becomes one publish; a beat whose sender has given up is not stored afterwards."""
    store = _Stuck()
    async with registry_on(store) as registry:
        await registry.stub.RegisterComponent(registration())
        await eventually(lambda: len(store.groups) == 1, "the registry's own beat")
        beat = pb.HeartbeatRequest(instance=instance())
        first = asyncio.ensure_future(registry.stub.Heartbeat(beat))
        await eventually(lambda: len(store.groups) == 2, "the first heartbeat to be on its way")
        gone = [asyncio.ensure_future(registry.stub.Heartbeat(beat, timeout=0.2)) for _ in range(5)]
        for result in await asyncio.gather(*gone, return_exceptions=True):
            assert isinstance(result, grpc.aio.AioRpcError)
            assert result.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        late = [asyncio.ensure_future(registry.stub.Heartbeat(beat)) for _ in range(50)]
        beats = registry.service._beats  # pyright: ignore[reportPrivateUsage]
        await eventually(lambda: beats.waiting == 50, "fifty heartbeats to wait")
        store.free.set()
        await asyncio.gather(first, *late)
        assert beats.stored == 51
        assert beats.groups <= 3


async def test_a_busy_port(registry: RunningRegistry):
    """Is one clear sentence."""
    settings = load_settings(RegistrySettings, registry_listen=registry.service.address)
    context = ServiceContext(store=registry.store, projection=registry.projection)
    with pytest.raises(InvalidSettingError, match=r"cannot listen on 127\.0\.0\.1:[0-9]+: Address already in use"):
        await RegistryService(context, settings).start()


async def test_stopping_ends_the_watches():
    """A registry that stops says so to its watchers, who then watch elsewhere."""
    store = MemoryStore()
    projection = Projection(store.journal)
    following = await projection.start()
    settings = load_settings(RegistrySettings, registry_listen="127.0.0.1:0")
    service = RegistryService(ServiceContext(store=store, projection=projection), settings)
    await service.start()
    async with grpc.aio.insecure_channel(service.address) as channel:
        registry = RunningRegistry(store, projection, service, channel)
        await registry.stub.RegisterComponent(registration())
        watch: Any = registry.stub.WatchTopology(pb.WatchTopologyRequest(instance=instance()))
        await watch.read()
        stopping = asyncio.ensure_future(service.stop())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch.read()
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        await stopping
    following.cancel()
    with contextlib.suppress(asyncio.CancelledError, JournalUnavailableError):
        await following
