"""The whole of flowctl in one loop: real services on lines to one journal, hosts with agents and programs, and a user.

What is real: registry, health monitor and orchestrator as they are served (without their wire), the agent's presence and
reconciler, every projection and every pure module. What is simulated: the journal's server (its in-memory twin), the network,
the driver and the programs.
"""

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
from prometheus_client import CollectorRegistry

from flowctl import api
from flowctl.clock import Clock
from flowctl.errors import EXIT_TIMED_OUT, EXIT_UNREACHABLE, ControlPlaneUnreachableError, FlowctlError
from flowctl.fleet import Assignment, PipelineState
from flowctl.ids import InstanceId
from flowctl.journal.events import HostJoined
from flowctl.journal.log import Entry
from flowctl.projection import Projection, retrying
from flowctl.serving import Service, ServiceContext
from flowctl.settings import HealthSettings, OrchestratorSettings, RegistrySettings
from flowctl.spec.model import Kind, Pipeline
from flowctl_agent.drivers import Launch, RunKey
from flowctl_agent.drivers.several import Drivers
from flowctl_agent.environment import Place, Surroundings, prepare
from flowctl_agent.metrics import AgentMetrics
from flowctl_agent.presence import Presence
from flowctl_agent.reconciler import Reconciler
from flowctl_health.service import HealthService
from flowctl_orchestrator.service import OrchestratorService
from flowctl_registry.handlers import Handlers
from flowctl_registry.service import RegistryService
from flowctl_registry.servicer import Servicer
from simulation.line import Disk, Line, Weather
from simulation.loop import START_NS, Loop, LoopClock, Process
from simulation.machines import Host, SimDriver
from simulation.oracle import Oracle

T = TypeVar("T")
Role = Literal["registry", "health", "orchestrator", "agent"]

HEARTBEAT_S = 3.0
SILENCE_S = 10.0


class Deaf:
    """A registry's server that nobody connects to: calls come through ``World.call``."""

    def __init__(self) -> None:
        self.address = ""

    def add(self, servicer: Servicer) -> None:
        """See ``Serving``."""

    def bind(self, listen: str) -> None:
        """See ``Serving``."""
        self.address = listen

    async def start(self) -> None:
        """See ``Serving``."""

    async def set_serving(self, *, serving: bool) -> None:
        """See ``Serving``."""

    async def stop(self) -> None:
        """See ``Serving``."""


