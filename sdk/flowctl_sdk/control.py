"""The registry as a component sees it: register, send heartbeats, follow the topology, commit checkpoints, deregister.

Every call is tried again, at each endpoint in turn, for as long as it makes sense: the registry being away stops nothing.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from flowctl.control.v1.control_pb2 import (
    Checkpoint,
    CommitCheckpointRequest,
    DeadLetter,
    DeregisterReason,
    DeregisterRequest,
    HeartbeatRequest,
    Instance,
    PutDeadLetterRequest,
    Redrive,
    RedriveOutcome,
    RegisterComponentRequest,
    RegisterComponentResponse,
    SettleRedrivesRequest,
    Topology,
    WatchRedrivesRequest,
    WatchTopologyRequest,
)
from flowctl.control.v1.control_pb2_grpc import ComponentRegistryStub
from flowctl_sdk.faults import EventFailedError, RegistrationRefusedError, SupersededError
from flowctl_sdk.wire import CHANNEL_OPTIONS, MAX_MESSAGE_BYTES

CALL_TIMEOUT_S: Final = 5.0
FIRST_BACKOFF_S: Final = 0.05
MAX_BACKOFF_S: Final = 1.0
DEFAULT_HEARTBEAT_MS: Final = 10_000
# What the registry takes: the largest event, and what is said of it.
MAX_LETTER_BYTES: Final = MAX_MESSAGE_BYTES + 64 * 1024
EARLY_BEATS_S: Final = (0.5, 1.0)
"""The pauses before the first heartbeats: two of them make a rate."""

_log = logging.getLogger("flowctl.registry")
T = TypeVar("T")


class Backoff:
    """Pauses that grow from 50 ms to a second, with jitter."""

    def __init__(self) -> None:
        self._tries = 0

    async def pause(self) -> None:
        """Wait before the next try."""
        full = min(MAX_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(self._tries, 10))
        self._tries += 1
        await asyncio.sleep(full * (0.5 + random.random() / 2))  # noqa: S311

    def reset(self) -> None:
        """It worked."""
        self._tries = 0


class Registry:
    """The client. ``working`` says whether the last call succeeded; ``registered`` whether registration ever did.

    ``registrations`` counts them: one more than the first means that the journal had not known the instance any more.
    """

    def __init__(self, endpoints: Sequence[str], registration: RegisterComponentRequest) -> None:
        self._endpoints = endpoints
        self._registration = registration
        self._instance: Instance = registration.instance
        self._current = 0
        self._channel: grpc.aio.Channel | None = None
        self._heartbeat_s = DEFAULT_HEARTBEAT_MS / 1000
        self.registered = False
        self.registrations = 0
        self.working = False

    async def register(self) -> RegisterComponentResponse:
        """Announce the instance; tries until a registry answers.

        Raises:
            SupersededError: if a newer incarnation is registered.
            RegistrationRefusedError: if the registry will never accept this.
        """
        response = await self._insist(lambda stub: stub.RegisterComponent(self._registration, timeout=CALL_TIMEOUT_S), "register")
        self._heartbeat_s = max(0.05, (response.heartbeat_interval_ms or DEFAULT_HEARTBEAT_MS) / 1000)
        self.registered = True
        self.registrations += 1
        _log.debug("registered as %s; heartbeat every %.1f s", response.component_id, self._heartbeat_s)
        return response

    async def beat(self, report: Callable[[], HeartbeatRequest]) -> None:
        """Send heartbeats until cancelled, as often as the registry's last answer says; the first ones come sooner.

        Raises:
            SupersededError: if a newer incarnation is registered.
        """
        early = iter(EARLY_BEATS_S)
        while True:
            await asyncio.sleep(min(next(early, self._heartbeat_s), self._heartbeat_s))
            request = report()
            try:
                response = await self._once(lambda stub, request=request: stub.Heartbeat(request, timeout=CALL_TIMEOUT_S))
            except grpc.aio.AioRpcError as error:
                self._check(error)
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    _log.warning("the registry does not know this instance: registering again")
                    await self.register()
                else:
                    _log.warning("heartbeat failed: %s: %s", error.code().name, error.details())
            else:
                if response.heartbeat_interval_ms:
                    self._heartbeat_s = max(0.05, response.heartbeat_interval_ms / 1000)

    async def topologies(self) -> AsyncIterator[Topology]:
        """Every topology, from the present one on; survives the registry's restarts.

        Raises:
            SupersededError: if a newer incarnation is registered.
        """
        backoff = Backoff()
        request = WatchTopologyRequest(instance=self._instance)
        while True:
            channel = self._open()
            try:
                with _closed_underneath():
                    async for topology in ComponentRegistryStub(channel).WatchTopology(request):
                        backoff.reset()
                        self.working = True
                        yield topology
            except grpc.aio.AioRpcError as error:
                self._check(error)
                _log.debug("topology stream ended: %s: %s", error.code().name, error.details())
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    await self.register()
                else:
                    await self._turn(channel)
            await backoff.pause()

    async def commit(self, position: int, cursor: bytes) -> None:
        """Store the checkpoint; tries until it is stored.

        Raises:
            SupersededError: if a newer incarnation is registered.
        """
        checkpoint = Checkpoint(position=position, cursor=cursor)
        request = CommitCheckpointRequest(instance=self._instance, checkpoint=checkpoint)
        await self._insist(lambda stub: stub.CommitCheckpoint(request, timeout=CALL_TIMEOUT_S), "commit a checkpoint")

    async def put_dead_letter(self, letter: DeadLetter, event_id: str) -> None:
        """Have an event kept that the component gave up on; tries until it is on disk.

        Raises:
            EventFailedError: it can never be kept.
            SupersededError: if a newer incarnation is registered.
        """
        request = PutDeadLetterRequest(instance=self._instance, letter=letter)
        if request.ByteSize() > MAX_LETTER_BYTES:
            raise EventFailedError(f"event {event_id} failed and is too large to be kept as a dead letter: {letter.error}")
        try:
            await self._insist(lambda stub: stub.PutDeadLetter(request, timeout=CALL_TIMEOUT_S), "put a dead letter aside")
        except RegistrationRefusedError as error:
            reason = error.__cause__.details() if isinstance(error.__cause__, grpc.aio.AioRpcError) else error.message
            raise EventFailedError(f"event {event_id} failed ({letter.error}) and cannot be put aside: {reason}") from error

    async def redrives(self) -> AsyncIterator[Redrive]:
        """The dead letters to process once more, and when all were sent; survives the registry's restarts.

        Those that are not settled come again with every new stream.

        Raises:
            SupersededError: if a newer incarnation is registered.
        """
        backoff = Backoff()
        request = WatchRedrivesRequest(instance=self._instance)
        while True:
            channel = self._open()
            try:
                with _closed_underneath():
                    async for redrive in ComponentRegistryStub(channel).WatchRedrives(request):
                        backoff.reset()
                        yield redrive
            except grpc.aio.AioRpcError as error:
                self._check(error)
                if error.code() == grpc.StatusCode.UNIMPLEMENTED:  # a registry that knows no dead letters
                    yield Redrive(caught_up=True)
                    return
                _log.debug("redrive stream ended: %s: %s", error.code().name, error.details())
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    await self.register()
                else:
                    await self._turn(channel)
            await backoff.pause()

    async def settle(self, outcomes: Sequence[RedriveOutcome]) -> None:
        """Say what came of redriven letters; tries until that is stored.

        Raises:
            SupersededError: if a newer incarnation is registered.
        """
        request = SettleRedrivesRequest(instance=self._instance, outcomes=outcomes)
        await self._insist(lambda stub: stub.SettleRedrives(request, timeout=CALL_TIMEOUT_S), "settle dead letters")

    async def deregister(self, reason: DeregisterReason.ValueType, detail: str) -> None:
        """Say that the instance ends; tries until a registry has heard it.

        Raises:
            SupersededError: if a newer incarnation is registered.
        """
        request = DeregisterRequest(instance=self._instance, reason=reason, detail=detail[:4_000])
        await self._insist(lambda stub: stub.Deregister(request, timeout=CALL_TIMEOUT_S), "deregister")
        self.registered = False

    async def last_beat(self, request: HeartbeatRequest) -> None:
        """Send the last heartbeat, as persistently as what follows it: nobody else can tell the final counters."""
        await self._insist(lambda stub: stub.Heartbeat(request, timeout=CALL_TIMEOUT_S), "send the last heartbeat")

    async def close(self) -> None:
        """Let go of the connection."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def _insist(self, call: "Callable[[Any], Awaitable[T]]", what: str) -> T:
        backoff = Backoff()
        warned = False
        while True:
            try:
                return await self._once(call)
            except grpc.aio.AioRpcError as error:
                self._check(error)
                if error.code() == grpc.StatusCode.NOT_FOUND and what != "register":
                    await self.register()
                elif not warned and error.code() != grpc.StatusCode.UNAVAILABLE:
                    warned = True
                    _log.warning("could not %s, trying on: %s: %s", what, error.code().name, error.details())
            await backoff.pause()

    async def _once(self, call: "Callable[[Any], Awaitable[T]]") -> T:
        channel = self._open()
        try:
            with _closed_underneath():
                result = await call(ComponentRegistryStub(channel))
        except grpc.aio.AioRpcError as error:
            if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
                await self._turn(channel)
            raise
        self.working = True
        return result

    def _open(self) -> grpc.aio.Channel:
        if self._channel is None:
            address = self._endpoints[self._current % len(self._endpoints)]
            self._channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        return self._channel

    async def _turn(self, failed: grpc.aio.Channel) -> None:
        """Go to the next endpoint, unless another call has done so already."""
        self.working = False
        if self._channel is failed:
            self._channel = None
            self._current += 1
            await failed.close()

    def _check(self, error: grpc.aio.AioRpcError) -> None:
        """Raise if trying again is pointless."""
        if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
            raise SupersededError(error.details() or "a newer incarnation is registered") from error
        if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
            raise RegistrationRefusedError(f"the registry refuses this instance: {error.details()}") from error


@contextlib.contextmanager
def _closed_underneath() -> Generator[None]:
    """A call whose channel is closed because another call on it failed fails too, and is tried again like any other.

    gRPC raises CancelledError there, and a task that lets that pass ends without a word, as if it had been told to.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        none = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, none, none, "another call gave the connection up") from None
