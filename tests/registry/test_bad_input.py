"""Whatever is sent to the registry: the right status code, one clear sentence, and nothing of our insides."""

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowctl.control.v1 import control_pb2 as pb
from flowctl.errors import UserError
from flowctl.journal.memory import MemoryStore
from flowctl_registry.checks import MAX_CURSOR_BYTES, MAX_EDGES, checked_address
from flowctl_registry.server import MAX_MESSAGE_BYTES
from support.registries import RunningRegistry, instance, registration, registry_on

Code = grpc.StatusCode


@pytest.fixture
async def registry() -> AsyncIterator[RunningRegistry]:
    """A registry with ``stray.tool.0`` registered."""
    async with registry_on(MemoryStore()) as running:
        await running.stub.RegisterComponent(registration())
        yield running


async def refused(registry: RunningRegistry, method: str, request: Any) -> tuple[grpc.StatusCode, str]:
    """Status code and sentence that the request (a message or bytes) gets."""
    data: bytes = request if isinstance(request, bytes) else request.SerializeToString()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await registry.send(method, data)
    detail = caught.value.details() or ""
    assert "Traceback" not in detail
    assert "\n" not in detail
    return caught.value.code(), detail


REGISTRATIONS = [
    (pb.RegisterComponentRequest(kind=pb.KIND_SINK, boot_id="b"), "instance is missing"),
    (registration(instance("*")), "'*' is not a valid component id"),
    (registration(instance(pipeline=">")), "'>' is not a valid pipeline id"),
    (registration(instance("a.b")), "'a.b' is not a valid component id"),
    (registration(instance("..")), "is not a valid component id"),
    (registration(instance("$JS")), "is not a valid component id"),
    (registration(instance("x" * 64)), "is not a valid component id"),
    (registration(instance(index=10_000)), "'10000' is not an instance index"),
    (registration(instance(incarnation=2**64 - 1)), "instance.incarnation is 18446744073709551615"),
    (registration(kind=0), "kind is 0: expected KIND_SOURCE (1)"),
    (registration(kind=99), "kind is 99"),
    (registration(kind=-1), "kind is -1"),
    (registration(boot_id=""), "boot_id is needed"),
    (registration(boot_id="a b"), "boot_id is needed"),
    (registration(boot_id="b" * 129), "boot_id has 129 characters"),
    (registration(address=""), "address is empty"),
    (registration(address="localhost"), "address is 'localhost': expected host:port"),
    (registration(address=":50051"), "expected host:port"),
    (registration(address="host:0"), "the port must be 1 to 65535"),
    (registration(address="host:70000"), "the port must be 1 to 65535"),
    (registration(address="host:-1"), "expected host:port"),
    (registration(address="ho st:1"), "expected host:port"),
    (registration(address="0.0.0.0:1"), "nobody can dial the wildcard address"),
    (registration(address="host:1\n"), "expected host:port"),
    (registration(address="unix:/etc/passwd"), "expected host:port"),
    (registration(health_endpoint="ftp://host/x"), "health_endpoint is 'ftp://host/x'"),
    (registration(health_endpoint="http://user:pw@host/"), "health_endpoint is"),
    (registration(health_endpoint="http://host:99999/"), "the port must be 1 to 65535"),
    (registration(health_endpoint="http://h/" + "x" * 2_000), "health_endpoint has 2009 characters"),
    (registration(name="n" * 257), "metadata.name has 257 characters"),
    (registration(name="a\nb"), "metadata.name contains a control character"),
    (registration(output_types=["t"] * 65), "metadata.output_types has 65 entries"),
    (registration(labels={str(n): "x" for n in range(65)}), "metadata.labels has 65 entries"),
    (registration(labels={"": "x"}), "metadata.labels has an empty name"),
    (registration(labels={"a": "x" * 257}), "metadata.labels['a'] has 257 characters"),
]


@pytest.mark.parametrize(("request_", "sentence"), REGISTRATIONS, ids=[sentence for _, sentence in REGISTRATIONS])
async def test_registrations(registry: RunningRegistry, request_: pb.RegisterComponentRequest, sentence: str):
    """A registration that is not in order is the caller's mistake, named by its field; nothing is journalled."""
    code, detail = await refused(registry, "RegisterComponent", request_)
    assert code == Code.INVALID_ARGUMENT
    assert sentence in detail
    assert len(await registry.events()) == 1


