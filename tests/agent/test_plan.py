"""The plan, as tables and as properties: what the agent does about every combination of wishes and runs."""

import copy
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowctl.decision import Decision, Rejected
from flowctl.fleet import Instance
from flowctl.ids import InstanceId
from flowctl.journal.events import (
    ComponentAssigned,
    ComponentDeregistered,
    ComponentExited,
    ComponentFailed,
    ComponentProbed,
    ComponentRegistered,
    ComponentStarted,
    ComponentStarting,
    ComponentUnassigned,
    HostJoined,
    HostLeft,
    HostLost,
)
from flowctl.spec.model import Backoff, Component, Driver
from flowctl_agent import plan
from flowctl_agent.drivers import Run, RunKey
from support.ledger import Ledger

HOST = "here"
WORKER = InstanceId("orders", "worker", 0)
PROCESS: frozenset[Driver] = frozenset({"process"})


def component(**fields: Any) -> Component:
    """The worker's component."""
    return msgspec.convert({"id": "worker", "command": ["run"], "stop_timeout_s": 5.0, **fields}, Component)


def assigned(host: str = HOST, driver: Driver = "process", **fields: Any) -> ComponentAssigned:
    """An assignment of the worker."""
    return ComponentAssigned(host=host, kind="source", driver=driver, revision=1, component=component(**fields))


def current(world: "World") -> int:
    """The worker's assignment."""
    assert world.worker.assignment is not None
    return world.worker.assignment.seq


class World:
    """A ledger, and the runs that a driver would list."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.runs: dict[RunKey, Run] = {}

    @property
    def worker(self) -> Instance:
        """The worker."""
        return self.ledger.fleet.instances[WORKER]

    def todo(self) -> list[plan.Action]:
        """What is to be done now."""
        return plan.plan(self.ledger.fleet, HOST, [*self.runs.values()], self.ledger.now_ns, PROCESS)

    def obey(self, decision: Decision) -> None:
        """Append a decision."""
        assert not isinstance(decision, Rejected)
        if decision:
            self.ledger.append(decision)

    def execute(self, action: plan.Action) -> None:
        """Do what a driver and a reconciler would."""
        fleet, now_ns = self.ledger.fleet, self.ledger.now_ns
        match action:
            case plan.Start():
                decision = plan.claim(fleet, HOST, action, now_ns, PROCESS)
                self.obey(decision)
                if decision:
                    assert not any(run.live for run in self.runs.values()), "two live runs of one instance"
                    key = RunKey(WORKER, self.worker.incarnation)
                    self.runs[key] = Run(
                        key=key, assignment=action.assignment, state="running", handle=str(key.incarnation), stop_timeout_s=5.0
                    )
            case plan.Stop():
                self.exit(action.key, None, 15)
            case plan.ReportStart():
                self.obey(plan.started(fleet, HOST, action.run))
            case plan.ReportExit():
                self.obey(plan.exit_of(fleet, HOST, action.run, now_ns, seed=7))
            case plan.Forget():
                assert not self.runs[action.key].live, "a live run was forgotten"
                del self.runs[action.key]
            case plan.Fail():
                self.obey(plan.fail(fleet, HOST, action))
            case plan.Wait():
                pass

    def exit(self, key: RunKey, code: int | None, number: int | None = None) -> None:
        """A run ends."""
        self.runs[key] = msgspec.structs.replace(self.runs[key], state="exited", code=code, signal=number)

    def settle(self) -> list[plan.Action]:
        """Plan and execute until nothing but waiting is left; what was done."""
        done: list[plan.Action] = []
        for _ in range(100):
            todo = [action for action in self.todo() if not isinstance(action, plan.Wait)]
            if not todo:
                return done
            for action in todo:
                self.execute(action)
                done.append(action)
        raise AssertionError(f"does not converge: {done[-6:]}")

    def kinds(self) -> list[str]:
        """What was done, by name."""
        return [type(action).__name__ for action in self.settle()]

    @property
    def live(self) -> list[Run]:
        """The live runs."""
        return [run for run in self.runs.values() if run.live]


@pytest.fixture
def world() -> World:
    """Nothing has happened yet."""
    return World()


def started(world: World, **fields: Any) -> Run:
    """A running worker."""
    world.ledger.write(WORKER, assigned(**fields))
    assert world.kinds() == ["Start", "ReportStart"]
    return world.live[0]


def test_an_assignment_is_started_once(world: World):
    """And then there is nothing to do."""
    started(world)
    assert world.todo() == []
    assert world.worker.phase == "started"


@pytest.mark.parametrize("event", [assigned("elsewhere"), ComponentUnassigned()])
def test_what_is_not_wanted_here_is_stopped(world: World, event: Any):
    """Unassigned, or assigned to another host: stopped with the component's time, told as expected, not restarted."""
    run = started(world)
    world.ledger.write(WORKER, event)
    [stop] = world.todo()
    assert isinstance(stop, plan.Stop)
    assert (stop.key, stop.timeout_s) == (run.key, 5.0)
    assert world.kinds() == ["Stop", "ReportExit", "Forget"]
    assert world.worker.last_exit is not None
    assert world.worker.last_exit.expected
    assert not world.live


