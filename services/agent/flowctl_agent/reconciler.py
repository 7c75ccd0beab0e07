"""Carries the plan out: one worker for each instance that has something to do, woken by the journal, the driver and timers.

Holds no opinion. What fails is planned anew; while the journal is away, what runs is left alone and what must be told waits.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from flowctl.clock import Clock
from flowctl.decision import Decision
from flowctl.errors import DriverError, FlowctlError, JournalUnavailableError, UserError
from flowctl.fleet import Assignment, Fleet, PipelineState
from flowctl.ids import InstanceId
from flowctl.journal.events import CheckpointCommitted, ComponentExited, ComponentFailed, ComponentStarting
from flowctl.journal.log import Entry
from flowctl.projection import Projection
from flowctl.spec.model import Driver as DriverName
from flowctl_agent import plan
from flowctl_agent.drivers import Launch, Run, RunKey
from flowctl_agent.drivers.several import Drivers
from flowctl_agent.metrics import AgentMetrics

JOURNAL_RETRY_S: Final = 0.3
ERROR_RETRY_S: Final = 3.0
ABSENCE_RETRY_S: Final = 1.0
ROUND_S: Final = 30.0
SPAWN_S: Final = 10.0
_IRRELEVANT: Final = ("pipeline", "seal")

log = logging.getLogger("flowctl.agent")

Prepare = Callable[[RunKey, Assignment, PipelineState | None], Awaitable[Launch]]
"""Makes a launch of a run's key, its assignment and its pipeline; raises UserError, or DriverError to be asked again."""


