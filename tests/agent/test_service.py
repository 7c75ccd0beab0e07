"""The whole agent with real programs, on the in-memory journal and on a real one."""

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from flowctl.errors import JournalUnavailableError, RefusedError
from flowctl.ids import InstanceId
from flowctl.journal.events import (
    Aggregate,
    ComponentAssigned,
    ComponentExited,
    ComponentFailed,
    ComponentStarted,
    ComponentStarting,
    ComponentUnassigned,
    HostJoined,
    HostLost,
)
from flowctl.journal.heartbeats import HostBeat
from flowctl.journal.log import Draft, Entry
from flowctl.journal.logs import LogLine
from flowctl.journal.memory import MemoryStore
from flowctl.journal.store import Store
from flowctl.projection import Projection
from flowctl.serving import ServiceContext
from flowctl.spec.model import Component
from flowctl_agent import plan, reconciler
from flowctl_agent.service import AgentService
from support.agent_world import HOST, WORKER, AgentWorld, agent, settings
from support.agents import SLEEP, alive, process_driver, processes_of, script
from support.nats import connect, nats_server, nats_store
from support.polling import eventually

QUICK = {"policy": "on_failure", "max_attempts": 3, "backoff": {"initial_s": 0.02, "max_s": 0.1}}


@pytest.fixture(params=["memory", "jetstream"])
async def store(request: pytest.FixtureRequest) -> AsyncGenerator[Store]:
    """An empty store of either kind."""
    if request.param == "memory":
        yield MemoryStore()
    else:
        async with nats_store() as jetstream:
            yield jetstream


@pytest.fixture
async def world(store: Store, state_dir: Path) -> AsyncGenerator[AgentWorld]:
    """A running agent."""
    async with agent(store, state_dir) as world:
        yield world


async def test_an_assigned_instance_is_started(world: AgentWorld):
    """Claimed, then started; the handle is the program's pid."""
    await world.assign(SLEEP)
    worker = await world.until_started()
    assert psutil.Process(int(worker.handle)).cmdline() == SLEEP
    assert worker.phase == "started"
    assert world.starts() == [1]


async def test_a_crash_is_restarted_and_told_once(world: AgentWorld):
    """kill -9: the exit with its signal is in the journal within a second, and the next incarnation runs."""
    await world.assign(SLEEP, restart=QUICK)
    first = await world.until_started()
    os.kill(int(first.handle), signal.SIGKILL)
    await eventually(lambda: world.count(ComponentExited)() == 1, "the exit", timeout_s=1.0)
    second = await world.until_started(2)
    assert second.handle != first.handle
    told = world.told(ComponentExited)[0]
    assert (told.code, told.signal, told.expected, told.incarnation) == (None, signal.SIGKILL, False, 1)
    assert told.restart_in_s > 0
    await world.until(lambda worker: len(worker.restart_times_ns) == 1, "the restart to count")
    assert world.count(ComponentExited)() == 1


async def test_a_spent_policy_fails_the_assignment(world: AgentWorld):
    """As many restarts as allowed, then a failure that says how it ended, why that was it, and its last words."""
    await world.assign(script("import sys; sys.exit('no such database')"), restart=QUICK)
    worker = await world.until(lambda worker: worker.phase == "failed", "the failure")
    assert world.starts() == [1, 2, 3, 4]
    assert worker.failure is not None
    assert "exit code 1" in worker.failure.reason
    assert "3 restarts within 300 s" in worker.failure.reason
    assert "no such database" in worker.failure.reason
    assert [told.restart_in_s is None for told in world.told(ComponentExited)] == [False, False, False, True]
    assert world.count(ComponentFailed)() == 1


@pytest.mark.parametrize(
    ("command", "fields", "words"),
    [
        (["/no/such/program"], {}, ["/no/such/program", "No such file"]),
        (script("import sys; print('bad key: colour', file=sys.stderr); sys.exit(2)"), {}, ["configuration", "bad key: colour"]),
        (script("raise SystemExit(1)"), {"restart": {"policy": "never"}}, ["exit code 1", "never"]),
        (SLEEP, {"config": {"password": "${env:NOT_SET_ANYWHERE}"}}, ["NOT_SET_ANYWHERE", "not set"]),
        (SLEEP, {"env": {"TOKEN": "${file:/no/such/secret}"}}, ["/no/such/secret"]),
    ],
)
async def test_what_cannot_succeed_is_not_tried_again(
    world: AgentWorld, command: list[str], fields: dict[str, Any], words: list[str]
):
    """A program that is not there, a configuration that is refused, a reference that cannot be resolved: failed at once."""
    await world.assign(command, **fields)
    worker = await world.until(lambda worker: worker.phase == "failed", "the failure")
    assert worker.failure is not None
    assert all(word in worker.failure.reason for word in words), worker.failure.reason
    assert len(world.starts()) <= 1


