"""The agent as a service: puts the driver, the reconciler, the tailer, the prober and the host's presence together."""

import asyncio
import contextlib
import fcntl
import logging
import os
import random
import stat
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from flowctl import __version__, api, paths
from flowctl.errors import RefusedError, UserError
from flowctl.fleet import Assignment, PipelineState
from flowctl.ids import InstanceId
from flowctl.journal.events import HostJoined
from flowctl.serving import ServiceContext
from flowctl.settings import AgentSettings
from flowctl_agent.drivers import Driver, Launch, RunKey
from flowctl_agent.drivers.docker import DockerDriver
from flowctl_agent.drivers.offered import offered
from flowctl_agent.drivers.rundir import living
from flowctl_agent.drivers.several import Drivers
from flowctl_agent.environment import Place, Surroundings, bind_host, prepare, working_directory
from flowctl_agent.metrics import AgentMetrics
from flowctl_agent.ports import PortRange
from flowctl_agent.presence import Presence
from flowctl_agent.probe import Prober
from flowctl_agent.reconciler import Reconciler
from flowctl_agent.tailer import Tailer

MAX_SECRET_BYTES: Final = 1_048_576

log = logging.getLogger("flowctl.agent")


class AgentService:
    """See ``flowctl.serving.Service``. Stopping it leaves running what it started; the next agent adopts that.

    ``settings.registry`` must say where components reach the registry. ``driver`` None is all that the settings ask for.
    """

    name = "agent"

    def __init__(self, context: ServiceContext, settings: AgentSettings, *, driver: Driver | None = None) -> None:
        self._context = context
        self._settings = settings
        self._metrics = AgentMetrics(context.metrics)
        self._driver = Drivers([driver] if driver is not None else offered(settings))
        self._ports = PortRange.of(settings.port_range, bind_host(settings.advertise_host))
        self._lock = -1
        self._started = False
        projection, clock = context.projection, context.clock
        self._reconciler = Reconciler(
            host=settings.name,
            projection=projection,
            driver=self._driver,
            prepare=self._prepare,
            clock=clock,
            metrics=self._metrics,
            seed=random.SystemRandom().getrandbits(32),
        )
        self._tailer = Tailer(driver=self._driver, logs=context.store.logs, clock=clock, metrics=self._metrics)
        self._prober = Prober(host=settings.name, projection=projection, clock=clock, metrics=self._metrics)
        self._presence = Presence(
            host=settings.name,
            joined=self._announcement(),
            projection=projection,
            heartbeats=context.store.heartbeats,
            clock=clock,
            interval_s=settings.host_heartbeat_s,
            count=lambda: self._reconciler.live,
        )
        self._endpoints = context.endpoints(api.AGENT) if context.endpoints is not None else None
        if self._endpoints is not None:
            self._endpoints.add("info", api.InfoRequest, self._info)
            self._endpoints.add("runs", api.RunsRequest, self._runs)

    async def start(self) -> None:
        """Adopt what runs, join, and reconcile.

        Raises:
            RefusedError: another agent runs on this state directory.
            DriverError: the driver cannot work.
        """
        self._take_lock()
        await self._driver.open()
        await self._presence.start()
        await self._reconciler.start()
        self._tailer.start()
        self._prober.start()
        if self._endpoints is not None:
            await self._endpoints.start()
        self._started = True

    async def stop(self) -> None:
        """Leave; what runs goes on running."""
        self._started = False
        async with contextlib.AsyncExitStack() as steps:  # done from the last one up, whatever one of them raises
            steps.callback(self._release_lock)
            steps.push_async_callback(self._driver.close)
            steps.push_async_callback(self._tailer.stop)
            steps.push_async_callback(self._presence.stop, "the agent was stopped")
            steps.push_async_callback(self._reconciler.stop)
            steps.push_async_callback(self._prober.stop)
            if self._endpoints is not None:
                with contextlib.suppress(Exception):  # the connection may be gone, and with it the endpoints
                    await self._endpoints.stop()

    async def failed(self) -> None:
        """See ``Service``: another agent has taken this host's name, or a part of this one has ended."""
        parts = (self._presence.running, self._reconciler.running, self._tailer.running)
        lost = asyncio.ensure_future(self._presence.lost.wait())
        try:
            done, _ = await asyncio.wait({lost, *(part for part in parts if part)}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            lost.cancel()
        if self._presence.superseded is not None:
            raise self._presence.superseded
        for part in done:
            part.result()

    @property
    def waiting(self) -> Mapping[InstanceId, str]:
        """For what nothing is done now, for each instance that waits."""
        return self._reconciler.waiting

    def readiness(self) -> str | None:
        """See ``Service``."""
        if not self._started:
            return "not started"
        if self._context.projection.unavailable_since_ns is not None:
            return "the journal does not answer; what runs goes on"
        if self._presence.unheard:
            return "NATS takes no heartbeats: has it a leader, and room on its disk? What runs goes on"
        return None

    def _take_lock(self) -> None:
        """Two agents on one state directory would fight over the same runs."""
        try:
            self._settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self._settings.state_dir / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UserError(f"the state directory cannot be used: {error}", hint="set state_dir") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            self._lock = -1
            raise RefusedError(f"an agent runs already on {self._settings.state_dir}", hint="stop it first") from error

    def _release_lock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _announcement(self) -> HostJoined:
        settings = self._settings
        return HostJoined(
            agent=uuid.uuid4().hex,
            address=settings.advertise_host,
            drivers=sorted(self._driver.names, reverse=True),
            labels=settings.labels,
            cpus=os.cpu_count() or 0,
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            version=__version__,
        )

    async def _prepare(self, key: RunKey, assignment: Assignment, pipeline: PipelineState | None) -> Launch:
        settings = self._settings
        data_port, health_port = await self._ports_for(key, assignment)
        surroundings = Surroundings(
            registry=settings.registry,
            advertise_host=await self._meeting_point(assignment, pipeline) or settings.advertise_host,
            image=settings.docker_image,
            python=sys.executable,
            log_level=settings.log_level,
            log_format="json" if settings.log_format == "json" else "console",  # people read it with `flowctl logs`
            env=os.environ,
            data_port=data_port,
            health_port=health_port,
        )
        source = pipeline.source if pipeline is not None else ""
        place = Place(cwd=working_directory(source, Path.is_dir), read_file=read_secret)
        return await asyncio.to_thread(prepare, key, assignment, surroundings, place)

    async def _ports_for(self, key: RunKey, assignment: Assignment) -> tuple[int, int]:
        """Where a run is to listen for data and for questions about its health; 0 for any free port, or its component's own."""
        own = assignment.component.ports
        if self._ports is None or (own is not None and own.data and own.health):
            return 0, 0
        runs = {run.key: run.live for run in await self._driver.list()}
        now_s = self._context.clock.monotonic_ns() / 1e9
        data = 0 if own is not None and own.data else self._ports.take(key, runs, now_s)
        health = 0 if own is not None and own.health else self._ports.take(key, runs, now_s)
        return data, health

    async def _meeting_point(self, assignment: Assignment, pipeline: PipelineState | None) -> str | None:
        """Where containers of its pipeline reach a process, if it may have any here and the advertised address will not do."""
        docker = self._driver.get("docker")
        if assignment.driver != "process" or pipeline is None or not isinstance(docker, DockerDriver):
            return None
        spec = pipeline.pipeline.spec
        meets = any((each.driver or spec.driver) == "docker" for _, each in pipeline.pipeline.components())
        return await docker.gateway(pipeline.name) if meets else None

    async def _runs(self, request: api.RunsRequest) -> api.RunsAnswer:
        """What the driver says and what is on the disk besides, not what the journal says."""
        del request
        seq = self._context.projection.fleet.seq
        listed = await self._driver.list()
        found = {run.key: run.handle for run in listed if run.live}
        known = {run.key for run in listed}
        found |= {key: pid for key, pid in living(paths.instances_dir(self._settings.state_dir)).items() if key not in known}
        runs = [
            api.RunView(instance=str(key.instance), incarnation=key.incarnation, handle=handle)
            for key, handle in sorted(found.items())
        ]
        return api.RunsAnswer(host=self._settings.name, seq=seq, runs=runs)

    async def _info(self, request: api.InfoRequest) -> api.Info:
        del request
        waiting = "; ".join(f"{instance} waits for {what}" for instance, what in sorted(self.waiting.items()))
        addresses = {"advertised": self._settings.advertise_host, "registry": self._settings.registry}
        return self._context.info(self.name, self._settings.name, self.readiness(), detail=waiting, addresses=addresses)


def read_secret(path: Path) -> str:
    """The text of a regular file of at most a mebibyte.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
        UserError: it is something else.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UserError("it is not a regular file")
        data = file.read(MAX_SECRET_BYTES + 1)
    if len(data) > MAX_SECRET_BYTES:
        raise UserError(f"it is longer than {MAX_SECRET_BYTES:,} bytes")
    return data.decode()