def test_what_is_not_worth_draining_ends_soon(world: World):
    """In a failed pipeline nobody acknowledges any more: a program that waits for that is not waited for."""
    started(world)
    world.ledger.write(WORKER, ComponentUnassigned(drain=False))
    [stop] = world.todo()
    assert isinstance(stop, plan.Stop)
    assert stop.timeout_s == plan.HURRY_S


def test_a_new_assignment_stops_first_and_starts_later(world: World):
    """Never both at once; the new one without any back-off."""
    started(world)
    world.ledger.write(WORKER, assigned(args=["new"]))
    assert world.kinds() == ["Stop", "ReportExit", "Forget", "Start", "ReportStart"]


@pytest.mark.parametrize(
    ("code", "number", "failure", "fields", "outcome"),
    [
        (1, None, "", {}, "restart"),
        (0, None, "", {}, "restart"),
        (75, None, "", {}, "restart"),
        (None, 9, "", {}, "restart"),
        (None, None, "", {}, "restart"),
        (2, None, "", {}, "it refused its configuration (exit code 2)"),
        (127, None, "the program 'x' cannot be started", {}, "it cannot be started: the program 'x' cannot be started"),
        (1, None, "", {"restart": {"policy": "never"}}, "it ended with exit code 1 and its restart policy is never"),
        (None, 9, "", {"restart": {"max_attempts": 0}}, "signal 9 (SIGKILL), and its restart policy is spent (0 restarts within"),
    ],
)
def test_an_unwanted_exit(  # noqa: PLR0917  # the columns of the table
    world: World, code: int | None, number: int | None, failure: str, fields: dict[str, Any], outcome: str
):
    """Restarted after the back-off, or failed in the same write as the exit."""
    run = started(world, **fields)
    world.runs[run.key] = msgspec.structs.replace(run, state="exited", code=code, signal=number, failure=failure)
    assert world.kinds() == ["ReportExit", "Forget"]
    told = world.worker.last_exit
    assert told is not None
    assert (told.code, told.signal, told.expected) == (code, number, False)
    if outcome == "restart":
        assert told.restart_in_s == pytest.approx(0.1, rel=plan.JITTER + 0.01)
        wait = world.todo()
        assert len(wait) == 1
        assert isinstance(wait[0], plan.Wait)
        assert wait[0].reason.startswith("restart in 0.1 s after")
        world.ledger.advance(0.2)
        assert world.kinds() == ["Start", "ReportStart"]
        assert world.worker.restarts == 1
    else:
        assert told.restart_in_s is None
        assert world.worker.failure is not None
        assert outcome in world.worker.failure.reason
        assert world.todo() == []


def test_the_policy_counts_within_its_window_only(world: World):
    """Restarts longer ago than the window are forgiven."""
    started(world, restart={"max_attempts": 2, "window_s": 100})
    for _ in range(10):
        world.exit(world.live[0].key, 1)
        world.settle()
        world.ledger.advance(1)
        world.settle()
        world.ledger.advance(110)
    assert world.live
    for _ in range(3):
        assert world.worker.failure is None
        world.exit(world.live[0].key, 1)
        world.settle()
        world.ledger.advance(1)
        world.settle()
    assert world.worker.phase == "failed"


def test_a_policy_of_many_attempts_is_spent_too(world: World):
    """Also beyond what a fold remembers by default."""
    started(world, restart={"max_attempts": 40, "window_s": 86_400, "backoff": {"initial_s": 0, "max_s": 0}})
    while world.live:
        world.exit(world.live[0].key, 1)
        world.settle()
    assert world.worker.failure is not None
    assert world.worker.restarts == 40


