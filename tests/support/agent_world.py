"""A whole agent on a store, and the orchestrator's and registry's words put into the journal by hand."""

import contextlib
import copy
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec

from flowctl.fleet import Instance
from flowctl.ids import InstanceId
from flowctl.journal.events import (
    Aggregate,
    ComponentAssigned,
    ComponentDeregistered,
    ComponentEvent,
    ComponentRegistered,
    ComponentStarted,
    ComponentStarting,
    ComponentUnassigned,
    DeregisterReason,
    JournalEvent,
)
from flowctl.journal.log import Draft, Entry
from flowctl.journal.store import Store
from flowctl.projection import Projection
from flowctl.serving import ServiceContext
from flowctl.settings import AgentSettings
from flowctl.spec.model import Component
from flowctl_agent.drivers.process import ProcessDriver
from flowctl_agent.service import AgentService
from support.polling import eventually

WORKER = InstanceId("orders", "worker", 0)
HOST = "here"


def settings(state_dir: Path, **values: Any) -> AgentSettings:
    """The agent's settings on a directory."""
    return AgentSettings(state_dir=state_dir, name=HOST, **values)


class AgentWorld:
    """What a test sees of a running agent."""

    def __init__(self, store: Store, projection: Projection, service: AgentService, driver: ProcessDriver) -> None:
        self.store = store
        self.projection = projection
        self.service = service
        self.driver = driver
        self.entries: list[Entry] = []
        projection.listen(self.entries.append)

    @property
    def worker(self) -> Instance:
        """The instance of most tests."""
        return copy.copy(self.projection.fleet.instances[WORKER])

    def told(self, kind: type[JournalEvent], instance: InstanceId = WORKER) -> list[Any]:
        """The events of a type about an instance, in order."""
        aggregate = Aggregate.of_instance(instance)
        return [entry.event for entry in self.entries if entry.aggregate == aggregate and isinstance(entry.event, kind)]

    def count(self, kind: type[JournalEvent]) -> Callable[[], int]:
        """How many events of a type about the worker there are."""
        return lambda: len(self.told(kind))

    def count_of(self, instance: InstanceId) -> int:
        """How often an instance was started."""
        return len(self.told(ComponentStarted, instance))

    async def say(self, event: ComponentEvent, instance: InstanceId = WORKER) -> Entry:
        """Another service's word about an instance."""
        entries = await self.projection.decide(lambda _: [Draft(Aggregate.of_instance(instance), event)], actor="test")
        return entries[0]

    async def assign(self, command: list[str], instance: InstanceId = WORKER, **fields: Any) -> int:
        """Assign an instance to this host; the assignment."""
        component = msgspec.convert({"id": instance.component, "command": command, "stop_timeout_s": 5.0, **fields}, Component)
        event = ComponentAssigned(host=HOST, kind="source", driver="process", revision=1, component=component)
        return (await self.say(event, instance)).seq

    async def unassign(self, instance: InstanceId = WORKER) -> None:
        """Take it back."""
        await self.say(ComponentUnassigned(reason="test"), instance)

    async def register(self, health_endpoint: str = "") -> None:
        """What the registry says once the program has announced itself."""
        incarnation = self.worker.incarnation
        await self.say(
            ComponentRegistered(incarnation=incarnation, kind="source", boot_id=str(incarnation), health_endpoint=health_endpoint)
        )

    async def deregister(self, reason: DeregisterReason) -> None:
        """What the registry says when the program ends on purpose."""
        await self.say(ComponentDeregistered(incarnation=self.worker.incarnation, reason=reason))

    async def until(self, condition: Callable[[Instance], bool], what: str, *, timeout_s: float = 10.0) -> Instance:
        """The worker once the condition holds."""
        await eventually(
            lambda: (worker := self.projection.fleet.instances.get(WORKER)) is not None and condition(worker),
            what,
            timeout_s=timeout_s,
        )
        return self.worker

    async def until_started(self, incarnation: int = 1) -> Instance:
        """The worker once that incarnation runs."""
        return await self.until(
            lambda worker: worker.incarnation == incarnation and worker.handle != "", f"incarnation {incarnation} to start"
        )

    def starts(self) -> list[int]:
        """The incarnations that were claimed, in order."""
        return [event.incarnation for event in self.told(ComponentStarting)]


@contextlib.asynccontextmanager
async def agent(store: Store, state_dir: Path, *, kill: bool = True, **values: Any) -> AsyncGenerator[AgentWorld]:
    """A running agent; in the end it is stopped, and with ``kill`` everything that it left running."""
    projection = Projection(store.journal)
    following = await projection.start()
    chosen = settings(state_dir, **values)
    driver = ProcessDriver(
        state_dir, log_file_bytes=chosen.log_file_bytes, log_files=chosen.log_files, kept_runs=chosen.kept_runs
    )
    service = AgentService(ServiceContext(store=store, projection=projection), chosen, driver=driver)
    world = AgentWorld(store, projection, service, driver)
    try:
        await service.start()
        yield world
    finally:
        await service.stop()
        following.cancel()
        with contextlib.suppress(BaseException):
            await following
        if kill:
            await kill_all(state_dir)


async def kill_all(state_dir: Path) -> None:
    """End every run of a state directory that no agent holds."""
    driver = ProcessDriver(state_dir, log_file_bytes=10_000, log_files=1, kept_runs=1)
    await driver.open()
    for run in await driver.list():
        await driver.stop(run.key, 0.0)
    await driver.close()
