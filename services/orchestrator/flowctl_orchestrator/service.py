"""The orchestrator as a service: composed, started, watched, stopped."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flowctl import api
from flowctl.endpoints import Endpoints
from flowctl.projection import Projection
from flowctl.sealing import Sealer
from flowctl.serving import ServiceContext
from flowctl.settings import OrchestratorSettings
from flowctl_orchestrator.commands import Commands
from flowctl_orchestrator.planner import Planner
from flowctl_orchestrator.snapshotter import Snapshotter


class OrchestratorService:
    """The orchestrator. Any number of them may run on one journal."""

    name = api.ORCHESTRATOR

    def __init__(self, context: ServiceContext, settings: OrchestratorSettings) -> None:
        self._context = context
        self._planner = Planner(
            context.projection, clock=context.clock, actor=f"orchestrator/{settings.name}", metrics=context.metrics
        )
        self.commands = Commands(context, self._planner, name=settings.name)
        context.metrics.register(_Numbers(context.projection))
        self._endpoints: Endpoints | None = None
        self._planning: asyncio.Task[None] | None = None
        self._sealer = Sealer(context.projection, actor=f"orchestrator/{settings.name}", clock=context.clock)
        self._sealing: asyncio.Task[None] | None = None
        self._snapshotter = Snapshotter(context.projection, context.store, clock=context.clock)
        self._snapshots: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to plan and to answer."""
        self._planning = asyncio.create_task(self._planner.run(), name="orchestrator-planning")
        self._sealing = asyncio.create_task(self._sealer.run(), name="orchestrator-sealing")
        self._snapshots = asyncio.create_task(self._snapshotter.run(), name="orchestrator-snapshots")
        if self._context.endpoints is None:
            return
        self._endpoints = self._context.endpoints(api.ORCHESTRATOR)
        self._endpoints.add("submit", api.Submit, self.commands.submit)
        self._endpoints.add("preview", api.Preview, self.commands.preview)
        self._endpoints.add("drain", api.DrainHost, self.commands.drain)
        self._endpoints.add("undrain", api.UndrainHost, self.commands.undrain)
        self._endpoints.add("stop", api.Stop, self.commands.stop)
        self._endpoints.add("restart", api.RestartInstances, self.commands.restart)
        self._endpoints.add("scale", api.Scale, self.commands.scale)
        self._endpoints.add("status", api.StatusRequest, self.commands.status)
        self._endpoints.add("info", api.InfoRequest, self.commands.info)
        await self._endpoints.start()

    async def stop(self) -> None:
        """Answer no more, plan no more."""
        if self._endpoints is not None:
            with contextlib.suppress(Exception):  # the connection may be gone, and with it the endpoints
                await self._endpoints.stop()
            self._endpoints = None
        for task in (self._planning, self._sealing, self._snapshots):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._planning = self._sealing = self._snapshots = None

    async def failed(self) -> None:
        """See ``Service``."""
        if self._planning is not None:
            await asyncio.shield(self._planning)

    def readiness(self) -> str | None:
        """See ``Service``."""
        if self._planning is None:
            return "it has not started yet"
        if self._planning.done():
            return "the planning has ended"
        return self.commands.readiness()


class _Numbers(Collector):
    """How many pipelines and instances there are, counted when somebody asks."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection

    def collect(self) -> Iterator[Metric]:
        fleet = self._projection.fleet
        pipelines = Counter(state.status for state in list(fleet.pipelines.values()))
        instances = Counter(instance.phase for instance in list(fleet.instances.values()))
        by_status = GaugeMetricFamily("flowctl_orchestrator_pipelines", "Pipelines by status", labels=["status"])
        for status, count in sorted(pipelines.items()):
            by_status.add_metric([status], count)
        by_phase = GaugeMetricFamily("flowctl_orchestrator_instances", "Instances by phase", labels=["phase"])
        for phase, count in sorted(instances.items()):
            by_phase.add_metric([phase], count)
        yield by_status
        yield by_phase
