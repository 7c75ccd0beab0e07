"""The dialling end of ``flowctl tap``: finds the instances, follows them through restarts, and yields what they show."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, Final, cast

import grpc
import grpc.aio
import msgspec

from flowctl.api import InstanceView, PipelineView
from flowctl.data.v1.data_pb2 import Peer, TapBatch, TapRequest
from flowctl.errors import (
    ComponentError,
    ControlPlaneUnreachableError,
    DeadlineError,
    JournalUnavailableError,
    NotFoundError,
    RefusedError,
)
from flowctl.ids import InstanceId
from flowctl.spec.model import Pipeline
from flowctl_cli import questions
from flowctl_cli.plane import Plane
from flowctl_cli.targets import Target
from flowctl_sdk.columns import Columns
from flowctl_sdk.event import Event
from flowctl_sdk.wire import CHANNEL_OPTIONS

METHOD: Final = "/flowctl.data.v1.EventStream/Tap"
DIAL_TIMEOUT_S: Final = 5.0
LOOK_INTERVAL_S: Final = 1.0
REDIAL_INTERVAL_S: Final = 0.2
DIALS: Final = 4
# What may wait for the printer: the streams are read no faster than it prints.
QUEUE_BATCHES: Final = 16

OVER: Final = frozenset({"completed", "stopped", "failed"})


class Sample(msgspec.Struct, frozen=True):
    """Events that an instance showed, and how many passed unseen since its last sample."""

    instance: str
    events: list[Event]
    skipped: int


def tapped_components(pipeline: Pipeline, component: str) -> list[str]:
    """Whose output shows what the target sees: its own; for a sink, that of its inputs.

    Raises:
        NotFoundError: the pipeline has no such component.
    """
    for kind, each in pipeline.components():
        if each.id == component:
            return [entry.from_ for entry in each.upstreams] if kind == "sink" else [each.id]
    known = ", ".join(each.id for _, each in pipeline.components())
    raise NotFoundError(f"pipeline {pipeline.name!r} has no component {component!r}", hint=f"it has {known}")


class Tapping:
    """Taps all instances that the target means, until the pipeline is over. ``say`` gets remarks for the user."""

    def __init__(self, control: Plane, target: Target, *, events_per_s: int, say: Callable[[str], None]) -> None:
        self._control = control
        self._target = target
        self._rate = events_per_s
        self._say = say
        self._samples: asyncio.Queue[Sample | BaseException | None] = asyncio.Queue(QUEUE_BATCHES)
        self._streams: dict[str, asyncio.Task[None]] = {}
        # The incarnation that each instance was last tapped at (0: it went away), and how often an address did not answer.
        self._tapped: dict[str, int] = {}
        self._refused: dict[tuple[str, int], int] = {}
        self._look = asyncio.Event()

    async def samples(self) -> AsyncGenerator[Sample]:
        """What the instances show, as it comes; ends when they have all ended.

        Raises:
            NotFoundError: there is no such pipeline, component or instance.
            RefusedError: it does not run.
            ComponentError: no instance can be tapped, with the reason.
        """
        instances = self._meant(await self._pipeline())
        if not any(each.address for each in instances):
            raise RefusedError(f"{self._target} is not running: {'; '.join(map(_state, instances))}")
        watching = asyncio.create_task(self._watch(instances))
        try:
            while (sample := await self._samples.get()) is not None:
                if isinstance(sample, BaseException):
                    raise sample
                yield sample
        finally:
            tasks = [watching, *self._streams.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pipeline(self) -> PipelineView:
        return (await questions.status(self._control, self._target.pipeline)).pipelines[0]

    def _meant(self, view: PipelineView) -> list[InstanceView]:
        pipeline = msgspec.convert(view.spec, Pipeline)
        component = self._target.component or ""
        sources = tapped_components(pipeline, component)
        sink = component not in sources
        index = None if sink else self._target.index
        if sink and self._target.index is not None and self._target.index >= _replicas(pipeline, component):
            raise NotFoundError(f"there is no instance {self._target}")
        found = [each for each in view.instances if each.component in sources and index in (None, each.index)]
        if not found:
            raise NotFoundError(f"there is no instance {self._target}")
        return found

    async def _watch(self, instances: list[InstanceView]) -> None:
        """Keep a stream to everybody who runs."""
        try:
            while True:
                self._look.clear()
                for each in instances:
                    if each.address and (each.instance not in self._streams or self._streams[each.instance].done()):
                        self._streams[each.instance] = asyncio.create_task(self._follow(each))
                streaming = any(not task.done() for task in self._streams.values())
                if not streaming and all(_is_over(each) for each in instances):
                    await self._samples.put(None)
                    return
                instances = await self._looked(instances)
        except Exception as error:  # noqa: BLE001 - handed over to whoever reads the samples
            await self._samples.put(error)

    async def _looked(self, before: list[InstanceView]) -> list[InstanceView]:
        """The instances after a while, or soon after one of them went away; as before while the control plane is away."""
        try:
            async with asyncio.timeout(LOOK_INTERVAL_S):
                await self._look.wait()
                await asyncio.sleep(REDIAL_INTERVAL_S)
        except TimeoutError:
            pass
        try:
            return self._meant(await self._pipeline())
        except (ControlPlaneUnreachableError, DeadlineError, JournalUnavailableError):
            return before

    async def _follow(self, instance: InstanceView) -> None:
        """Tap one incarnation of an instance until its stream ends."""
        try:
            await self._tap(instance)
        except grpc.aio.AioRpcError as error:
            await self._explain(instance, error.code(), error.details() or "")
        except TimeoutError:
            await self._explain(instance, grpc.StatusCode.DEADLINE_EXCEEDED, f"no answer within {DIAL_TIMEOUT_S:g} s")
        finally:
            self._look.set()

    async def _tap(self, instance: InstanceView) -> None:
        name = InstanceId.parse(instance.instance)
        upstream = Peer(pipeline=name.pipeline, component=name.component, index=name.index, incarnation=instance.incarnation)
        request = TapRequest(upstream=upstream, events_per_s=self._rate).SerializeToString()
        async with grpc.aio.insecure_channel(instance.address, options=CHANNEL_OPTIONS) as channel:
            call = cast("Any", channel).unary_stream(METHOD)(request)
            try:
                async with asyncio.timeout(DIAL_TIMEOUT_S):
                    await call.initial_metadata()
                # A call that could not be made has headers too, empty ones.
                if call.done() and await call.code() != grpc.StatusCode.OK:
                    await self._explain(instance, await call.code(), await call.details() or "")
                    return
                earlier = self._tapped.get(instance.instance)
                if earlier is not None:
                    self._say(f"{instance.instance} is back: incarnation {instance.incarnation} at {instance.address}")
                self._tapped[instance.instance] = instance.incarnation
                while isinstance(raw := await call.read(), bytes):
                    batch = TapBatch.FromString(raw)
                    for sample, skipped in _parts(batch):
                        await self._samples.put(Sample(instance.instance, sample, skipped))
                self._say(f"{instance.instance} has ended or is being started anew")
            finally:
                call.cancel()

    async def _explain(self, instance: InstanceView, code: grpc.StatusCode, details: str) -> None:
        """Why a stream ended; what cannot become better ends the command."""
        if code == grpc.StatusCode.UNIMPLEMENTED:
            reason = f"{instance.instance} cannot be tapped: its program does not serve Tap"
        elif code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            reason = details
        elif instance.instance in self._tapped:
            if self._tapped[instance.instance] == instance.incarnation:
                self._say(f"{instance.instance} went away; waiting for it to come back")
                self._tapped[instance.instance] = 0
            return
        elif code == grpc.StatusCode.FAILED_PRECONDITION:
            # It was replaced between the look and the call: the next look knows better.
            return
        else:
            # It may have died a moment ago: the next look knows.
            place = (instance.address, instance.incarnation)
            self._refused[place] = self._refused.get(place, 0) + 1
            if self._refused[place] < DIALS:
                return
            reason = f"{instance.instance} cannot be reached at {instance.address}: {details or code.name}"
        await self._samples.put(ComponentError(reason))


def _parts(batch: TapBatch) -> Iterator[tuple[list[Event], int]]:
    skipped = batch.skipped
    for sample in batch.batches:
        yield Columns.read(sample).events(), skipped
        skipped = 0


def _replicas(pipeline: Pipeline, component: str) -> int:
    found = pipeline.component(component)
    return 0 if found is None else found.replicas


def _is_over(instance: InstanceView) -> bool:
    return instance.phase in OVER


def _state(instance: InstanceView) -> str:
    why = instance.waiting_for or instance.reason
    return f"{instance.instance} is {instance.phase}" + (f" ({why})" if why else "")