def test_an_exit_is_told_once(world: World):
    """Planned again, or decided again by another agent, it adds nothing."""
    run = started(world)
    world.exit(run.key, 1)
    gone = world.runs[run.key]
    world.settle()
    assert plan.exit_of(world.ledger.fleet, HOST, gone, world.ledger.now_ns, 7) == []
    world.runs[run.key] = gone
    assert world.kinds() == ["Forget"]


def test_a_zombie_is_stopped_and_forgotten(world: World):
    """An incarnation that was taken over by another host's is ended here, and adds nothing to the journal."""
    started(world)
    world.ledger.write(WORKER, assigned("elsewhere"))
    world.ledger.write(WORKER, ComponentStarting(host="elsewhere", incarnation=2, assignment=current(world)))
    before = len(world.ledger.entries)
    assert world.kinds() == ["Stop", "Forget"]
    assert len(world.ledger.entries) == before


@pytest.mark.parametrize("state", ["running", "exited"])
def test_a_run_whose_claim_was_not_read_yet_is_left_alone(world: World, state: Literal["running", "exited"]):
    """Nothing starts without a claim: it is this fold that is behind, and the run is neither stopped nor forgotten."""
    run = started(world)
    world.exit(run.key, 1)
    world.settle()
    world.ledger.advance(60)
    key = RunKey(WORKER, 2)
    world.runs[key] = Run(key=key, assignment=run.assignment, state=state, handle="2", code=None if state == "running" else 2)
    assert [type(action) for action in world.todo()] == [plan.Wait]


def test_a_run_of_an_unknown_instance_is_stopped(world: World):
    """The journal is another one, or was emptied."""
    key = RunKey(WORKER, 3)
    world.runs[key] = Run(key=key, assignment=5, state="running", handle="1")
    assert world.kinds() == ["Stop", "Forget"]


def test_a_claim_without_a_run_is_told_as_lost(world: World):
    """An agent that died between the claim and the start left a number that nobody runs."""
    world.ledger.write(WORKER, assigned())
    world.ledger.write(WORKER, ComponentStarting(host=HOST, incarnation=1, assignment=current(world)))
    assert world.kinds() == ["ReportExit"]
    world.ledger.advance(1)
    assert world.kinds() == ["Start", "ReportStart"]
    assert world.worker.incarnation == 2


def test_a_lost_run_that_is_not_wanted_is_told_too(world: World):
    """Whoever waits for its end must not wait for ever."""
    started(world)
    world.ledger.write(WORKER, ComponentUnassigned())
    world.runs.clear()
    assert world.kinds() == ["ReportExit"]
    assert world.worker.phase == "stopped"


def test_a_driver_that_the_host_does_not_have(world: World):
    """Is a failure that names it."""
    world.ledger.write(WORKER, assigned(driver="docker"))
    assert world.kinds() == ["Fail"]
    assert world.worker.failure is not None
    assert "docker" in world.worker.failure.reason


@pytest.mark.parametrize("reason", ["completed", "stopped", "failed"])
def test_who_says_good_bye_has_time_to_go(world: World, reason: Any):
    """The program ends by itself; only when it does not is it stopped."""
    run = started(world)
    world.ledger.write(WORKER, ComponentRegistered(incarnation=1, kind="source", boot_id="b"))
    world.ledger.write(WORKER, ComponentDeregistered(incarnation=1, reason=reason))
    [wait] = world.todo()
    assert isinstance(wait, plan.Wait)
    world.ledger.advance(5.1)
    [stop] = world.todo()
    assert isinstance(stop, plan.Stop)
    world.exit(run.key, 0)
    world.settle()
    assert world.worker.completed == (reason == "completed")
    assert world.worker.last_exit is not None
    assert (world.worker.last_exit.restart_in_s is None) == (reason == "completed")


def test_a_failing_health_check_restarts_if_the_file_says_so(world: World):
    """Gracefully, counted like a crash; without on_unhealthy nothing happens."""
    for action, expected in (("none", []), ("restart", ["Stop", "ReportExit", "Forget"])):
        world = World()
        started(world, health_check={"on_unhealthy": action})
        world.ledger.write(WORKER, ComponentRegistered(incarnation=1, kind="source", boot_id="b"))
        world.ledger.write(WORKER, ComponentProbed(incarnation=1, healthy=False, detail="500"))
        assert world.kinds() == expected
    assert world.worker.last_exit is not None
    assert world.worker.last_exit.restart_in_s is not None