class Server:
    """One replica of a service or one agent, over all its lives. It comes back some time after each end."""

    def __init__(self, world: "World", role: Role, name: str, host: Host | None = None) -> None:
        self.world = world
        self.role: Role = role
        self.name = name
        self.host = host
        self.lives = 0
        self.stays_down = False
        self.process: Process | None = None
        self.line: Line | None = None
        self.service: Service | None = None
        self.stopping = False

    @property
    def up(self) -> bool:
        """Whether it has not ended."""
        return self.process is not None and self.process.state != "dead"

    def start(self) -> None:
        """Begin a life."""
        if self.up:
            return
        self.lives += 1
        self.stopping = False
        self.service = None
        world = self.world
        world.tell("up", self.name, self.lives)
        self.process = Process(world.loop, self.name)
        self.process.killed = self._killed
        clock = LoopClock(world.loop, skew_s=self.host.skew_s if self.host is not None else 0.0)
        self.line = Line(world.disk, self.process, clock)
        self.line.cut = self.host.cut if self.host is not None else False
        self.process.spawn(self._live(self.line, clock))

    def _killed(self) -> None:
        self.world.tell("down", self.name)
        if self.line is not None:
            self.world.disk.lines.remove(self.line)
        if not self.stays_down:
            self.world.loop.at(0.2 + 3 * self.world.chance.random(), self._again)

    def _again(self) -> None:
        if not self.stays_down:
            self.start()

    async def _live(self, line: Line, clock: Clock) -> None:
        """As ``run_service`` does: fold the journal, serve, end when something makes going on impossible."""
        projection = Projection(line.journal, clock=clock)
        try:
            following = await retrying(projection.start, clock=clock, what="reading")
            context = ServiceContext(store=line, projection=projection, clock=clock, metrics=CollectorRegistry())
            service = self._build(context)
            await service.start()
            self.service = service
            failed = asyncio.create_task(service.failed())
            done, _ = await asyncio.wait([following, failed], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            if not self.stopping:
                self.world.oracle.wrong(f"{self.name} ended for no reason")
        except FlowctlError as error:
            self.world.ended(self, error)
        if self.process is not None:
            self.world.loop.at(0, self.process.kill)

    def _build(self, context: ServiceContext) -> Service:
        match self.role:
            case "registry":
                settings = RegistrySettings.model_construct(
                    name=self.name, registry_listen="127.0.0.1:1", heartbeat_interval_s=HEARTBEAT_S
                )
                return RegistryService(context, settings, server=Deaf)
            case "health":
                return HealthService(
                    context, HealthSettings.model_construct(name=self.name, silence_s=SILENCE_S, check_interval_s=2.0)
                )
            case "orchestrator":
                return OrchestratorService(context, OrchestratorSettings.model_construct(name=self.name))
            case "agent":
                assert self.host is not None
                return SimAgent(self, context, self.host)

    async def leave(self) -> None:
        """Stop on purpose, as SIGTERM does; the process ends then."""
        if self.service is not None:
            await self.service.stop()
        if self.process is not None:
            self.world.loop.at(0, self.process.kill)


class SimAgent:
    """The agent's presence and reconciler on the driver of a host; without what reads output and probes."""

    name = "agent"

    def __init__(self, server: Server, context: ServiceContext, host: Host) -> None:
        world = server.world
        assert server.process is not None
        driver = SimDriver(host, server.process, LoopClock(world.loop))
        projection, clock = context.projection, context.clock
        self._reconciler = Reconciler(
            host=host.name,
            projection=projection,
            driver=Drivers([driver]),
            prepare=_prepare,
            clock=clock,
            metrics=AgentMetrics(context.metrics),
            seed=world.seed + server.lives,
        )
        self._presence = Presence(
            host=host.name,
            joined=HostJoined(agent=f"{host.name}-{server.lives}", address=host.name, drivers=["process"]),
            projection=projection,
            heartbeats=context.store.heartbeats,
            clock=clock,
            interval_s=HEARTBEAT_S,
            count=lambda: self._reconciler.live,
        )

    async def start(self) -> None:
        """See ``Service``."""
        await self._presence.start()
        await self._reconciler.start()

    async def stop(self) -> None:
        """See ``Service``."""
        await self._reconciler.stop()
        await self._presence.stop("the agent was stopped")

    async def failed(self) -> None:
        """See ``Service``."""
        parts = (self._presence.running, self._reconciler.running)
        lost = asyncio.ensure_future(self._presence.lost.wait())
        await asyncio.wait([lost, *(part for part in parts if part)], return_when=asyncio.FIRST_COMPLETED)
        if self._presence.superseded is not None:
            raise self._presence.superseded

    def readiness(self) -> str | None:
        """See ``Service``."""
        return None


_SURROUNDINGS = Surroundings(
    registry="r:1", advertise_host="localhost", python="/usr/bin/python3", log_level="info", log_format="console", env={}
)
_PLACE = Place(cwd=None, read_file=Path.read_text)


async def _prepare(key: RunKey, assignment: Assignment, pipeline: PipelineState | None) -> Launch:
    del pipeline
    return prepare(key, assignment, _SURROUNDINGS, _PLACE)


class World:
    """Everything. ``trace`` is what happened, a line each; ``finite`` are the pipelines that have an end."""

    def __init__(self, seed: int, *, replicas: tuple[int, int, int], hosts: int, tracing: bool = False) -> None:
        self.seed = seed
        self.chance = random.Random(f"flowctl/{seed}")
        self.loop = Loop()
        self.weather = Weather(self.chance)
        self.counts: Counter[str] = Counter()
        self.trace: list[str] = []
        self._digest = hashlib.sha256()
        self._tracing = tracing
        self.oracle = Oracle(self)
        self.disk = Disk(self.loop, self.weather, self._written)
        self.hosts = {name: Host(self, name) for name in (f"h{number + 1}" for number in range(hosts))}
        self.silence_s, self.heartbeat_s = SILENCE_S, HEARTBEAT_S
        self.start_fails = 0.0
        self.finite: set[str] = set()
        self.may_fail = False
        self.servers = [
            *(Server(self, "registry", f"registry-{number}") for number in range(replicas[0])),
            *(Server(self, "health", f"health-{number}") for number in range(replicas[1])),
            *(Server(self, "orchestrator", f"orchestrator-{number}") for number in range(replicas[2])),
            *(Server(self, "agent", f"agent-{host.name}", host) for host in self.hosts.values()),
        ]
        self.registries = [server for server in self.servers if server.role == "registry"]
        self.orchestrators = [server for server in self.servers if server.role == "orchestrator"]
        self.user = Process(self.loop, "user")

    def time_s(self) -> float:
        """Seconds since the beginning."""
        return (self.loop.now_ns - START_NS) / 1e9

    def tell(self, *what: object) -> None:
        """A line of the trace."""
        line = f"{self.loop.now_ns - START_NS} {' '.join(map(str, what))}"
        self._digest.update(line.encode())
        if self._tracing:
            self.trace.append(line)

    def count(self, what: str) -> None:
        """Once more."""
        self.counts[what] += 1

    @property
    def digest(self) -> str:
        """A SHA-256 (hex) of the trace and of the journal."""
        return hashlib.sha256(self._digest.digest() + self.oracle.fleet.digest().encode()).hexdigest()

    def kind_of(self, instance: InstanceId) -> Kind:
        """What an instance is."""
        known = self.oracle.fleet.instances.get(instance)
        return known.assignment.kind if known is not None and known.assignment is not None else "source"

    def ended(self, server: Server, error: FlowctlError) -> None:
        """A service could not go on. An agent whose host another one has joined is right to end."""
        self.tell("ends", server.name, error)
        if server.role != "agent":
            self.oracle.wrong(f"{server.name} ended: {error}")

    def _written(self, entries: list[Entry]) -> None:
        for entry in entries:
            self.tell("entry", entry.seq, entry.subject, entry.actor, entry.hash)
        self.oracle.written(entries)

    # --- calls ---------------------------------------------------------------------------------------------------------------

    async def call(self, host: Host, server: Server, ask: Callable[[Handlers], Awaitable[T]], timeout_s: float) -> T:
        """Ask a registry, over a network that may lose the request or the answer, or deliver the request twice.

        Raises:
            TimeoutError: no answer came.
            FlowctlError: what the registry says instead.
        """

        def asked(service: Service) -> Awaitable[T]:
            assert isinstance(service, RegistryService)
            return ask(service.handlers)

        return await self._call(server, asked, timeout_s, lambda: not host.cut)

    async def command(self, server: Server, ask: Callable[[OrchestratorService], Awaitable[T]], timeout_s: float) -> T:
        """Ask an orchestrator what a user wants; see ``call``."""

        def asked(service: Service) -> Awaitable[T]:
            assert isinstance(service, OrchestratorService)
            return ask(service)

        return await self._call(server, asked, timeout_s, lambda: server.line is not None and server.line.reached)

    async def _call(
        self, server: Server, ask: Callable[[Service], Awaitable[T]], timeout_s: float, reaches: Callable[[], bool]
    ) -> T:
        answer: asyncio.Future[T] = self.loop.create_future()
        for _ in range(2 if self.weather.happens(self.weather.twice) else 1):
            self.loop.at(self.weather.travel_s(), self._request, server, ask, answer, reaches)
        async with asyncio.timeout(timeout_s):
            return await answer

    def _request(
        self,
        server: Server,
        ask: Callable[[Service], Awaitable[T]],
        answer: "asyncio.Future[T]",
        reaches: Callable[[], bool],
    ) -> None:
        if not reaches():
            return
        if not server.up or server.service is None or server.process is None:
            self.loop.at(self.weather.travel_s(), _settle, answer, ControlPlaneUnreachableError("connection refused"))
            return
        server.process.spawn(self._serve(server.service, ask, answer, reaches))

    async def _serve(
        self,
        service: Service,
        ask: Callable[[Service], Awaitable[T]],
        answer: "asyncio.Future[T]",
        reaches: Callable[[], bool],
    ) -> None:
        outcome: T | FlowctlError
        try:
            outcome = await ask(service)
        except FlowctlError as error:
            outcome = error
        if reaches() and not self.weather.happens(self.weather.lost_answer):
            self.loop.at(self.weather.travel_s(), _settle, answer, outcome)

    # --- a user --------------------------------------------------------------------------------------------------------------

    async def submit(self, pipeline: Pipeline) -> None:
        """Submit until somebody has accepted it, or refused it."""
        raw = msgspec.Raw(msgspec.json.encode(pipeline))
        request = api.Submit(pipeline=raw, actor="user", correlation=f"c{self.loop.steps}")
        done = await self._insist(lambda service: service.commands.submit(request))
        if done is not None:
            self.oracle.submitted(done.pipeline, done.revision)

    async def stop(self, name: str) -> None:
        """Stop a pipeline."""
        await self._insist(lambda service: service.commands.stop(api.Stop(pipeline=name, actor="user")))

    async def scale(self, name: str, component: str, replicas: int) -> None:
        """Change how many instances a component has."""
        request = api.Scale(pipeline=name, component=component, replicas=replicas, actor="user")
        await self._insist(lambda service: service.commands.scale(request))

    async def restart(self, name: str, component: str | None) -> None:
        """Start instances anew."""
        request = api.RestartInstances(pipeline=name, component=component, actor="user")
        await self._insist(lambda service: service.commands.restart(request))

    async def _insist(self, ask: Callable[[OrchestratorService], Awaitable[T]]) -> T | None:
        for _ in range(60):
            server = self.chance.choice(self.orchestrators)
            try:
                return await self.command(server, ask, 5.0)
            except (TimeoutError, ControlPlaneUnreachableError):
                pass
            except FlowctlError as error:
                if error.exit_code not in (EXIT_UNREACHABLE, EXIT_TIMED_OUT):
                    self.tell("refused", error)
                    return None
            await LoopClock(self.loop).sleep(0.5)
        self.tell("the user gives up")
        return None

    def close(self) -> None:
        """End everything."""
        for server in self.servers:
            server.stays_down = True
            if server.process is not None:
                server.process.kill()
        for host in self.hosts.values():
            for program in host.programs.values():
                program.process.kill()
        self.user.kill()
        self.loop.close()


def _settle(answer: "asyncio.Future[T]", outcome: "T | FlowctlError") -> None:
    if answer.done():
        return
    if isinstance(outcome, FlowctlError):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
