"""``flowctl.control.v1.ComponentRegistry``: protobuf in and out, errors to gRPC status codes.

Handlers are registered by hand rather than through the generated base class, because a message that cannot be parsed is the
caller's fault (INVALID_ARGUMENT), and gRPC's own deserializing would call it the server's.
"""

import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final, Never, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from flowctl.control.v1 import control_pb2 as pb
from flowctl.errors import (
    ConflictError,
    ControlPlaneUnreachableError,
    DeadLettersFullError,
    DeadlineError,
    FlowctlError,
    JournalUnavailableError,
    LetterTooLargeError,
    NotFoundError,
    RefusedError,
    UserError,
)
from flowctl_registry import wire
from flowctl_registry.checks import checked_caller
from flowctl_registry.handlers import Handlers
from flowctl_registry.letters import Letters

SERVICE_NAME: Final = "flowctl.control.v1.ComponentRegistry"
MAX_DETAIL: Final = 1_000

REFUSALS: Final[dict[str, grpc.StatusCode]] = {
    "not_found": grpc.StatusCode.NOT_FOUND,
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "precondition": grpc.StatusCode.FAILED_PRECONDITION,
    "superseded": grpc.StatusCode.FAILED_PRECONDITION,
    "exists": grpc.StatusCode.ALREADY_EXISTS,
}
ERRORS: Final[tuple[tuple[type[FlowctlError], grpc.StatusCode], ...]] = (
    (UserError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (JournalUnavailableError, grpc.StatusCode.UNAVAILABLE),
    (ControlPlaneUnreachableError, grpc.StatusCode.UNAVAILABLE),
    (DeadlineError, grpc.StatusCode.UNAVAILABLE),
    (ConflictError, grpc.StatusCode.ABORTED),
    (DeadLettersFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (LetterTooLargeError, grpc.StatusCode.INVALID_ARGUMENT),
)

log = logging.getLogger("flowctl.registry")

Request = TypeVar("Request", bound=Message)
Context = grpc.aio.ServicerContext[Any, Any]
Count = Callable[[str, str], None]
"""Counts an answer: the method's name and the status code's."""


class _Malformed:
    """Bytes that are no message of the type asked for."""


def status_of(error: Exception) -> tuple[grpc.StatusCode, str]:
    """The status code and the one sentence that tell a caller of an error. What was not foreseen is logged under a reference."""
    if isinstance(error, RefusedError) and not isinstance(error, NotFoundError):
        return REFUSALS.get(error.refusal, grpc.StatusCode.FAILED_PRECONDITION), _sentence(error)
    for kind, code in ERRORS:
        if isinstance(error, kind):
            return code, _sentence(error)
    reference = secrets.token_hex(4)
    log.error("a request failed unexpectedly, reference %s", reference, exc_info=error)
    return grpc.StatusCode.INTERNAL, f"internal error; the registry's log has the details under reference {reference}"


def _sentence(error: FlowctlError) -> str:
    return str(error).replace("\n", " ")[:MAX_DETAIL]


class Servicer:
    """The RPCs, one method each."""

    def __init__(self, handlers: Handlers, letters: Letters, count: Count) -> None:
        self._handlers = handlers
        self._letters = letters
        self._count = count

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve on ``server``."""
        handlers = {
            "RegisterComponent": self._unary("RegisterComponent", pb.RegisterComponentRequest, self.register),
            "Heartbeat": self._unary("Heartbeat", pb.HeartbeatRequest, self.heartbeat),
            "Deregister": self._unary("Deregister", pb.DeregisterRequest, self.deregister),
            "GetComponents": self._unary("GetComponents", pb.GetComponentsRequest, self.get_components),
            "GetComponentStatus": self._unary("GetComponentStatus", pb.GetComponentStatusRequest, self.get_component_status),
            "WatchTopology": self._stream("WatchTopology", pb.WatchTopologyRequest, self.watch_topology),
            "CommitCheckpoint": self._unary("CommitCheckpoint", pb.CommitCheckpointRequest, self.commit_checkpoint),
            "PutDeadLetter": self._unary("PutDeadLetter", pb.PutDeadLetterRequest, self.put_dead_letter),
            "WatchRedrives": self._stream("WatchRedrives", pb.WatchRedrivesRequest, self.watch_redrives),
            "SettleRedrives": self._unary("SettleRedrives", pb.SettleRedrivesRequest, self.settle_redrives),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))

    async def register(self, request: pb.RegisterComponentRequest) -> pb.RegisterComponentResponse:
        """Announces an instance."""
        registration = wire.register(request)
        checkpoint = await self._handlers.register(registration)
        instance = registration.caller.instance
        return wire.registered(str(instance), self._handlers.heartbeat_interval_ms(instance.pipeline), checkpoint)

    async def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        """Says that an instance is alive."""
        beat = wire.heartbeat(request)
        await self._handlers.heartbeat(beat)
        return pb.HeartbeatResponse(heartbeat_interval_ms=self._handlers.heartbeat_interval_ms(beat.instance.pipeline))

    async def deregister(self, request: pb.DeregisterRequest) -> pb.DeregisterResponse:
        """Says that an instance ends on purpose."""
        await self._handlers.deregister(wire.deregister(request))
        return pb.DeregisterResponse()

    async def get_components(self, request: pb.GetComponentsRequest) -> pb.GetComponentsResponse:
        """Lists instances."""
        views = self._handlers.components(wire.component_filter(request))
        return pb.GetComponentsResponse(components=[wire.component(view) for view in views])

    async def get_component_status(self, request: pb.GetComponentStatusRequest) -> pb.GetComponentStatusResponse:
        """Shows one instance."""
        instance = checked_caller(request.pipeline, request.component, request.index, 0).instance
        return pb.GetComponentStatusResponse(component=wire.component(self._handlers.component(instance)))

    async def commit_checkpoint(self, request: pb.CommitCheckpointRequest) -> pb.CommitCheckpointResponse:
        """Stores how far a source has come."""
        await self._handlers.commit_checkpoint(wire.commit(request))
        return pb.CommitCheckpointResponse()

    async def put_dead_letter(self, request: pb.PutDeadLetterRequest) -> pb.PutDeadLetterResponse:
        """Keeps an event that a component gave up on."""
        return pb.PutDeadLetterResponse(number=await self._letters.put(wire.put_letter(request)))

    async def settle_redrives(self, request: pb.SettleRedrivesRequest) -> pb.SettleRedrivesResponse:
        """Remembers what came of redriven letters."""
        await self._letters.settle(wire.settlement(request))
        return pb.SettleRedrivesResponse()

    async def watch_redrives(self, request: pb.WatchRedrivesRequest) -> AsyncGenerator[pb.Redrive, None]:
        """Pushes the letters that an instance is to process once more."""
        async with contextlib.aclosing(self._letters.watch(wire.caller(request.instance))) as letters:
            async for letter in letters:
                yield wire.redrive(letter)

    async def watch_topology(self, request: pb.WatchTopologyRequest) -> AsyncGenerator[pb.Topology, None]:
        """Pushes an instance's neighbours."""
        async with contextlib.aclosing(self._handlers.watch(wire.caller(request.instance))) as changes:
            async for seq, topology in changes:
                yield wire.topology(seq, topology)

    # --- between gRPC and the methods ----------------------------------------------------------------------------------------

    def _unary(
        self, name: str, message: type[Request], answer: Callable[[Request], Awaitable[Message]]
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        async def call(request: Request | _Malformed, context: Context) -> Message:
            try:
                response = await answer(_parsed(request, message))
            except Exception as error:  # noqa: BLE001 - every error becomes a status
                await self._abort(name, error, context)
            self._count(name, "OK")
            return response

        return grpc.unary_unary_rpc_method_handler(call, _deserializer(message), _serialize)

    def _stream(
        self, name: str, message: type[Request], answers: Callable[[Request], AsyncGenerator[Message, None]]
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        async def call(request: Request | _Malformed, context: Context) -> AsyncGenerator[Message, None]:
            try:
                async with contextlib.aclosing(answers(_parsed(request, message))) as messages:
                    async for response in messages:
                        yield response
            except Exception as error:  # noqa: BLE001 - every error becomes a status
                await self._abort(name, error, context)
            self._count(name, "OK")

        return grpc.unary_stream_rpc_method_handler(call, _deserializer(message), _serialize)

    async def _abort(self, name: str, error: Exception, context: Context) -> Never:
        code, detail = status_of(error)
        self._count(name, code.name)
        log.debug("%s refused: %s: %s", name, code.name, detail)
        await context.abort(code, detail)
        raise AssertionError("abort returned")


def _deserializer(message: type[Request]) -> Callable[[bytes], Request | _Malformed]:
    def deserialize(data: bytes) -> Request | _Malformed:
        try:
            return message.FromString(data)
        except DecodeError:
            return _Malformed()

    return deserialize


def _parsed(request: Request | _Malformed, message: type[Request]) -> Request:
    if isinstance(request, _Malformed):
        raise UserError(f"the request is not a {message.DESCRIPTOR.full_name}: it is truncated or not protobuf")
    return request


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