EDGE = pb.EdgeMetrics(peer="a.0", direction=pb.DIRECTION_IN)
REQUESTS: list[tuple[str, Any, str]] = [
    ("Heartbeat", pb.HeartbeatRequest(instance=instance(), metrics={f"m{n}": 1 for n in range(65)}), "metrics has 65 entries"),
    ("Heartbeat", pb.HeartbeatRequest(instance=instance(), metrics={"a": math.nan}), "metrics['a'] is nan"),
    ("Heartbeat", pb.HeartbeatRequest(instance=instance(), metrics={"a": -math.inf}), "metrics['a'] is -inf"),
    ("Heartbeat", pb.HeartbeatRequest(instance=instance(), metrics={"A b": 1}), "metrics has the name 'A b'"),
    ("Heartbeat", pb.HeartbeatRequest(instance=instance(), edges=[pb.EdgeMetrics(peer="a.0")]), "edges has the direction 0"),
    (
        "Heartbeat",
        pb.HeartbeatRequest(instance=instance(), edges=[pb.EdgeMetrics(peer="x", direction=pb.DIRECTION_IN)]),
        "edges has the peer 'x'",
    ),
    ("Heartbeat", pb.HeartbeatRequest(instance=instance(), edges=[EDGE] * (MAX_EDGES + 1)), "edges has 2001 entries"),
    ("Heartbeat", pb.HeartbeatRequest(), "instance is missing"),
    ("Deregister", pb.DeregisterRequest(instance=instance()), "reason is 0"),
    ("Deregister", pb.DeregisterRequest(instance=instance(), reason=7), "reason is 7"),  # pyright: ignore[reportArgumentType]
    ("CommitCheckpoint", pb.CommitCheckpointRequest(instance=instance()), "checkpoint is missing"),
    (
        "CommitCheckpoint",
        pb.CommitCheckpointRequest(instance=instance(), checkpoint=pb.Checkpoint(cursor=b"x" * (MAX_CURSOR_BYTES + 1))),
        "checkpoint.cursor has 65537 bytes",
    ),
    (
        "CommitCheckpoint",
        pb.CommitCheckpointRequest(instance=instance(), checkpoint=pb.Checkpoint(position=2**63)),
        "checkpoint.position is",
    ),
    ("GetComponents", pb.GetComponentsRequest(kind=9), "kind is 9"),  # pyright: ignore[reportArgumentType]
    ("GetComponents", pb.GetComponentsRequest(pipeline="a.*"), "is not a valid pipeline id"),
    ("GetComponentStatus", pb.GetComponentStatusRequest(), "is not a valid pipeline id"),
    ("RegisterComponent", registration().SerializeToString()[:-3], "it is truncated or not protobuf"),
    ("Heartbeat", b"\x0a\xff\xff", "it is truncated or not protobuf"),
    ("Heartbeat", b"\x0a\x05\x0a\x03\xff\xfe\xfd", "it is truncated or not protobuf"),
]


@pytest.mark.parametrize(("method", "request_", "sentence"), REQUESTS, ids=[sentence for _, _, sentence in REQUESTS])
async def test_other_requests(registry: RunningRegistry, method: str, request_: Any, sentence: str):
    """Neither is any other request out of bounds, truncated, or of numbers that mean nothing."""
    code, detail = await refused(registry, method, request_)
    assert code == Code.INVALID_ARGUMENT
    assert sentence in detail


async def test_oversized(registry: RunningRegistry):
    """A message above the limit is refused before it is read."""
    code, _ = await refused(registry, "Heartbeat", b"\x0a" * (MAX_MESSAGE_BYTES + 1))
    assert code == Code.RESOURCE_EXHAUSTED


async def test_unknown_fields_are_for_the_future(registry: RunningRegistry):
    """A newer client's fields are ignored."""
    known: bytes = pb.HeartbeatRequest(instance=instance()).SerializeToString()
    answer = await registry.send("Heartbeat", known + b"\xfa\x3e\x03abc")
    assert pb.HeartbeatResponse.FromString(answer).heartbeat_interval_ms == 10_000


async def test_an_unknown_method(registry: RunningRegistry):
    """Is said to be unknown."""
    code, _ = await refused(registry, "Explode", b"")
    assert code == Code.UNIMPLEMENTED