def test_an_external_program_is_taken_over_by_number(world: World):
    """Somebody started it by hand; once assigned, the next number is started here and fences it."""
    world.ledger.write(WORKER, ComponentRegistered(incarnation=1, kind="source", boot_id="b"))
    world.ledger.write(WORKER, assigned())
    assert world.kinds() == ["Start", "ReportStart"]
    assert world.worker.incarnation == 2


def moving_here(world: World) -> None:
    """A worker that runs on a host that is up is assigned to this one."""
    world.ledger.write("host/elsewhere", HostJoined(agent="a", address="127.0.0.1", drivers=["process"]))
    world.ledger.write(WORKER, assigned("elsewhere"))
    world.ledger.write(WORKER, ComponentStarting(host="elsewhere", incarnation=1, assignment=current(world)))
    world.ledger.write(WORKER, assigned())


def test_a_move_waits_for_the_other_host(world: World):
    """Between two live hosts: what runs there is ended first, then it is started here; nothing is claimed before."""
    moving_here(world)
    [wait] = world.todo()
    assert isinstance(wait, plan.Wait)
    assert wait.reason == "incarnation 1 on host elsewhere to end first"
    start = plan.Start(WORKER, current(world))
    assert plan.claim(world.ledger.fleet, HOST, start, world.ledger.now_ns, PROCESS) == []
    exited = ComponentExited(host="elsewhere", incarnation=1, assignment=world.worker.run_assignment, code=0, expected=True)
    world.ledger.write(WORKER, exited)
    assert world.kinds() == ["Start", "ReportStart"]


@pytest.mark.parametrize("gone", [HostLost(silence_s=31.0), HostLeft(reason="stopped")])
def test_a_move_from_a_host_that_cannot_end_it(world: World, gone: Any):
    """No agent is there to end it: the higher number fences it."""
    moving_here(world)
    assert world.kinds() == []
    world.ledger.write("host/elsewhere", gone)
    assert world.kinds() == ["Start", "ReportStart"]
    assert world.worker.incarnation == 2


def test_a_claim_is_checked_on_the_newest_fold(world: World):
    """What was planned on an older one may no longer be wanted."""
    world.ledger.write(WORKER, assigned())
    [start] = world.todo()
    assert isinstance(start, plan.Start)
    world.ledger.write(WORKER, ComponentUnassigned())
    assert plan.claim(world.ledger.fleet, HOST, start, world.ledger.now_ns, PROCESS) == []


def test_the_end_of_a_completed_run_is_judged_on_the_newest_fold(world: World):
    """The good-bye may be folded after the exit was seen: the decision sees it, and does not restart."""
    run = started(world)
    world.ledger.write(WORKER, ComponentRegistered(incarnation=1, kind="source", boot_id="b"))
    world.exit(run.key, 0)
    [report, *_] = world.todo()
    world.ledger.write(WORKER, ComponentDeregistered(incarnation=1, reason="completed"))
    world.execute(report)
    assert world.worker.last_exit is not None
    assert world.worker.last_exit.expected


@given(
    restarts=st.lists(st.integers(0, 10**12), max_size=40).map(sorted),
    after=st.integers(0, 10**12),
    initial=st.floats(0, 60),
    top=st.floats(0, 60),
    multiplier=st.floats(1, 10),
    jitter=st.floats(0, 0.999),
)
def test_a_delay_is_within_the_back_off(
    *, restarts: list[int], after: int, initial: float, top: float, multiplier: float, jitter: float
):
    """At most the maximum and its jitter, never negative, whatever happened before."""
    backoff = Backoff(initial_s=initial, max_s=top, multiplier=multiplier)
    delay = plan.restart_delay_s(backoff, restarts, (restarts[-1] if restarts else 0) + after, jitter)
    assert 0 <= delay <= top * (1 + plan.JITTER) + 1e-9