async def test_a_corrected_assignment_starts_at_once(world: AgentWorld):
    """A new assignment has a new policy: what failed before does not count."""
    await world.assign(["/no/such/program"])
    await world.until(lambda worker: worker.phase == "failed", "the failure")
    await world.assign(SLEEP)
    await world.until_started(2)


async def test_an_unassigned_instance_is_stopped(world: AgentWorld):
    """Gracefully, and told as expected."""
    await world.assign(SLEEP)
    worker = await world.until_started()
    await world.unassign()
    await world.until(lambda worker: worker.phase == "stopped", "the stop")
    told = world.told(ComponentExited)[0]
    assert (told.signal, told.expected, told.restart_in_s) == (signal.SIGTERM, True, None)
    assert not alive(int(worker.handle))


async def test_a_replaced_assignment_is_stopped_first(world: AgentWorld):
    """The old program has ended before the new one begins."""
    await world.assign(SLEEP)
    old = (await world.until_started()).handle
    await world.assign(script("import time; time.sleep(3599)"))
    await world.until_started(2)
    assert not alive(int(old))
    kinds = [type(entry.event).__name__ for entry in world.entries if entry.aggregate == Aggregate.of_instance(WORKER)]
    assert kinds == [
        *("ComponentAssigned", "ComponentStarting", "ComponentStarted", "ComponentAssigned"),
        *("ComponentExited", "ComponentStarting", "ComponentStarted"),
    ]


async def test_what_has_completed_is_not_restarted(world: AgentWorld):
    """The program says so, then exits: an expected end."""
    await world.assign(script("import time; time.sleep(0.3)"))
    await world.until_started()
    await world.register()
    await world.deregister("completed")
    await eventually(lambda: world.count(ComponentExited)() == 1, "the exit")
    assert world.told(ComponentExited)[0].expected
    await eventually(lambda: not world.service._reconciler._workers, "rest")  # pyright: ignore[reportPrivateUsage]
    assert world.starts() == [1]
    assert world.worker.phase == "completed"


async def test_a_restarted_agent_adopts_and_starts_nothing_twice(store: Store, state_dir: Path):
    """Same pid before and after; what the next agent does with it works as if it had started it."""
    async with agent(store, state_dir, kill=False) as first:
        await first.assign(SLEEP, restart=QUICK)
        before = (await first.until_started()).handle
    assert first.projection.fleet.hosts[HOST].status == "left"
    assert alive(int(before))
    async with agent(store, state_dir) as second:
        assert second.worker.handle == before
        assert second.projection.fleet.hosts[HOST].status == "up"
        os.kill(int(before), signal.SIGKILL)
        await second.until_started(2)
        assert second.told(ComponentExited)[0].signal == signal.SIGKILL


async def test_an_exit_while_no_agent_ran_is_told_once(store: Store, state_dir: Path):
    """The next agent reports the exact end, and the one after it does not repeat it."""
    async with agent(store, state_dir, kill=False) as first:
        await first.assign(SLEEP, restart={"policy": "never"})
        handle = int((await first.until_started()).handle)
    os.kill(handle, signal.SIGUSR2)
    await eventually(lambda: not processes_of(state_dir), "the end")
    async with agent(store, state_dir) as second:
        await second.until(lambda worker: worker.phase == "failed", "the failure")
        assert second.told(ComponentExited)[0].signal == signal.SIGUSR2
    async with agent(store, state_dir) as third:
        assert third.worker.phase == "failed"
        assert not third.entries or third.count(ComponentExited)() == 0


