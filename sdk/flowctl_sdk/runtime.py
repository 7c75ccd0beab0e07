"""One instance from its start to its exit code: ties the author's component to the data plane and the registry."""

import asyncio
import gc
import logging
import signal
import uuid
from collections.abc import Coroutine
from typing import Any, Final, Literal

import msgspec

from flowctl.control.v1 import control_pb2 as control
from flowctl.errors import EXIT_USER, FlowctlError, UserError
from flowctl_sdk.acks import AckLog
from flowctl_sdk.author import Component, Processor, Sink, Source
from flowctl_sdk.calls import Failures
from flowctl_sdk.context import Checkpoint, Context
from flowctl_sdk.control import Registry
from flowctl_sdk.faults import SupersededError
from flowctl_sdk.health import HealthServer, State
from flowctl_sdk.meters import Meters
from flowctl_sdk.neighbours import Neighbours, Newest
from flowctl_sdk.production import Mark, Production
from flowctl_sdk.redrives import Redrives
from flowctl_sdk.settings import Settings, split_address
from flowctl_sdk.windowed import WindowTransform, WindowWork
from flowctl_sdk.work import ProcessorWork, SinkWork, Transform

EXIT_COMPLETED: Final = 0
EXIT_FAILED: Final = 1
EXIT_SUPERSEDED: Final = 75
CHECKPOINT_INTERVAL_S: Final = 1.0
LAST_WORDS_S: Final = 5.0
NARRATION_INTERVAL_S: Final = 1.0

_KINDS: Final = {"source": control.KIND_SOURCE, "processor": control.KIND_PROCESSOR, "sink": control.KIND_SINK}
_log = logging.getLogger("flowctl.instance")


class Ending(msgspec.Struct, frozen=True):
    """Why an instance ends."""

    reason: Literal["completed", "stopped", "failed", "superseded"]
    detail: str = ""
    bad_settings: bool = False


