"""One instance from its start to its exit code: ties the author's component to the data plane and the registry."""

import asyncio
import gc
import logging
import signal
import uuid
from collections.abc import Coroutine
from typing import Any, Final, Literal

import grpc
import grpc.aio
import msgspec

from flowctl.control.v1 import control_pb2 as control
from flowctl.errors import EXIT_USER, FlowctlError, UserError
from flowctl.ids import InstanceId
from flowctl_sdk.acks import AckLog
from flowctl_sdk.author import Component, Processor, Sink, Source
from flowctl_sdk.calls import Failures
from flowctl_sdk.context import Checkpoint, Context
from flowctl_sdk.control import Registry
from flowctl_sdk.downstream import Edge
from flowctl_sdk.faults import SupersededError
from flowctl_sdk.health import HealthServer, State
from flowctl_sdk.inbox import Inbox
from flowctl_sdk.meters import Meters
from flowctl_sdk.production import Mark, Production
from flowctl_sdk.routing import GroupSpec, Router
from flowctl_sdk.settings import Settings, split_address
from flowctl_sdk.signals import Bell
from flowctl_sdk.upstream import EventStream
from flowctl_sdk.wire import SERVER_OPTIONS, peer
from flowctl_sdk.work import ProcessorWork, SinkWork, Transform