async def test_a_run_that_the_journal_does_not_know_is_stopped(store: Store, state_dir: Path):
    """What was left by another life of the journal is not adopted."""
    other = MemoryStore()
    async with agent(other, state_dir, kill=False) as first:
        await first.assign(SLEEP)
        handle = int((await first.until_started()).handle)
    async with agent(store, state_dir):
        await eventually(lambda: not alive(handle), "the end of the stranger")


async def test_a_lost_run_is_told_and_started_anew(store: Store, state_dir: Path):
    """The host was rebooted: the journal believes in a run that is gone without a trace."""
    async with agent(store, state_dir) as first:
        await first.assign(SLEEP, restart=QUICK)
        await first.until_started()
    await eventually(lambda: not processes_of(state_dir), "the end")
    import shutil

    shutil.rmtree(state_dir / "instances")
    async with agent(store, state_dir) as second:
        await second.until_started(2)
        assert second.told(ComponentExited)[0].detail == "nobody saw how it ended"


async def test_the_output_is_in_the_log_stream_once(store: Store, state_dir: Path):
    """Every line of every incarnation, across a restart of the agent, in order and once."""
    async with agent(store, state_dir, kill=False) as first:
        await first.assign(script("import time\nfor n in range(100000):\n print(n)\n time.sleep(0.003)"))
        await first.until_started()
        await asyncio.wait_for(lines_of(store, 60), 10)
    async with agent(store, state_dir):
        lines = await asyncio.wait_for(lines_of(store, 300), 10)
    assert [line.text for line in lines] == [str(n) for n in range(300)]
    assert len({line.id for line in lines}) == 300
    assert {(line.instance, line.incarnation, line.stream) for line in lines} == {(WORKER, 1, "stdout")}


async def lines_of(store: Store, count: int) -> list[LogLine]:
    """The first lines of the pipeline's log, waiting for them."""
    lines: list[LogLine] = []
    async for line in store.logs.read("orders", follow=True):
        lines.append(line)
        if len(lines) == count:
            break
    return lines


async def test_many_instances_at_once(world: AgentWorld):
    """Instances do not wait for each other: a stubborn one holds nobody up."""
    stubborn = InstanceId("orders", "stubborn", 0)
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(3600)"
    await world.assign(script(program), stubborn, stop_timeout_s=3.0)
    await eventually(lambda: world.count_of(stubborn) == 1, "the stubborn one")
    await world.unassign(stubborn)
    ids = [InstanceId("orders", "many", index) for index in range(8)]
    for each in ids:
        await world.assign(SLEEP, each)
    await eventually(lambda: all(world.count_of(each) == 1 for each in ids), "all to start", timeout_s=3.0)


