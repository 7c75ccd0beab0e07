"""The health monitor as a service: follow, judge, append."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Iterator
from typing import Final

from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flowctl import api
from flowctl.endpoints import Endpoints
from flowctl.errors import ConflictError, DeadlineError, JournalUnavailableError
from flowctl.fleet import Fleet
from flowctl.ids import InstanceId
from flowctl.journal.events import ComponentStatusChanged, HostLost, HostRecovered
from flowctl.journal.heartbeats import Heartbeat, HostBeat, ServiceBeat, StoredBeat
from flowctl.journal.log import Draft, Entry
from flowctl.serving import ServiceContext
from flowctl.settings import HealthSettings
from flowctl_health.deadlines import Deadlines
from flowctl_health.decide import Patience, Subject, deadline_ns, judge
from flowctl_health.observed import Observed

CHUNK: Final = 500
RETRY_S: Final = 0.2

log = logging.getLogger("flowctl.health")


class HealthService:
    """The health monitor. Several may run: what one has judged the others find in the journal."""

    name = api.HEALTH

    def __init__(self, context: ServiceContext, settings: HealthSettings) -> None:
        self._context = context
        self._settings = settings
        self._patience = Patience.of(settings.silence_s, settings.host_silence_s)
        self._projection = context.projection
        self._actor = f"health/{settings.name}"
        self._observed = Observed()
        self._instances: Deadlines[InstanceId] = Deadlines()
        self._hosts: Deadlines[str] = Deadlines()
        self._touched: dict[Subject, None] = {}  # in the order in which they were touched
        self._wake = asyncio.Event()
        self._reachable = False
        self._tasks: list[asyncio.Task[None]] = []
        self._endpoints: Endpoints | None = None
        self._judgements = Counter("flowctl_health_judgements", "Changes journalled", ["verdict"], registry=context.metrics)
        context.metrics.register(_Numbers(self._observed, self._instances, self._hosts))

    async def start(self) -> None:
        """Begin to observe."""
        self._touch(*self._projection.fleet.instances, *self._projection.fleet.hosts)
        self._projection.listen(self._on_entry)
        self._tasks = [
            asyncio.create_task(self._follow(), name="health-follow"),
            asyncio.create_task(self._judge(), name="health-judge"),
            asyncio.create_task(self._mark(), name="health-mark"),
        ]
        if self._context.endpoints is not None:
            self._endpoints = self._context.endpoints(api.HEALTH)
            self._endpoints.add("info", api.InfoRequest, self._info)
            await self._endpoints.start()

    async def stop(self) -> None:
        """Observe no more."""
        if self._endpoints is not None:
            with contextlib.suppress(Exception):
                await self._endpoints.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def failed(self) -> None:
        """See ``Service``."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def readiness(self) -> str | None:
        """See ``Service``."""
        return None if self._reachable else "the journal does not answer: the health of everything is unknown"

    # --- hearing -------------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Hear the heartbeats; after an absence of the journal, hear what was last and go on."""
        while True:
            try:
                async for stored in self._context.store.heartbeats.follow():
                    self._hear(stored)
            except JournalUnavailableError:
                await self._context.clock.sleep(RETRY_S)

    def _hear(self, stored: StoredBeat) -> None:
        self._observed.apply(stored)
        beat = stored.beat
        if isinstance(beat, Heartbeat):
            instance = self._projection.fleet.instances.get(beat.instance)
            if instance is not None and instance.status != "healthy" and instance.incarnation == beat.incarnation:
                self._touch(beat.instance)
        elif isinstance(beat, HostBeat):
            host = self._projection.fleet.hosts.get(beat.host)
            if host is not None and host.status == "lost":
                self._touch(beat.host)
        if self._is_due():
            self._wake.set()

    def _on_entry(self, entry: Entry) -> None:
        aggregate = entry.aggregate
        if aggregate is None or aggregate.kind in ("pipeline", "seal"):
            return
        self._touch(aggregate.instance if aggregate.kind == "component" else aggregate.key[0])

    def _touch(self, *subjects: Subject) -> None:
        self._touched |= dict.fromkeys(subjects)
        self._wake.set()

    async def _mark(self) -> None:
        """Beat too: reading its own beat shows the monitor how far it has read, and that the journal is there."""
        beat = ServiceBeat(api.HEALTH, self._settings.name)
        while True:
            try:
                await self._context.store.heartbeats.publish([beat])
                self._reachable = True
            except JournalUnavailableError:
                if self._reachable:
                    log.warning("the journal does not answer: the health of everything is unknown")
                self._reachable = False
            await self._context.clock.sleep(self._settings.check_interval_s)

    # --- judging -------------------------------------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        instance_ns, host_ns = self._instances.next_ns(), self._hosts.next_ns()
        observed = self._observed
        return (instance_ns is not None and instance_ns < observed.registry.last_ns) or (
            host_ns is not None and host_ns < observed.stream.last_ns
        )

    async def _judge(self) -> None:
        """Judge whoever was touched or whose time is over, whenever there is somebody."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._touched |= dict.fromkeys(self._instances.due(self._observed.registry.last_ns))
            self._touched |= dict.fromkeys(self._hosts.due(self._observed.stream.last_ns))
            subjects, self._touched = iter(self._touched), {}
            while chunk := list(itertools.islice(subjects, CHUNK)):
                await self._judge_some(chunk)

    async def _judge_some(self, subjects: list[Subject]) -> None:
        def decision(fleet: Fleet) -> list[Draft]:
            return judge(self._observed, fleet, subjects, self._patience)

        try:
            entries = await self._projection.decide(decision, actor=self._actor)
        except (JournalUnavailableError, ConflictError, DeadlineError) as error:
            log.debug("%d judgements wait for the journal: %s", len(subjects), error)
            await self._context.clock.sleep(RETRY_S)
            self._touch(*subjects)
            return
        for entry in entries:
            self._tell(entry)
        for subject in subjects:
            self._plan(subject)

    def _plan(self, subject: Subject) -> None:
        look_ns = deadline_ns(self._observed, self._projection.fleet, subject, self._patience)
        if look_ns is None:
            return
        if isinstance(subject, InstanceId):
            self._instances.set(subject, look_ns)
        else:
            self._hosts.set(subject, look_ns)

    def _tell(self, entry: Entry) -> None:
        who = entry.aggregate
        match entry.event:
            case ComponentStatusChanged(status="unhealthy") as event:
                log.warning("%s is unhealthy: %s", who, event.reason)
                self._judgements.labels("unhealthy").inc()
            case ComponentStatusChanged() as event:
                log.info("%s is %s: %s", who, event.status, event.reason)
                self._judgements.labels(event.status).inc()
            case HostLost() as event:
                log.warning("%s is lost: no heartbeat for %.1f s", who, event.silence_s)
                self._judgements.labels("host_lost").inc()
            case HostRecovered():
                log.info("%s is back", who)
                self._judgements.labels("host_recovered").inc()
            case _:
                pass

    async def _info(self, request: api.InfoRequest) -> api.Info:
        del request
        observed = f"{len(self._instances)} instances and {len(self._hosts)} hosts are observed"
        return self._context.info(api.HEALTH, self._settings.name, self.readiness(), detail=observed)


class _Numbers(Collector):
    """What is known anyway, read when somebody scrapes."""

    def __init__(self, observed: Observed, instances: Deadlines[InstanceId], hosts: Deadlines[str]) -> None:
        self._observed = observed
        self._instances = instances
        self._hosts = hosts

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("flowctl_health_instances", "Instances whose silence is waited for", len(self._instances))
        yield GaugeMetricFamily("flowctl_health_hosts", "Hosts whose silence is waited for", len(self._hosts))
        yield GaugeMetricFamily(
            "flowctl_health_registry_heard_seconds",
            "Unix time, by the server, up to which silence is counted",
            self._observed.registry.last_ns / 1e9,
        )