EXIT_COMPLETED: Final = 0
EXIT_FAILED: Final = 1
EXIT_SUPERSEDED: Final = 75
CHECKPOINT_INTERVAL_S: Final = 1.0
LAST_WORDS_S: Final = 5.0

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
        # Rung when routing may go on: an ack, a topology. And when something is done that an ending may wait for.
        self._room = Bell()
        self._settled = Bell()
        self._inbox = Inbox(self._settled.ring)
        self._edges: dict[tuple[str, int], Edge] = {}
        self._completed_upstreams = False
        self._failures = Failures(settings.on_error)
        self._router = Router(self._members_changed)
        self._stream = EventStream(self._me, settings.incarnation, self._router, self._room, open_door=not settings.endpoints)
        self._stream.admit = self._admit
        self._stream.settled = self._settled
        self._acks: AckLog[Mark] = AckLog(self._advanced)
        self._mark: Mark | None = None
        self._committed: Mark | None = None
        self._production: Production | None = None
        self._work: ProcessorWork | SinkWork | None = None
        self._registry: Registry | None = None
        self._server: grpc.aio.Server | None = None
        self._health = HealthServer(self._state)
        self._meters = Meters(self._ctx, self._inbox, self._router, self._edges, self._failures)
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
        await asyncio.to_thread(settings.state_dir.mkdir, parents=True, exist_ok=True)
        address = await self._serve() if not isinstance(self._component, Sink) else ""
        host, port = split_address(settings.health_listen, "FLOWCTL_HEALTH_LISTEN")
        health_port = await self._health.start(host, port)
        if settings.endpoints:
            await self._register(address, f"{settings.advertise_host}:{health_port}")
        await self._component.open(self._ctx)
        self._opened = True
        self._prepare()
        if self._registry is not None:
            self._spawn(self._follow(self._registry))
            self._spawn(self._registry.beat(self._heartbeat))
        else:
            self._dial_inputs()
        gc.freeze()
        self._ready = True
        if logging.getLogger("flowctl").isEnabledFor(logging.DEBUG):
            self._spawn(self._meters.narrate())
        if self._production is not None:
            self._spawn(self._checkpoint())
            await self._production.run()
            self._router.finish()
            await self._room.until(lambda: not len(self._acks) and self._end_known())
        else:
            if self._work is not None:
                self._spawn(self._work.run())
            self._spawn(self._pass_on_the_end())
            await self._settled.until(self._retired)
        self._end(Ending("completed"))

    async def _serve(self) -> str:
        """Start the data plane's server; returns the address that peers dial."""
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers((self._stream.handler(),))
        try:
            port = server.add_insecure_port(self._settings.listen)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._settings.listen}: {error}") from error
        await server.start()
        self._server = server
        return f"{self._settings.advertise_host}:{port}"

    async def _register(self, address: str, health: str) -> None:
        component = self._component
        instance = control.Instance(
            pipeline=self._me.pipeline,
            component=self._me.component,
            index=self._me.index,
            incarnation=self._settings.incarnation,
        )
        request = control.RegisterComponentRequest(
            instance=instance,
            kind=_KINDS[component.kind],
            address=address,
            health_endpoint=health,
            metadata=control.Metadata(name=component.name, description=component.description),
            boot_id=uuid.uuid4().hex,
        )
        self._registry = Registry(self._settings.endpoints, request)
        response = await self._registry.register()
        if response.HasField("checkpoint") and isinstance(component, Source):
            self._ctx.checkpoint = Checkpoint(response.checkpoint.position, response.checkpoint.cursor)

    def _prepare(self) -> None:
        component = self._component
        if isinstance(component, Source):
            self._production = Production(component, self._ctx, self._router, self._room, self._acks)
            self._meters.production = self._production
        elif isinstance(component, Processor):
            transform = Transform(component, self._me.component, self._failures)
            self._work = ProcessorWork(transform, self._inbox, self._router, self._room)
            self._meters.work = self._work
        elif isinstance(component, Sink):
            self._work = SinkWork(component, self._inbox, self._failures)

    async def _follow(self, registry: Registry) -> None:
        async for topology in registry.topologies():
            _log.debug(
                "topology received: %s",
                ", ".join(
                    [
                        f"from {up.instance.component}.{up.instance.index} at {up.address or '(not up)'}"
                        for up in topology.upstreams
                    ]
                    + [f"to {group.component} x{len(group.instances)}" for group in topology.downstreams]
                )
                or "no neighbours",
            )
            self._apply(topology)

    def _apply(self, topology: control.Topology) -> None:
        for group in topology.downstreams:
            for instance in group.instances:
                self._stream.expect(instance.component, instance.index, instance.incarnation)
        self._router.apply([_group_spec(group) for group in topology.downstreams])
        wanted: set[tuple[str, int]] = set()
        for upstream in topology.upstreams:
            instance = upstream.instance
            key = (instance.component, instance.index)
            wanted.add(key)
            if key not in self._edges:
                self._connect(key, InstanceId(instance.pipeline, instance.component, instance.index), instance.incarnation)
            self._edges[key].ended |= upstream.completed
            self._edges[key].move("" if upstream.completed else upstream.address, instance.incarnation)
        for key in [key for key in self._edges if key not in wanted]:
            self._edges.pop(key).leave()
        self._completed_upstreams = bool(topology.upstreams) and all(up.completed for up in topology.upstreams)
        self._room.ring()
        self._settled.ring()

    def _connect(self, key: tuple[str, int], upstream: InstanceId, incarnation: int) -> None:
        edge = Edge(peer(self._me, self._settings.incarnation), peer(upstream, incarnation), self._inbox, self._settled)
        self._edges[key] = edge
        edge.task = self._spawn(edge.run())

    def _members_changed(self) -> None:
        self._stream.members_changed()

    def _advanced(self, mark: Mark) -> None:
        self._mark = mark

    def _retired(self) -> bool:
        """Whether nothing can come any more, and nothing of this instance is open."""
        if self._settings.endpoints:
            over = self._completed_upstreams
        else:
            over = self._upstreams_ended() and all(edge.in_flight == 0 and edge.told for edge in self._edges.values())
        return over and self._inbox.idle and self._router.outstanding == 0 and self._end_known()

    def _upstreams_ended(self) -> bool:
        return bool(self._edges) and all(edge.ended for edge in self._edges.values())

    def _end_known(self) -> bool:
        """Without a registry, only the stream itself can tell downstreams that nothing follows."""
        return (
            bool(self._settings.endpoints)
            or isinstance(self._component, Sink)
            or (self._router.finished and self._stream.end_told)
        )

    async def _pass_on_the_end(self) -> None:
        """Say that nothing follows once all inputs have said so and everything is worked off; a restarted input takes it back."""
        while True:
            await self._settled.until(lambda: not self._router.finished and self._upstreams_ended() and self._inbox.idle)
            self._router.finish()

    # -- standalone --------------------------------------------------------------------------------------------------

    def _dial_inputs(self) -> None:
        """Without a registry the environment says whom to dial, and whoever dials is served."""
        for number, address in enumerate(self._settings.inputs):
            self._connect((f"input-{number}", 0), InstanceId("", "", 0), 0)
            self._edges[f"input-{number}", 0].move(address, 0)
        if isinstance(self._component, Sink):
            self._router.apply([])

    def _admit(self, component: str, index: int) -> None:
        groups = {name: group.spec for name, group in self._router.groups.items()}
        members = groups[component].members if component in groups else ()
        groups[component] = GroupSpec(component, tuple(sorted({*members, index})))
        self._router.apply(list(groups.values()))
        self._room.ring()

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
        left = self._router.outstanding + sum(edge.in_flight for edge in self._edges.values())
        if left:
            _log.warning("stopped with %d events not acknowledged; they will be sent again", left)
        return ending

    async def _drained(self) -> None:
        if self._production is not None:
            self._production.stop()
            await self._room.until(lambda: self._router.finished and not len(self._acks))
        else:
            for edge in self._edges.values():
                edge.close_intake()
            await self._settled.until(
                lambda: self._inbox.idle and self._router.outstanding == 0 and all(edge.told for edge in self._edges.values())
            )
        self._end(Ending("stopped"))

    async def _depart(self, ending: Ending) -> int:
        """Commit, say goodbye, let go; returns the exit code."""
        if ending.reason == "failed":
            _log.error("%s", ending.detail)
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
        if self._server is not None:
            await self._server.stop(None)
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
        if ending.reason in {"completed", "stopped"} and isinstance(self._component, Source) and self._opened:
            await self._commit()
        registry = self._registry
        if registry is None or not registry.registered or ending.reason == "superseded":
            return
        await registry.last_beat(self._heartbeat())
        reasons: dict[str, control.DeregisterReason.ValueType] = {
            "completed": control.DEREGISTER_REASON_COMPLETED,
            "stopped": control.DEREGISTER_REASON_STOPPED,
            "failed": control.DEREGISTER_REASON_FAILED,
        }
        await registry.deregister(reasons[ending.reason], ending.detail)

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
        return State(healthy, healthy and self._ready, detail, f"{self._me.component}.{self._me.index}", self._meters.metrics())

    def _heartbeat(self) -> control.HeartbeatRequest:
        instance = control.Instance(
            pipeline=self._me.pipeline,
            component=self._me.component,
            index=self._me.index,
            incarnation=self._settings.incarnation,
        )
        return control.HeartbeatRequest(instance=instance, metrics=self._meters.metrics(), edges=self._meters.edges())


def _group_spec(group: control.DownstreamGroup) -> GroupSpec:
    members = tuple(sorted(instance.index for instance in group.instances))
    return GroupSpec(group.component, members, group.partition_by, group.when_full == control.WHEN_FULL_DROP)