async def test_a_start_waits_for_a_driver_that_is_away(state_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """It is looked for now and then, which holds nobody up; once it is back, the program is started."""
    away, asked, enough = True, list[float](), 100
    loop = asyncio.get_running_loop()

    def absence() -> str | None:
        asked.append(loop.time())
        return "the engine is away" if away and len(asked) < enough else None  # the loop would never be left otherwise

    async with agent(MemoryStore(), state_dir) as world:
        monkeypatch.setattr(reconciler, "ABSENCE_RETRY_S", 0.1)
        monkeypatch.setattr(world.driver, "absence", absence)
        await world.assign(SLEEP)
        await eventually(lambda: len(asked) >= 3, "it to be asked again")
        assert world.service.waiting == {WORKER: "the engine is away"}
        assert world.starts() == []
        assert len(asked) < 20
        assert all(later - earlier > 0.09 for earlier, later in itertools.pairwise(asked))
        away = False
        await world.until_started()
        assert world.starts() == [1]


async def test_a_move_is_started_as_soon_as_the_other_host_is_gone(world: AgentWorld, monkeypatch: pytest.MonkeyPatch):
    """What waits for another host to end its run is looked at when that host is lost, not only now and then."""
    monkeypatch.setattr(plan, "LOOK_AGAIN_S", 600.0)
    elsewhere = Aggregate.of_host("elsewhere")

    async def say(event: HostJoined | HostLost) -> None:
        await world.projection.decide(lambda _: [Draft(elsewhere, event)], actor="test")

    await say(HostJoined(agent="a", address="127.0.0.1", drivers=["process"]))
    component = Component(id="worker", command=SLEEP)
    there = ComponentAssigned(host="elsewhere", kind="source", driver="process", revision=1, component=component)
    await world.say(ComponentStarting(host="elsewhere", incarnation=1, assignment=(await world.say(there)).seq))
    await world.assign(SLEEP)
    await eventually(lambda: WORKER in world.service.waiting, "the agent to wait for the other host")
    assert world.worker.incarnation == 1
    await say(HostLost(silence_s=31.0))
    await world.until_started(2)


async def test_the_host_is_alive_in_the_journal(world: AgentWorld):
    """Joined with what it offers, and beating; joined again when it was counted as lost."""
    host = world.projection.fleet.hosts[HOST]
    assert (host.status, host.joined.drivers, host.joined.address) == ("up", ["process"], "127.0.0.1")
    beat = await asyncio.wait_for(anext(aiter(world.store.heartbeats.follow())), 5)
    assert isinstance(beat.beat, HostBeat)
    assert (beat.beat.host, beat.beat.agent) == (HOST, host.joined.agent)


async def test_a_lost_host_joins_again(store: Store, state_dir: Path):
    """While its agent lives, a host is not lost for long."""
    async with agent(store, state_dir, host_heartbeat_s=0.05) as world:
        lost = Draft(Aggregate.of_host(HOST), HostLost(silence_s=31.0))
        await world.projection.decide(lambda _: [lost], actor="test")
        await eventually(lambda: world.projection.fleet.hosts[HOST].status == "up", "the host to join again")


async def test_a_second_agent_on_the_directory_is_refused(world: AgentWorld, state_dir: Path):
    """They would fight over the same programs."""
    with pytest.raises(RefusedError, match="an agent runs already"):
        async with agent(world.store, state_dir, kill=False):
            pass


async def test_an_agent_whose_name_is_taken_gives_up(world: AgentWorld):
    """Another machine joined under this host's name: this agent ends, saying so."""
    joined = HostJoined(agent="another", address="192.0.2.1", drivers=["process"])
    await world.projection.decide(lambda _: [Draft(Aggregate.of_host(HOST), joined)], actor="test")
    with pytest.raises(RefusedError, match="another agent has joined as host here"):
        await asyncio.wait_for(world.service.failed(), 5)


async def test_an_agent_that_cannot_beat_any_more_ends(store: Store, state_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """A part of it that ends must not go unnoticed: the host would be lost while its programs run."""

    async def broken(_: object, **_within: float) -> None:
        raise ZeroDivisionError

    async with agent(store, state_dir, host_heartbeat_s=0.05) as world:
        monkeypatch.setattr(store.heartbeats, "publish", broken)
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(world.service.failed(), 10)


@pytest.mark.parametrize("broken", ["_endpoints", "_prober", "_reconciler", "_presence", "_tailer"])
async def test_an_agent_that_cannot_stop_a_part_stops_the_others(state_dir: Path, broken: str):
    """Endpoints whose connection is gone raise nothing; whatever else fails is said once everything after it was done."""
    stopped: list[str] = []

    class Part:
        """A part that says that it is stopped, and fails then if it is the broken one."""

        def __init__(self, name: str, real: Any) -> None:
            self.name = name
            self.real = real
            self.live = 0

        async def stop(self, *reason: str) -> None:
            """Stop."""
            if self.real is not None:
                await self.real.stop(*reason)
            stopped.append(self.name)
            if self.name == broken:
                raise JournalUnavailableError("NATS is away")

    parts = ["_endpoints", "_prober", "_reconciler", "_presence", "_tailer"]
    store = MemoryStore()
    projection = Projection(store.journal)
    following = await projection.start()
    driver = process_driver(state_dir)
    service = AgentService(ServiceContext(store=store, projection=projection), settings(state_dir), driver=driver)
    await service.start()
    for name in parts:
        setattr(service, name, Part(name, getattr(service, name)))
    with contextlib.nullcontext() if broken == "_endpoints" else pytest.raises(JournalUnavailableError):
        await service.stop()
    following.cancel()
    assert stopped == parts
    with pytest.raises(OSError, match="Bad file descriptor"):  # it was closed already
        await driver.close()
    async with agent(store, state_dir):  # the lock is free
        pass


# --- the journal away (on the twin, which can be taken away at will)


async def test_while_the_journal_is_away_programs_go_on_and_exits_wait(state_dir: Path):
    """Nothing is stopped or started; the exit is told when the journal is back, and then the restart happens."""
    store = MemoryStore()
    other = InstanceId("orders", "other", 0)
    async with agent(store, state_dir) as world:
        await world.assign(SLEEP, restart=QUICK)
        await world.assign(SLEEP, other)
        first = await world.until_started()
        await eventually(lambda: world.count_of(other) == 1, "the other")
        store.set_available(available=False)
        os.kill(int(first.handle), signal.SIGKILL)
        await eventually(lambda: WORKER in world.service._reconciler.waiting, "the exit to wait for the journal")  # pyright: ignore[reportPrivateUsage]
        assert "journal" in world.service._reconciler.waiting[WORKER]  # pyright: ignore[reportPrivateUsage]
        await eventually(lambda: world.service.readiness() is not None, "readiness to say so")
        assert len([process for process in processes_of(state_dir) if process.cmdline() == SLEEP]) == 1
        store.set_available(available=True)
        await world.until_started(2)
        assert world.count(ComponentExited)() == 1
        assert len(world.told(ComponentStarted, other)) == 1
        await eventually(lambda: world.service.readiness() is None, "readiness")


@pytest.mark.parametrize("written", [True, False])
async def test_a_claim_without_an_answer(state_dir: Path, monkeypatch: pytest.MonkeyPatch, written: bool):
    """Whether or not the claim was written: started once, under one number, no restart counted."""
    store = MemoryStore()
    append, failures = store.journal.append, iter([True])

    async def unanswered(drafts: Sequence[Draft], **rest: Any) -> list[Entry]:
        if isinstance(drafts[0].event, ComponentStarting) and next(failures, False):
            if written:
                await append(drafts, **rest)
            raise JournalUnavailableError("no answer")
        return await append(drafts, **rest)

    monkeypatch.setattr(store.journal, "append", unanswered)
    async with agent(store, state_dir) as world:
        await world.assign(SLEEP)
        await world.until_started()
        assert world.starts() == [1]
        assert world.count(ComponentExited)() == 0


async def test_an_agent_process_killed_with_9_is_followed_by_another(state_dir: Path):
    """The real program, twice, on a real journal: the second has what the first started, and ends cleanly on SIGTERM."""
    async with nats_server() as server, contextlib.AsyncExitStack() as stack:
        store = await connect(server)
        stack.push_async_callback(store.close)
        projection = Projection(store.journal)
        following = await projection.start()
        stack.callback(following.cancel)
        environment = {
            **os.environ,
            "FLOWCTL_NATS_URL": server.url,
            "FLOWCTL_NATS_MONITOR_URL": server.monitor_url,
            "FLOWCTL_STATE_DIR": str(state_dir),
            "FLOWCTL_NAME": HOST,
        }

        def start_agent() -> subprocess.Popen[bytes]:
            process = subprocess.Popen([sys.executable, "-m", "flowctl_agent"], env=environment)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        def agents() -> set[str]:
            host = projection.fleet.hosts.get(HOST)
            return {host.joined.agent} if host is not None and host.status == "up" else set()

        first = start_agent()
        await eventually(lambda: bool(agents()), "the first agent")
        known = agents()
        component = Component(id="worker", command=SLEEP)
        event = ComponentAssigned(host=HOST, kind="source", driver="process", revision=1, component=component)
        await projection.decide(lambda _: [Draft(Aggregate.of_instance(WORKER), event)], actor="test")
        await eventually(lambda: projection.fleet.instances[WORKER].handle != "", "the start")
        handle = projection.fleet.instances[WORKER].handle
        first.kill()
        first.wait()
        second = start_agent()
        await eventually(lambda: bool(agents() - known), "the second agent")
        assert alive(int(handle))
        await projection.decide(lambda _: [Draft(Aggregate.of_instance(WORKER), ComponentUnassigned())], actor="test")
        await eventually(lambda: projection.fleet.instances[WORKER].phase == "stopped", "the stop")
        assert projection.fleet.instances[WORKER].incarnation == 1
        assert not alive(int(handle))
        second.terminate()
        await eventually(lambda: second.poll() is not None, "the end of the agent")
        assert second.returncode == 0
        await eventually(lambda: projection.fleet.hosts[HOST].status == "left", "the host to leave")
