"""The health monitor on simulated time: hours pass in milliseconds, and every entry has its exact moment."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from flowctl.clock import VirtualClock
from flowctl.errors import JournalUnavailableError
from flowctl.ids import InstanceId
from flowctl.journal.events import (
    Aggregate,
    ComponentDeregistered,
    ComponentRegistered,
    ComponentStatusChanged,
    HostJoined,
    HostLost,
    HostRecovered,
)
from flowctl.journal.heartbeats import Beat, Heartbeat, HostBeat, ServiceBeat
from flowctl.journal.log import Draft
from flowctl.journal.memory import MemoryStore
from flowctl.projection import Projection
from flowctl.serving import ServiceContext
from flowctl.settings import HealthSettings, load_settings
from flowctl_health.service import HealthService

BEAT_S = 10.0


class World:
    """A store, a registry and components on one virtual clock. Each beats in a task of its own until it is stopped."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = MemoryStore(self.clock)
        self.projection = Projection(self.store.journal, clock=self.clock)
        self.began_ns = self.clock.wall_ns()
        self._stack = contextlib.AsyncExitStack()
        self._beating: dict[str, asyncio.Task[None]] = {}
        self.monitor: HealthService | None = None

    async def open(self) -> None:
        """Begin, with a registry and a health monitor."""
        following = await self.projection.start()
        self._stack.callback(following.cancel)
        self.beat("registry", ServiceBeat("registry", "r1"), every_s=0.5)
        await self.start_monitor()

    async def close(self) -> None:
        """End everything."""
        for task in self._beating.values():
            task.cancel()
        await self.stop_monitor()
        await self._stack.aclose()

    async def start_monitor(self) -> None:
        """A health monitor that remembers nothing."""
        context = ServiceContext(store=self.store, projection=self.projection, clock=self.clock)
        self.monitor = HealthService(context, load_settings(HealthSettings, name="sim"))
        await self.monitor.start()

    async def stop_monitor(self) -> None:
        """The health monitor is gone."""
        if self.monitor is not None:
            await self.monitor.stop()
        self.monitor = None

    async def register(self, instance: InstanceId, *, incarnation: int = 1) -> None:
        """An instance registers."""
        event = ComponentRegistered(incarnation=incarnation, kind="sink", boot_id=f"boot-{incarnation}")
        await self.append(Aggregate.of_instance(instance), event)

    async def append(self, aggregate: Aggregate, event: ComponentRegistered | ComponentDeregistered | HostJoined) -> None:
        """Somebody appends a fact."""
        await self.store.journal.append([Draft(aggregate, event)], actor="world")

    def beat(self, who: str, beat: Beat, *, every_s: float = BEAT_S) -> None:
        """Begin to beat, at once and then regularly; an absent journal loses beats."""

        async def run() -> None:
            while True:
                with contextlib.suppress(JournalUnavailableError):
                    await self.store.heartbeats.publish([beat])
                await self.clock.sleep(every_s)

        self._beating[who] = asyncio.create_task(run())

    def silence(self, who: str) -> None:
        """Beat no more."""
        self._beating.pop(who).cancel()

    async def pass_time(self, seconds: float) -> None:
        """Time passes."""
        await self.clock.advance(seconds)

    async def verdicts(self) -> list[tuple[float, str, str]]:
        """What the monitor journalled: seconds since the beginning, about whom, what."""
        told: list[tuple[float, str, str]] = []
        async for entry in self.store.journal.read():
            at_s = round((entry.time_ns - self.began_ns) / 1e9, 3)
            match entry.event:
                case ComponentStatusChanged() as event:
                    told.append((at_s, str(entry.aggregate), event.status))
                case HostLost() | HostRecovered() as event:
                    told.append((at_s, str(entry.aggregate), type(event).__name__))
                case _:
                    pass
        return told


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A world with a registry and a health monitor."""
    world = World()
    await world.open()
    yield world
    await world.close()


A = InstanceId("p", "a", 0)


async def test_silence_is_found_between_30_and_31_5_seconds(world: World):
    """From the last heartbeat: not at 30.0 s, by 31.5 s; healthy again with the next heartbeat."""
    await world.register(A)
    world.beat("a", Heartbeat(A, 1))
    await world.pass_time(44.7)
    world.silence("a")
    await world.pass_time(25.3)
    assert await world.verdicts() == []
    await world.pass_time(1.5)
    [(at_s, who, status)] = await world.verdicts()
    assert (who, status) == ("component/p.a.0", "unhealthy")
    assert 70.0 < at_s <= 71.5
    world.beat("a", Heartbeat(A, 1))
    await world.pass_time(0.1)
    assert [verdict[2] for verdict in await world.verdicts()] == ["unhealthy", "healthy"]


async def test_an_absent_journal_marks_nobody(world: World):
    """Fifty components, five minutes without a journal: not one entry; whoever died meanwhile is found within a new window."""
    instances = [InstanceId("p", f"c{number}", 0) for number in range(50)]
    for number, instance in enumerate(instances):
        await world.register(instance)
        world.beat(str(number), Heartbeat(instance, 1))
    await world.pass_time(25)
    world.store.set_available(available=False)
    await world.pass_time(150)
    world.silence("7")
    assert world.monitor is not None
    assert world.monitor.readiness() is not None
    await world.pass_time(150)
    world.store.set_available(available=True)
    back_s = 325.0
    await world.pass_time(29)
    assert world.monitor.readiness() is None
    assert await world.verdicts() == []
    await world.pass_time(60)
    [(at_s, who, status)] = await world.verdicts()
    assert (who, status) == ("component/p.c7.0", "unhealthy")
    assert back_s + 30.0 < at_s <= back_s + 31.5


async def test_an_absent_registry_marks_nobody(world: World):
    """Without a registry heartbeats cannot arrive; when one is back, everybody has a full window."""
    await world.register(A)
    await world.pass_time(20)
    world.silence("registry")
    await world.pass_time(300)
    assert await world.verdicts() == []
    world.beat("registry", ServiceBeat("registry", "r2"), every_s=0.5)
    await world.pass_time(30)
    assert await world.verdicts() == []
    await world.pass_time(1.5)
    assert [verdict[2] for verdict in await world.verdicts()] == ["unhealthy"]


async def test_a_short_stop_of_the_registry_costs_nothing(world: World):
    """A registry that is restarted within two seconds does not delay the finding of silence."""
    await world.register(A)
    await world.pass_time(20)
    world.silence("registry")
    await world.pass_time(2)
    world.beat("registry", ServiceBeat("registry", "r1"), every_s=0.5)
    await world.pass_time(9.5)
    assert [verdict[2] for verdict in await world.verdicts()] == ["unhealthy"]


async def test_stopped_and_continued(world: World):
    """SIGSTOP for a minute: unhealthy once, and healthy once with the first heartbeat after SIGCONT."""
    await world.register(A)
    world.beat("a", Heartbeat(A, 1))
    await world.pass_time(5)
    world.silence("a")
    await world.pass_time(60)
    world.beat("a", Heartbeat(A, 1))
    await world.pass_time(60)
    assert [verdict[2] for verdict in await world.verdicts()] == ["unhealthy", "healthy"]


async def test_flapping_is_told_as_it_is(world: World):
    """Silences of 29 s are nothing; silences of 35 s are two entries each."""
    await world.register(A)
    for silence_s, count in ((29, 5), (35, 3)):
        for _ in range(count):
            await world.store.heartbeats.publish([Heartbeat(A, 1)])
            await world.pass_time(silence_s)
    assert [verdict[2] for verdict in await world.verdicts()] == ["unhealthy", "healthy", "unhealthy", "healthy", "unhealthy"]


async def test_a_restarted_monitor_is_fair_and_finds_the_dead(world: World):
    """It forgets what it saw, so everybody has a new window; who is dead is found 31.5 s after its start at the latest."""
    alive = InstanceId("p", "alive", 0)
    await world.register(A)
    await world.register(alive)
    world.beat("alive", Heartbeat(alive, 1), every_s=25)
    await world.pass_time(20)
    await world.stop_monitor()
    await world.pass_time(600)
    await world.start_monitor()
    started_s = 620.0
    await world.pass_time(29.9)
    assert await world.verdicts() == []
    await world.pass_time(60)
    [(at_s, who, status)] = await world.verdicts()
    assert (who, status) == ("component/p.a.0", "unhealthy")
    assert started_s + 29.5 < at_s <= started_s + 31.5


async def test_two_monitors_say_it_once(world: World):
    """Replicas judge alike, and the journal holds one entry."""
    context = ServiceContext(store=world.store, projection=world.projection, clock=world.clock)
    second = HealthService(context, load_settings(HealthSettings, name="second"))
    await second.start()
    await world.register(A)
    await world.pass_time(40)
    await world.store.heartbeats.publish([Heartbeat(A, 1)])
    await world.pass_time(1)
    assert [verdict[2] for verdict in await world.verdicts()] == ["unhealthy", "healthy"]
    await second.stop()


async def test_deregistered_and_started_anew(world: World):
    """Who has deregistered is left alone; a new incarnation has a window of its own and does not inherit old heartbeats."""
    await world.register(A)
    await world.append(Aggregate.of_instance(A), ComponentDeregistered(incarnation=1, reason="stopped"))
    await world.pass_time(100)
    assert await world.verdicts() == []
    await world.register(A, incarnation=2)
    world.beat("zombie", Heartbeat(A, 1))
    await world.pass_time(31.5)
    assert [verdict[2] for verdict in await world.verdicts()] == ["unhealthy"]


async def test_hosts(world: World):
    """A host whose agent falls silent is lost, also without any registry, and recovers with its next heartbeat."""
    world.silence("registry")
    await world.append(Aggregate.of_host("h1"), HostJoined(agent="a1", address="10.0.0.1", drivers=["process"]))
    world.beat("h1", HostBeat("h1", "a1"), every_s=5)
    await world.pass_time(50)
    world.silence("h1")
    await world.pass_time(40)
    world.beat("h1", HostBeat("h1", "a1"), every_s=5)
    await world.pass_time(1)
    (lost_s, _, lost), (_, _, recovered) = await world.verdicts()
    assert (lost, recovered) == ("HostLost", "HostRecovered")
    assert 75.0 < lost_s <= 81.5


async def test_thousands_fall_silent_at_once(world: World):
    """Two thousand instances are judged in one go, each once."""
    aggregates = [Aggregate.of_instance(InstanceId("p", f"c{number}", 0)) for number in range(2_000)]
    event = ComponentRegistered(incarnation=1, kind="sink", boot_id="b")
    for first in range(0, len(aggregates), 500):
        await world.store.journal.append([Draft(each, event) for each in aggregates[first : first + 500]], actor="world")
    await world.pass_time(30)
    assert await world.verdicts() == []
    await world.pass_time(1.5)
    told = await world.verdicts()
    assert sorted(who for _, who, _ in told) == sorted(str(aggregate) for aggregate in aggregates)
    assert {status for _, _, status in told} == {"unhealthy"}