class Runtime:
    """Runs one component under the given settings."""

    def __init__(self, component: Component, settings: Settings) -> None:
        self._component = component
        self._settings = settings
        self._me = settings.instance
        self._ctx = Context(
            config=settings.config, instance=self._me, state_dir=settings.state_dir, incarnation=settings.incarnation
        )
        self._failures = Failures(settings.on_error)
        self._neighbours = Neighbours(self._me, settings.incarnation, self._spawn, alone=not settings.endpoints)
        self._acks: AckLog[Mark] = AckLog(self._advanced)
        self._mark: Mark | None = None
        self._committed: Mark | None = None
        self._production: Production | None = None
        self._work: ProcessorWork | WindowWork | SinkWork | None = None
        self._registry: Registry | None = None
        self._redrives: Redrives | None = None
        self._health = HealthServer(self._state)
        self._meters = Meters(self._ctx, self._neighbours, self._failures)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: asyncio.Future[Ending] | None = None
        self._opened = False
        self._ready = False

    async def run(self) -> int:
        """Live; returns the exit code."""
        loop = asyncio.get_running_loop()
        self._ending = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        life = self._spawn(self._live())
        ending = await asyncio.shield(self._ending)
        if ending.reason == "stopped":
            ending = await self._drain(ending)
        life.cancel()
        return await self._depart(ending)

    def stop(self) -> None:
        """Ask for an orderly end, as SIGTERM does."""
        if not self._ctx.stopping.is_set():
            _log.info("asked to stop")
        self._ctx.stopping.set()
        self._end(Ending("stopped"))

    # -- living ------------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        settings = self._settings
        address = ""
        if not isinstance(self._component, Sink):
            address = f"{settings.advertise_host}:{await self._neighbours.serve(settings.listen)}"
        host, port = split_address(settings.health_listen, "FLOWCTL_HEALTH_LISTEN")
        health_port = await self._health.start(host, port)
        if settings.endpoints:
            self._registry = await self._register(address, f"{settings.advertise_host}:{health_port}")
            # Before the author's open(), which may take long.
            self._spawn(self._registry.beat(self._heartbeat))
        await self._component.open(self._ctx)
        self._opened = True
        self._prepare()
        if self._registry is not None:
            self._spawn(self._follow(self._registry))
            if self._redrives is not None:
                self._spawn(self._redrives.run())
                self._spawn(self._redrives.report())
        else:
            self._neighbours.dial(settings.inputs)
        gc.freeze()
        self._ready = True
        if _log.isEnabledFor(logging.DEBUG):
            self._spawn(self._narrate())
        neighbours = self._neighbours
        if self._production is not None:
            self._spawn(self._checkpoint())
            await self._production.run()
            neighbours.router.finish()
            await neighbours.room.until(lambda: self._acknowledged and neighbours.end_known)
        else:
            if self._work is not None:
                self._spawn(self._work.run())
            self._spawn(neighbours.pass_on_the_end())
            redrives = self._redrives
            await neighbours.settled.until(lambda: neighbours.retired and (redrives is None or redrives.idle))
        self._end(Ending("completed"))

    @property
    def _acknowledged(self) -> bool:
        """Whether nothing of a source is under way: nobody waits for an event, nor has one kept that nobody waits for."""
        return not len(self._acks) and self._neighbours.router.outstanding == 0

    @property
    def _cut_off(self) -> bool:
        """Whether nothing that is under way can come to its end any more; a sink has nobody downstream anyway."""
        return self._neighbours.router.cut_off and not isinstance(self._component, Sink)

    async def _register(self, address: str, health: str) -> Registry:
        component = self._component
        request = control.RegisterComponentRequest(
            instance=self._instance(),
            kind=_KINDS[component.kind],
            address=address,
            health_endpoint=health,
            metadata=control.Metadata(name=component.name, description=component.description),
            boot_id=uuid.uuid4().hex,
        )
        self._registry = registry = Registry(self._settings.endpoints, request)
        response = await registry.register()
        if response.HasField("checkpoint") and isinstance(component, Source):
            self._ctx.checkpoint = Checkpoint(response.checkpoint.position, response.checkpoint.cursor)
        return registry

    def _instance(self) -> control.Instance:
        me = self._me
        return control.Instance(
            pipeline=me.pipeline, component=me.component, index=me.index, incarnation=self._settings.incarnation
        )

    def _prepare(self) -> None:
        component, neighbours = self._component, self._neighbours
        if isinstance(component, Source):
            self._production = Production(component, self._ctx, neighbours.router, neighbours.room, self._acks)
        elif isinstance(component, Processor) and component.window is not None:
            windows = WindowTransform(component, component.window, self._me.component, self._failures)
            inbox, router, room, settled = neighbours.inbox, neighbours.router, neighbours.room, neighbours.settled
            self._work = WindowWork(windows, inbox, router, room, settled=settled, over=lambda: neighbours.intake_over)
        elif isinstance(component, Processor):
            transform = Transform(component, self._me.component, self._failures)
            self._work = ProcessorWork(transform, neighbours.inbox, neighbours.router, neighbours.room)
        elif isinstance(component, Sink):
            self._work = SinkWork(component, neighbours.inbox, self._failures)
        self._meters.work = self._work
        if self._work is not None and self._registry is not None:
            self._redrives = Redrives(self._registry, neighbours.inbox, neighbours.settled)
            self._meters.redrives = self._failures.keeper = self._redrives

    async def _follow(self, registry: Registry) -> None:
        newest = Newest()
        async for topology in registry.topologies():
            if newest.admits(topology.sequence, registry.registrations):
                self._neighbours.apply(topology)
            else:
                _log.debug("passed over the topology of a registry that lags: its sequence is %d", topology.sequence)

    def _advanced(self, mark: Mark) -> None:
        self._mark = mark

    async def _narrate(self) -> None:
        while True:
            await asyncio.sleep(NARRATION_INTERVAL_S)
            self._meters.narrate()

    # -- checkpoints -------------------------------------------------------------------------------------------------

    async def _checkpoint(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_INTERVAL_S)
            await self._commit()

    async def _commit(self) -> None:
        mark = self._mark
        if mark is None or mark == self._committed:
            return
        if self._registry is not None:
            await self._registry.commit(mark.position, mark.cursor)
        self._committed = mark
        if isinstance(self._component, Source):
            await self._component.committed(Checkpoint(mark.position, mark.cursor))

    # -- ending ------------------------------------------------------------------------------------------------------

    async def _drain(self, ending: Ending) -> Ending:
        """Let what is under way come to its end, for as long as the stop timeout allows."""
        if not self._ready:
            return ending
        allowed_s = max(self._settings.stop_timeout_s * 0.8, self._settings.stop_timeout_s - 2.0)
        self._ending = asyncio.get_running_loop().create_future()
        drained = self._spawn(self._drained())
        try:
            await asyncio.wait((drained, self._ending), timeout=allowed_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            drained.cancel()
        if self._ending.done() and self._ending.result().reason in {"failed", "superseded"}:
            return self._ending.result()
        left = self._neighbours.in_flight
        if left:
            _log.warning("stopped with %d events not acknowledged; they will be sent again", left)
        return ending

    async def _drained(self) -> None:
        neighbours = self._neighbours
        if self._production is not None:
            self._production.stop()
            await neighbours.room.until(lambda: self._cut_off or (neighbours.router.finished and self._acknowledged))
        else:
            redrives = self._redrives
            if redrives is not None:
                redrives.close_intake()
            neighbours.close_intake()
            await neighbours.settled.until(
                lambda: self._cut_off or (neighbours.drained and (redrives is None or redrives.drained))
            )
        self._end(Ending("stopped"))

    async def _depart(self, ending: Ending) -> int:
        """Commit, say goodbye, let go; returns the exit code."""
        if ending.reason == "failed":
            _log.error("%s", ending.detail)
        self._meters.narrate()
        if ending.reason != "superseded":
            await self._neighbours.leave()
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks, timeout=1.0) if self._tasks else None
        code = {"failed": EXIT_FAILED, "superseded": EXIT_SUPERSEDED}.get(ending.reason, EXIT_COMPLETED)
        if ending.bad_settings:
            code = EXIT_USER
        try:
            await self._patiently(ending)
        except TimeoutError:
            _log.warning("could not tell the registry of the end within %.0f s", LAST_WORDS_S)
        except SupersededError as error:
            _log.warning("superseded: %s", error.message)
            code = EXIT_SUPERSEDED
        except Exception as error:  # noqa: BLE001 - the author's committed() may raise anything
            _log.error("failed at the end: %s: %s", type(error).__name__, error)
            code = EXIT_FAILED
        if self._opened:
            try:
                await self._component.close()
            except Exception as error:  # noqa: BLE001 - the author's code may raise anything
                _log.error("close() failed: %s: %s", type(error).__name__, error)
        await self._health.stop()
        await self._neighbours.close()
        if self._registry is not None:
            await self._registry.close()
        _log.info("%s%s", ending.reason, f" ({self._meters.summary()})")
        return code

    async def _patiently(self, ending: Ending) -> None:
        """The last words: a completion has all the time that it needs, unless it is asked to stop; anything else five seconds."""
        words = asyncio.create_task(self._last_words(ending))
        if ending.reason == "completed":
            stopping = asyncio.create_task(self._ctx.stopping.wait())
            await asyncio.wait((words, stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
        async with asyncio.timeout(LAST_WORDS_S):
            await words

    async def _last_words(self, ending: Ending) -> None:
        if ending.reason != "superseded" and self._production is not None:
            await self._commit()
        registry = self._registry
        if registry is None or not registry.registered or ending.reason == "superseded":
            return
        reasons: dict[str, control.DeregisterReason.ValueType] = {
            "completed": control.DEREGISTER_REASON_COMPLETED,
            "stopped": control.DEREGISTER_REASON_STOPPED,
            "failed": control.DEREGISTER_REASON_FAILED,
        }
        reason = reasons[ending.reason]
        await registry.last_beat(self._heartbeat(reason))
        await registry.deregister(reason, ending.detail)

    # -- plumbing ----------------------------------------------------------------------------------------------------

    def _end(self, ending: Ending) -> None:
        if self._ending is not None and not self._ending.done():
            self._ending.set_result(ending)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run in the background; an error there ends the instance."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if isinstance(error, SupersededError):
            self._end(Ending("superseded", error.message))
            return
        if isinstance(error, FlowctlError):
            detail = str(error)
            _log.debug("where it failed", exc_info=error)
        else:
            detail = f"{type(error).__name__}: {error}"
            _log.error("the component's code raised", exc_info=error)
        self._end(Ending("failed", detail, isinstance(error, UserError)))

    def _state(self) -> State:
        registered = self._registry is None or self._registry.registered
        healthy = registered and (self._ending is None or not self._ending.done())
        detail = "working" if self._ready else "opening" if registered else "not registered"
        if self._ctx.stopping.is_set():
            detail = "stopping"
        name, meters = f"{self._me.component}.{self._me.index}", self._meters
        return State(healthy, healthy and self._ready, detail, name, meters.metrics(), meters.edges())

    def _heartbeat(
        self, ending: control.DeregisterReason.ValueType = control.DEREGISTER_REASON_UNSPECIFIED
    ) -> control.HeartbeatRequest:
        meters = self._meters
        return control.HeartbeatRequest(
            instance=self._instance(), metrics=meters.metrics(), edges=meters.edges(), groups=meters.groups(), ending=ending
        )