def test_the_back_off_grows_and_is_forgiven():
    """Doubling from crash to crash; from the beginning again after a run that lasted."""
    second = 1_000_000_000
    backoff = Backoff(initial_s=0.1, max_s=30, multiplier=2)
    quick = [n * second for n in range(5)]
    delays = [plan.restart_delay_s(backoff, quick[:n], n * second, 0.5) for n in range(6)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
    assert plan.restart_delay_s(backoff, quick, 60 * second, 0.5) == pytest.approx(0.1)


def test_what_crashed_together_does_not_start_together():
    """The delays of many instances differ."""
    keys = [RunKey(InstanceId("orders", "worker", index), 1) for index in range(50)]
    spread = {plan._spread(7, key) for key in keys}  # pyright: ignore[reportPrivateUsage]
    assert len(spread) == 50
    assert max(spread) - min(spread) > 0.5


class AnyHistory(RuleBasedStateMachine):
    """Wishes, crashes, reboots and agents' deaths in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule(host=st.sampled_from([HOST, HOST, "elsewhere"]), attempts=st.integers(0, 3))
    def assign(self, host: str, attempts: int) -> None:
        self.world.ledger.write(WORKER, assigned(host, restart={"max_attempts": attempts}))

    @rule()
    def unassign(self) -> None:
        self.world.ledger.write(WORKER, ComponentUnassigned())

    @precondition(lambda self: self.world.live)
    @rule(code=st.sampled_from([0, 1, 2, 75]))
    def crash(self, code: int) -> None:
        self.world.exit(self.world.live[0].key, code)

    @precondition(lambda self: WORKER in self.world.ledger.fleet.instances)
    @rule(reason=st.sampled_from(["completed", "stopped", "failed"]))
    def say_good_bye(self, reason: Any) -> None:
        incarnation = self.world.worker.incarnation
        self.world.ledger.write(WORKER, ComponentRegistered(incarnation=max(1, incarnation), kind="source", boot_id="b"))
        self.world.ledger.write(WORKER, ComponentDeregistered(incarnation=max(1, incarnation), reason=reason))

    @precondition(lambda self: WORKER in self.world.ledger.fleet.instances and self.world.worker.assignment is not None)
    @rule()
    def another_host_claims(self) -> None:
        worker = self.world.worker
        assert worker.assignment is not None
        event = ComponentStarting(host="elsewhere", incarnation=worker.incarnation + 1, assignment=worker.assignment.seq)
        self.world.ledger.write(WORKER, event)

    @rule(seconds=st.sampled_from([0.05, 1.0, 40.0, 400.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.ledger.advance(seconds)

    @rule()
    def the_host_is_rebooted(self) -> None:
        for run in self.world.live:
            self.world.runs[run.key] = msgspec.structs.replace(run, state="exited")

    @rule()
    def the_disk_is_lost(self) -> None:
        self.world.runs.clear()

    @rule(steps=st.integers(0, 3))
    def the_agent_does_a_little_and_dies(self, steps: int) -> None:
        """Some actions of one plan, one of them twice."""
        for action in self.world.todo()[:steps]:
            again = copy.deepcopy(action)
            self.world.execute(action)
            if not isinstance(again, plan.Stop | plan.Forget):
                self.world.execute(again)

    @rule()
    def the_agent_settles(self) -> None:
        self.world.settle()
        self.settled()

    def settled(self) -> None:
        """What is wanted runs, what is not does not, and every wait has a reason."""
        world = self.world
        if WORKER not in world.ledger.fleet.instances:
            assert not world.runs
            return
        worker = world.worker
        waits = [action for action in world.todo() if isinstance(action, plan.Wait)]
        assert len(world.live) <= 1
        wanted = worker.wanted and worker.assignment is not None and worker.assignment.host == HOST
        elsewhere = worker.active and worker.run_host == "elsewhere"
        if wanted and not elsewhere:
            assert world.live or waits
        if not wanted:
            assert not world.live or waits
        for run in world.live:
            assert run.key.incarnation == worker.incarnation

    @invariant()
    def exits_are_told_once(self) -> None:
        events = [entry.event for entry in self.world.ledger.entries]
        told = [event.incarnation for event in events if isinstance(event, ComponentExited)]
        assert len(told) == len(set(told))
        assert len({e.incarnation for e in events if isinstance(e, ComponentStarted)}) == sum(
            isinstance(e, ComponentStarted) for e in events
        )
        failed = [event.assignment for event in events if isinstance(event, ComponentFailed)]
        assert len(failed) == len(set(failed))


TestAnyHistory = AnyHistory.TestCase