async def test_life_out_of_order(registry: RunningRegistry):
    """Before registration, after the farewell, from the past, for somebody else: each has its code and its way out."""
    beat = pb.HeartbeatRequest(instance=instance("unheard"))
    assert await refused(registry, "Heartbeat", beat) == (Code.NOT_FOUND, "stray.unheard.0 is not registered (register first)")
    watch = registry.stub.WatchTopology(pb.WatchTopologyRequest(instance=instance("unheard")))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    assert caught.value.code() == Code.NOT_FOUND
    status = pb.GetComponentStatusRequest(pipeline="stray", component="unheard")
    assert (await refused(registry, "GetComponentStatus", status))[0] == Code.NOT_FOUND

    await registry.stub.RegisterComponent(registration(instance(incarnation=5), boot_id="boot-5"))
    beat = pb.HeartbeatRequest(instance=instance(incarnation=4))
    assert await refused(registry, "Heartbeat", beat) == (Code.FAILED_PRECONDITION, "stray.tool.0 is superseded by incarnation 5")
    commit = pb.CommitCheckpointRequest(instance=instance(incarnation=5), checkpoint=pb.Checkpoint(position=7))
    await registry.stub.CommitCheckpoint(commit)
    commit.checkpoint.position = 6
    code, detail = await refused(registry, "CommitCheckpoint", commit)
    assert (code, detail) == (Code.INVALID_ARGUMENT, "checkpoint 6 of stray.tool.0 lies before 7, the last one")

    await registry.stub.Deregister(pb.DeregisterRequest(instance=instance(incarnation=5), reason=pb.DEREGISTER_REASON_STOPPED))
    beat = pb.HeartbeatRequest(instance=instance(incarnation=5))
    code, detail = await refused(registry, "Heartbeat", beat)
    assert (code, detail) == (Code.FAILED_PRECONDITION, "incarnation 5 of stray.tool.0 has deregistered")


async def test_a_long_farewell_is_cut(registry: RunningRegistry):
    """A program that ends with a long error still ends; what is kept of its words is bounded."""
    request = pb.DeregisterRequest(instance=instance(), reason=pb.DEREGISTER_REASON_FAILED, detail="x\x00" * 100_000)
    await registry.stub.Deregister(request)
    found = registry.projection.fleet.instances
    assert [each.run for each in found.values()] == ["ending"]
    event: Any = (await registry.events())[-1]
    assert len(event.detail) == 4_096
    assert "\x00" not in event.detail


async def test_what_we_did_not_foresee(registry: RunningRegistry, monkeypatch: pytest.MonkeyPatch):
    """A mistake of ours is INTERNAL with a reference into the log, and not a word more."""

    def explode(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr("flowctl_registry.wire.heartbeat", explode)
    code, detail = await refused(registry, "Heartbeat", pb.HeartbeatRequest(instance=instance()))
    assert code == Code.INTERNAL
    assert detail.startswith("internal error; the registry's log has the details under reference ")
    assert "secret" not in detail


async def test_a_thousand_silent_connections(registry: RunningRegistry):
    """Connections that say nothing, or half a preface, keep nobody from being served."""
    host, _, port = registry.service.address.rpartition(":")
    connections = [await asyncio.open_connection(host, int(port)) for _ in range(1_000)]
    try:
        for _, writer in connections[::2]:
            writer.write(b"PRI * HTTP/2.0\r\n")
        for _ in range(20):
            await registry.stub.Heartbeat(pb.HeartbeatRequest(instance=instance()), timeout=2)
    finally:
        for _, writer in connections:
            writer.close()


@settings(max_examples=200)
@given(st.text(max_size=40))
def test_addresses(text: str):
    """What passes as an address has a host and a port that can be dialled; everything else is refused in one sentence."""
    try:
        host, _, port = checked_address("address", text).rpartition(":")
    except UserError:
        return
    assert host
    assert 1 <= int(port) <= 65_535
    assert text.isascii()
    assert text.isprintable()


@pytest.mark.parametrize(
    "address", ["localhost:1", "10.0.0.5:65535", "[::1]:50051", "my-host.example.org:80", "orders_numbers_0:5"]
)
def test_good_addresses(address: str):
    """What peers can dial is accepted."""
    assert checked_address("address", address) == address


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200), method=st.sampled_from(["RegisterComponent", "Heartbeat", "Deregister", "CommitCheckpoint"]))
def test_noise(data: bytes, method: str):
    """Random bytes never reach our insides: an answer or a refusal, never INTERNAL or UNKNOWN."""

    async def send() -> None:
        async with registry_on(MemoryStore()) as registry:
            code = Code.OK
            try:
                await registry.send(method, data)
            except grpc.aio.AioRpcError as error:
                code = error.code()
            assert code in {Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION}

    asyncio.run(send())