class Reconciler:
    """Makes the host's runs what the journal wants them to be.

    ``waiting`` says, per instance, for what nothing is done; ``live`` is how many runs live; ``running`` never ends.
    """

    def __init__(
        self,
        *,
        host: str,
        projection: Projection,
        driver: Drivers,
        prepare: Prepare,
        clock: Clock,
        metrics: AgentMetrics,
        seed: int,
    ) -> None:
        self.waiting: dict[InstanceId, str] = {}
        self.live = 0
        self.running: asyncio.Task[None] | None = None
        self._host = host
        self._actor = f"agent/{host}"
        self._projection = projection
        self._driver = driver
        self._drivers: frozenset[DriverName] = driver.names
        self._prepare = prepare
        self._clock = clock
        self._metrics = metrics
        self._seed = seed
        self._dirty: set[InstanceId] = set()
        self._workers: dict[InstanceId, asyncio.Task[None]] = {}
        self._timers: dict[InstanceId, asyncio.Task[None]] = {}
        self._spawns: set[asyncio.Task[None]] = set()
        self._claims: dict[InstanceId, plan.Start] = {}
        self._stopped = True

    async def start(self) -> None:
        """Begin to reconcile."""
        self._stopped = False
        self._driver.on_exit(lambda run: self.wake(run.key.instance))
        self._projection.listen(self._heard)
        await self._wake_all()
        self.running = asyncio.create_task(self._go_round(), name="agent-rounds")

    async def stop(self) -> None:
        """Begin nothing more. A start that was begun is finished; what runs goes on running."""
        self._stopped = True
        tasks = [*self._workers.values(), *self._timers.values(), *([self.running] if self.running else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._spawns:
            _, late = await asyncio.wait(self._spawns, timeout=SPAWN_S)
            for task in late:
                task.cancel()
        await self._tidy()

    def wake(self, instance: InstanceId) -> None:
        """Look at an instance now; while something is being done about it, afterwards."""
        if self._stopped:
            return
        self._dirty.add(instance)
        if instance not in self._workers:
            worker = asyncio.create_task(self._work(instance), name=f"agent-{instance}")
            self._workers[instance] = worker

    def _heard(self, entry: Entry) -> None:
        if (
            entry.aggregate is None
            or entry.aggregate.kind in ("pipeline", "seal")
            or isinstance(entry.event, CheckpointCommitted)
        ):
            return
        if entry.aggregate.kind == "host":  # it may be the one that something waits for
            for waiting in list(self.waiting):
                self.wake(waiting)
            return
        instance = self._projection.fleet.instances.get(entry.aggregate.instance)
        if instance is not None and (instance.id in self.waiting or plan.concerns(instance, self._host)):
            self.wake(instance.id)

    async def _go_round(self) -> None:
        """Events wake everything; this is for what no event tells."""
        while True:
            await self._clock.sleep(ROUND_S)
            try:
                await self._wake_all()
                await self._tidy()
            except DriverError as error:  # the next round asks again
                self._metrics.errors.inc()
                log.warning("%s", error)

    async def _wake_all(self) -> None:
        runs = await self._driver.list()
        for instance in self._projection.fleet.instances.values():
            if plan.concerns(instance, self._host):
                self.wake(instance.id)
        for run in runs:
            self.wake(run.key.instance)

    async def _work(self, instance: InstanceId) -> None:
        try:
            while instance in self._dirty and not self._stopped:
                self._dirty.discard(instance)
                timer = self._timers.pop(instance, None)
                if timer is not None:
                    timer.cancel()
                await self._attend(instance)
        except JournalUnavailableError as error:
            self._later(instance, JOURNAL_RETRY_S, f"the journal: {error}")
        except FlowctlError as error:
            self._metrics.errors.inc()
            log.warning("%s: %s", instance, error)
            self._later(instance, ERROR_RETRY_S, str(error))
        except Exception as error:
            self._metrics.errors.inc()
            log.exception("unexpected error about %s", instance)
            self._later(instance, ERROR_RETRY_S, f"an internal error: {error}")
        finally:
            del self._workers[instance]
            if instance in self._dirty and instance not in self._timers:
                self.wake(instance)

    async def _attend(self, instance: InstanceId) -> None:
        """Plan for one instance, and do it."""
        if (claim := self._claims.get(instance)) is not None:
            await self._start(claim)
        runs = await self._driver.list(instance)
        fleet = self._projection.fleet
        state = fleet.instances.get(instance)
        now_ns = self._projection.journal.now_ns()
        actions = plan.plan_instance(instance, state, self._host, runs, now_ns, drivers=self._drivers, hosts=fleet.hosts)
        self.waiting.pop(instance, None)
        for action in actions:
            if isinstance(action, plan.Wait):
                self._later(instance, (action.until_ns - self._projection.journal.now_ns()) / 1e9, action.reason)
            else:
                await self._execute(action)
                if instance not in self._timers:  # else it waits: for a driver that is away
                    self._dirty.add(instance)
        self.live = sum(run.live for run in await self._driver.list())
        self._metrics.instances.set(self.live)

    def _later(self, instance: InstanceId, seconds: float, reason: str) -> None:
        self.waiting[instance] = reason
        earlier = self._timers.pop(instance, None)
        if earlier is not None:
            earlier.cancel()
        if not self._stopped:
            self._timers[instance] = asyncio.create_task(self._wake_after(instance, seconds), name=f"agent-timer-{instance}")

    async def _wake_after(self, instance: InstanceId, seconds: float) -> None:
        await self._clock.sleep(max(0.0, seconds))
        self._timers.pop(instance, None)
        self.wake(instance)

    async def _execute(self, action: plan.Action) -> None:
        match action:
            case plan.Stop():
                log.info("stopping %s: %s", action.key, action.reason)
                await self._driver.stop(action.key, action.timeout_s)
            case plan.ReportStart():
                await self._decide(action.run.key.instance, lambda fleet: plan.started(fleet, self._host, action.run))
            case plan.ReportExit():
                await self._report(action.run)
            case plan.Forget():
                await self._driver.forget(action.key)
                await self._tidy(action.key.instance.pipeline)
            case plan.Fail():
                await self._fail(action)
            case plan.Start():
                await self._start(action)
            case plan.Wait():
                pass

    async def _tidy(self, pipeline: str | None = None) -> None:
        """Remove what the runs of a pipeline shared, if the host has nothing more to do with it; without a name, of all such."""
        instances = self._projection.fleet.instances.values()
        busy = {each.id.pipeline for each in instances if plan.concerns(each, self._host) and (each.wanted or each.active)}
        if pipeline not in busy:
            with contextlib.suppress(DriverError):  # the next round tries again
                await self._driver.tidy(busy)

    async def _decide(self, instance: InstanceId, decide: Callable[[Fleet], Decision]) -> list[Entry]:
        correlation = self._projection.fleet.correlation_of(instance.pipeline)
        return await self._projection.decide(decide, actor=self._actor, correlation=correlation)

    async def _report(self, run: Run) -> None:
        def decide(fleet: Fleet) -> Decision:
            ago_s = max(0, self._clock.wall_ns() - run.exited_ns) / 1e9 if run.exited_ns else None
            now_ns = self._projection.journal.now_ns()
            return plan.exit_of(
                fleet, self._host, run, now_ns, self._seed, ended_ago_s=None if ago_s is None else round(ago_s, 6)
            )

        for entry in await self._decide(run.key.instance, decide):
            if isinstance(entry.event, ComponentExited):
                self._metrics.exits.labels(expected=str(entry.event.expected).lower()).inc()
                self._metrics.restarts.inc(entry.event.restart_in_s is not None)
                log.info("%s ended with %s", run.key, plan.ending_of(run.code, run.signal))
            elif isinstance(entry.event, ComponentFailed):
                self._metrics.failures.inc()
                log.warning("%s failed: %s", run.key.instance, entry.event.reason)

    async def _fail(self, action: plan.Fail) -> None:
        if await self._decide(action.instance, lambda fleet: plan.fail(fleet, self._host, action)):
            self._metrics.failures.inc()
            log.warning("%s failed: %s", action.instance, action.reason)

    async def _start(self, action: plan.Start) -> None:
        """Claim an incarnation and start it; once claimed, this agent's end does not come between."""
        state = self._projection.fleet.instances.get(action.instance)
        assignment = state.assignment if state is not None else None
        if state is None or assignment is None or assignment.seq != action.assignment:
            self._claims.pop(action.instance, None)
            return
        absence = self._driver.absence(assignment.driver)
        if absence is not None and action.instance not in self._claims:
            self._later(action.instance, ABSENCE_RETRY_S, absence)
            return
        pipeline = self._projection.fleet.pipelines.get(action.instance.pipeline)
        key = RunKey(action.instance, state.incarnation + 1)
        try:
            launch = await self._prepare(key, assignment, pipeline)
        except UserError as error:
            self._claims.pop(action.instance, None)
            await self._fail(plan.Fail(action.instance, action.assignment, f"it cannot be started on host {self._host}: {error}"))
            return
        if pipeline is not None:
            # A sink that knows the run can tell an event that comes again from the same event of another run.
            launch = msgspec.structs.replace(launch, env={**launch.env, "FLOWCTL_RUN": str(pipeline.run_seq)})
        spawn = asyncio.create_task(self._claim_and_spawn(action, launch), name=f"agent-spawn-{action.instance}")
        self._spawns.add(spawn)
        spawn.add_done_callback(self._spawned)
        await asyncio.shield(spawn)

    async def _claim_and_spawn(self, action: plan.Start, launch: Launch) -> None:
        began = time.monotonic()
        incarnation = await self._claim(action)
        if incarnation is None:
            return
        env = {**launch.env, "FLOWCTL_INCARNATION": str(incarnation)}
        launch = msgspec.structs.replace(launch, key=RunKey(action.instance, incarnation), env=env)
        try:
            run = await self._driver.start(launch)
        except DriverError as error:
            self._metrics.errors.inc()
            log.warning("%s could not be started: %s", launch.key, error)
            run = Run(key=launch.key, assignment=launch.assignment, state="exited", last_words=[str(error)])
            with contextlib.suppress(JournalUnavailableError):  # else the plan finds the incarnation lost, and says so
                await self._report(run)
            return
        self._metrics.starts.inc()
        self._metrics.start_seconds.observe(time.monotonic() - began)
        log.info("started %s", launch.key, extra={"handle": run.handle})

    async def _claim(self, action: plan.Start) -> int | None:
        """The incarnation's number, None if it is not to be started any more.

        When the journal goes away over this, the claim may or may not be written: that is found out the next time.
        """
        earlier = action.instance in self._claims
        if earlier:
            await self._projection.sync()
        self._claims[action.instance] = action

        def decide(fleet: Fleet) -> Decision:
            return plan.claim(fleet, self._host, action, self._projection.journal.now_ns(), self._drivers)

        entries = await self._decide(action.instance, decide)
        del self._claims[action.instance]
        for entry in entries:
            if isinstance(entry.event, ComponentStarting):
                return entry.event.incarnation
        state = self._projection.fleet.instances.get(action.instance)
        mine = earlier and state is not None and state.run == "starting" and state.run_host == self._host
        if state is None or not mine or not state.current:
            return None
        runs = await self._driver.list(action.instance)
        return None if any(run.key.incarnation == state.incarnation for run in runs) else state.incarnation

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._spawns.discard(task)
        if not task.cancelled():
            task.exception()  # the worker has it, unless it was cancelled
