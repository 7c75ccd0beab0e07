"""A component that knows nothing of the SDK, only the protos: it may behave as the protos allow."""

import asyncio
from typing import Any, cast

import grpc.aio

from flowctl.control.v1 import control_pb2 as control
from flowctl.control.v1.control_pb2_grpc import ComponentRegistryStub
from flowctl.data.v1.data_pb2 import Ack, Credit, FromDownstream, FromUpstream, Hello, Peer
from flowctl_sdk.wire import METHOD
from support.registry_fake import FakeRegistry, Node
from support.stream_fleet import Stage


async def batching_sink(registry: FakeRegistry, window: int) -> list[bytes]:
    """Be the sink: acknowledge only full windows, and what is left when told that nothing follows. Returns the payloads."""
    instance = control.Instance(pipeline="test", component="store", index=0, incarnation=1)
    async with grpc.aio.insecure_channel(registry.address) as control_plane:
        stub = cast("Any", ComponentRegistryStub(control_plane))
        await stub.RegisterComponent(control.RegisterComponentRequest(instance=instance, kind=control.KIND_SINK))
        address = ""
        async for topology in stub.WatchTopology(control.WatchTopologyRequest(instance=instance)):
            address = topology.upstreams[0].address
            if address:
                break
        payloads: list[bytes] = []
        async with grpc.aio.insecure_channel(address) as channel:
            stream = cast("Any", channel).stream_stream(METHOD)()
            hello = Hello(
                protocol=1,
                downstream=Peer(pipeline="test", component="store", index=0, incarnation=1),
                upstream=Peer(pipeline="test", component="same", index=0),
                credit=Credit(events=window, bytes=100_000),
            )
            await stream.write(FromDownstream(hello=hello).SerializeToString())
            acknowledged = 0
            while True:
                raw = await asyncio.wait_for(stream.read(), 20)
                if not isinstance(raw, bytes):
                    break
                message = FromUpstream.FromString(raw)
                payloads.extend(message.batch.payloads)
                waiting = len(payloads) - acknowledged
                assert waiting <= window, "more than the credit"
                ended = message.HasField("end_of_stream")
                if waiting and (waiting == window or ended):
                    await stream.write(FromDownstream(ack=Ack(up_to=len(payloads) - 1)).SerializeToString())
                    credit = Credit(events=waiting, bytes=100_000)
                    await stream.write(FromDownstream(credit=credit).SerializeToString())
                    acknowledged = len(payloads)
                if ended:
                    assert message.end_of_stream.next_offset == len(payloads)
                    break
            # Stay until the acknowledgement was heard: the upstream closes when the whole pipeline is done.
            while isinstance(await asyncio.wait_for(stream.read(), 20), bytes):
                pass
        await stub.Deregister(control.DeregisterRequest(instance=instance, reason=control.DEREGISTER_REASON_COMPLETED))
        return payloads


async def test_a_sink_that_waits_for_full_batches(stage: Stage):
    """It gets exactly what its credit allows, batches cut to fit, and is told to flush, through the processor, at the end."""
    fleet = stage(lines=Node("source"), same=Node("processor", ("lines",)), store=Node("sink", ("same",)))
    fleet.start("lines", "lines", config={"count": 2_000})
    fleet.start("same", "same")
    try:
        payloads = await batching_sink(fleet.registry, 300)
    except grpc.aio.AioRpcError as error:
        raise AssertionError(fleet.log("same")[-2000:]) from error
    assert payloads == [f"line {n}".encode() for n in range(2_000)]
    assert await asyncio.to_thread(fleet.wait, "lines") == 0
    assert await asyncio.to_thread(fleet.wait, "same") == 0
