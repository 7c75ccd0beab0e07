"""A component's connection to the registry: what fails on it does not end what else goes over it."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc

from flowctl.control.v1 import control_pb2 as control
from flowctl_sdk.control import Registry
from support.registry_fake import FakeRegistry, Node, ServicerContext


class Moody(FakeRegistry):
    """Refuses the second heartbeat."""

    beats = 0

    async def Heartbeat(  # noqa: N802
        self, request: control.HeartbeatRequest, context: ServicerContext
    ) -> control.HeartbeatResponse:
        self.beats += 1
        if self.beats == 2:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return await super().Heartbeat(request, context)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_failed_heartbeat_does_not_end_the_watch():
    """A heartbeat that fails gives up the connection that the watch of the topology is on; the watch goes on over the next."""
    server = Moody({"numbers": Node("source"), "store": Node("sink", ("numbers",))}, heartbeat_ms=50)
    server.start()
    instance = control.Instance(pipeline="test", component="store", incarnation=1)
    client = Registry([server.address], control.RegisterComponentRequest(instance=instance))
    seen: list[control.Topology] = []

    async def follow() -> None:
        async for topology in client.topologies():
            seen.append(topology)  # noqa: PERF401 - the list grows while the test looks at it

    try:
        await client.register()
        tasks = [
            asyncio.create_task(follow()),
            asyncio.create_task(client.beat(lambda: control.HeartbeatRequest(instance=instance))),
        ]
        await until(lambda: bool(seen))
        await until(lambda: server.beats > 4)

        def grow(registry: FakeRegistry) -> None:
            registry.graph["numbers"].replicas = 2

        server.update(grow)
        await until(lambda: len(seen[-1].upstreams) == 2)
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.cancelled() for task in tasks)
    finally:
        await client.close()
        server.stop()


class Redriving(Moody):
    """Says with every watch of the redrives that all were sent, and holds it open."""

    async def WatchRedrives(  # noqa: N802
        self, request: control.WatchRedrivesRequest, context: ServicerContext
    ) -> AsyncIterator[control.Redrive]:
        del request, context
        yield control.Redrive(caught_up=True)
        await asyncio.Event().wait()


async def test_a_failed_heartbeat_does_not_end_the_watch_of_the_redrives():
    """It goes on over the next connection too: without it a pipeline that could end would wait for ever."""
    server = Redriving({"store": Node("sink")}, heartbeat_ms=50)
    server.start()
    instance = control.Instance(pipeline="test", component="store", incarnation=1)
    client = Registry([server.address], control.RegisterComponentRequest(instance=instance))
    seen: list[control.Redrive] = []

    async def follow() -> None:
        async for redrive in client.redrives():
            seen.append(redrive)  # noqa: PERF401 - the list grows while the test looks at it

    try:
        await client.register()
        watch = asyncio.create_task(follow())
        await until(lambda: bool(seen))
        beats = asyncio.create_task(client.beat(lambda: control.HeartbeatRequest(instance=instance)))
        await until(lambda: server.beats > 4)
        await until(lambda: watch.done() or len(seen) == 2)
        assert not watch.done()
        for task in (watch, beats):
            task.cancel()
        await asyncio.gather(watch, beats, return_exceptions=True)
    finally:
        await client.close()
        server.stop()


async def test_the_last_heartbeat_gets_there():
    """One that finds nobody is sent again: nobody else knows the final counters, by which the edges are balanced."""
    server = Moody({"store": Node("sink")})
    server.start()
    instance = control.Instance(pipeline="test", component="store", incarnation=1)
    client = Registry([server.address], control.RegisterComponentRequest(instance=instance))
    try:
        await client.register()
        for reason in (control.DEREGISTER_REASON_UNSPECIFIED, control.DEREGISTER_REASON_COMPLETED):
            await client.last_beat(control.HeartbeatRequest(instance=instance, ending=reason))
        assert server.beats == 3
        assert server.known["store", 0].heartbeats[-1].ending == control.DEREGISTER_REASON_COMPLETED
    finally:
        await client.close()
        server.stop()
