"""Hosts with their programs, and the driver through which an agent sees them. Programs do what the SDK does: see ``Program``.

A host's programs outlive its agent. What a driver knows of runs is what the host has: nothing is forgotten with the agent, unless
the host itself loses power.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flowctl.errors import DriverError, FlowctlError, NotFoundError, RefusedError
from flowctl.ids import InstanceId
from flowctl.journal.events import DeregisterReason
from flowctl.journal.heartbeats import Heartbeat
from flowctl.spec.model import Driver as DriverName
from flowctl.spec.model import Kind
from flowctl_agent.drivers import Launch, OutputChunk, Run, RunKey
from flowctl_registry.handlers import Handlers
from flowctl_registry.requests import Caller, Commit, Deregister, Register
from simulation.loop import LoopClock, Process

if TYPE_CHECKING:
    from simulation.world import World

T = TypeVar("T")

CALL_TIMEOUT_S = 2.0
EXIT_SUPERSEDED = 75
EXIT_REFUSED = 1
KILLED = 137


class UnreachableError(Exception):
    """No registry answered in time, or it said that it cannot now."""


class Host:
    """A machine. ``cut`` while it reaches nobody; ``skew_s`` is how wrong its wall clock is."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.cut = False
        self.skew_s = world.chance.uniform(-300, 300)
        self.programs: dict[RunKey, Program] = {}
        self.forgotten: set[RunKey] = set()
        self.driver: SimDriver | None = None

    def live(self, instance: InstanceId | None = None) -> list["Program"]:
        """The programs that live here."""
        return [program for program in self.programs.values() if program.alive and instance in (None, program.key.instance)]

    def lose_power(self) -> None:
        """Everything ends, and nobody saw how."""
        for program in self.live():
            program.end(None)


class Program:
    """One run of a program: registers, sends heartbeats, commits checkpoints, completes if there is an end, says good-bye.

    ``own_fault`` says whether since its last acknowledged heartbeat one failed for a reason of its own (it stood still, its host
    was cut off, its registry was) rather than because the journal was away.
    """

    def __init__(self, host: Host, launch: Launch, kind: Kind) -> None:
        self.host = host
        self.world = host.world
        self.key = launch.key
        self.assignment = launch.assignment
        self.stop_timeout_s = launch.stop_timeout_s
        self.kind: Kind = kind
        self.boot_id = f"{host.name}-{launch.key}"
        self.chance = random.Random(f"{host.world.seed}/{self.boot_id}")
        self.caller = Caller(launch.key.instance, launch.key.incarnation)
        self.code: int | None = None
        self.signal: int | None = None
        self.ended: asyncio.Future[None] = self.world.loop.create_future()
        self.asked_to_stop = False
        self.registered = False
        self.position = 0
        self.own_fault = False
        self.resumed_ns = 0
        self.registry = self.chance.randrange(8)
        self.clock = LoopClock(self.world.loop)
        self.process = Process(self.world.loop, f"program {self.key}")
        self.started_ns = self.world.loop.now_ns
        self.process.spawn(self._main())

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return not self.ended.done()

    @property
    def run(self) -> Run:
        """As a driver sees it."""
        return Run(
            key=self.key,
            assignment=self.assignment,
            state="running" if self.alive else "exited",
            handle=self.boot_id,
            code=self.code,
            signal=self.signal,
            stopped=self.asked_to_stop,
            stop_timeout_s=self.stop_timeout_s,
        )

    def end(self, code: int | None, *, signal: int | None = None) -> None:
        """It is gone."""
        if self.alive:
            self.code, self.signal = code, signal
            self.world.tell("ends", self.boot_id, code, signal)
            self.ended.set_result(None)
            self.world.loop.at(0, self.process.kill)  # not at once: it may be the one who calls
            if self.host.driver is not None:
                self.host.driver.exited(self.run)

    def resumed(self) -> None:
        """SIGCONT; that it stood still was a fault of its own until it has been heard again."""
        if self.process.state == "paused":
            self.own_fault = True
            self.resumed_ns = self.world.loop.now_ns
            self.process.resume()

    def terminate(self) -> None:
        """SIGTERM."""
        if self.alive and not self.asked_to_stop:
            self.asked_to_stop = True
            self.process.run(lambda: self.process.spawn(self._stop()))

    # --- its life ------------------------------------------------------------------------------------------------------------

    async def _main(self) -> None:
        try:
            await self.clock.sleep(0.05 + 0.3 * self.chance.random())
            await self._register()
            self.process.spawn(self._beat())
            await self._work()
            await self._goodbye("completed")
        except RefusedError as error:
            self.end(EXIT_SUPERSEDED if error.refusal == "superseded" else EXIT_REFUSED)

    async def _stop(self) -> None:
        if self.registered:
            try:
                await self._goodbye("stopped")
            except RefusedError:
                self.end(EXIT_SUPERSEDED)
        else:
            self.end(0)

    async def _goodbye(self, reason: DeregisterReason) -> None:
        await self._insist(lambda handlers: handlers.deregister(Deregister(caller=self.caller, reason=reason)))
        self.world.oracle.deregistered(self, reason)
        self.end(0)

    async def _register(self) -> None:
        request = Register(caller=self.caller, kind=self.kind, boot_id=self.boot_id, address="10.0.0.1:1")
        floor = self.world.oracle.checkpoint_floor(self)
        checkpoint = await self._insist(lambda handlers: handlers.register(request), register=True)
        self.registered = True
        self.position = checkpoint.position if checkpoint is not None else 0
        self.world.oracle.registered(self, floor)

    async def _beat(self) -> None:
        early = iter((0.5, 1.0))
        while True:
            await self.clock.sleep(next(early, self.world.heartbeat_s))
            beat, began_ns = Heartbeat(self.key.instance, self.key.incarnation), self.world.loop.now_ns
            cut = self.host.cut
            try:
                await self._call(lambda handlers: handlers.heartbeat(beat))  # noqa: B023 - it is awaited here
                self.own_fault &= began_ns < self.resumed_ns
            except UnreachableError:
                self.own_fault |= cut or self.host.cut or not self.world.disk.was_away(began_ns)
            except NotFoundError:
                await self._register()
            except RefusedError as error:
                if error.refusal == "superseded":
                    self.end(EXIT_SUPERSEDED)
                    return

    async def _work(self) -> None:
        """Until it has nothing more to do; for ever, unless the pipeline has an end."""
        finite = self.key.instance.pipeline in self.world.finite
        left_s = self.chance.uniform(3, 20)
        while True:
            pause_s = self.chance.uniform(2, 5)
            await self.clock.sleep(pause_s)
            left_s -= pause_s
            if self.kind == "source":
                self.position += self.chance.randrange(1, 100)
                position = self.position
                await self._insist(lambda handlers: handlers.commit_checkpoint(Commit(caller=self.caller, position=position)))  # noqa: B023
                self.world.oracle.committed(self, position)
                if finite and left_s <= 0:
                    return
            elif finite and await self._upstreams_completed():
                return

    async def _upstreams_completed(self) -> bool:
        """Whether the first topology of a new watch says so."""

        async def first(handlers: Handlers) -> bool:
            watch = handlers.watch(self.caller)
            try:
                async for _, topology in watch:
                    return bool(topology.upstreams) and all(link.completed for link in topology.upstreams)
                return False
            finally:
                await watch.aclose()

        try:
            return await self._call(first)
        except (UnreachableError, NotFoundError):
            return False

    # --- calls ---------------------------------------------------------------------------------------------------------------

    async def _insist(self, ask: Callable[[Handlers], Awaitable[T]], *, register: bool = False) -> T:
        tries = 0
        while True:
            began_ns = self.world.loop.now_ns
            try:
                return await self._call(ask)
            except UnreachableError:
                self.own_fault |= self.host.cut or not self.world.disk.was_away(began_ns)
            except NotFoundError:
                if not register:
                    await self._register()
            tries += 1
            await self.clock.sleep(min(1.0, 0.05 * 2**tries) * (0.5 + self.chance.random() / 2))

    async def _call(self, ask: Callable[[Handlers], Awaitable[T]]) -> T:
        """Ask the present registry; whoever does not answer is left for the next one.

        Raises:
            UnreachableError: it does not answer, or cannot do its work.
            RefusedError: it refuses.
        """
        registries = self.world.registries
        chosen = registries[self.registry % len(registries)]
        try:
            return await self.world.call(self.host, chosen, ask, CALL_TIMEOUT_S)
        except RefusedError:
            raise
        except (FlowctlError, TimeoutError) as error:
            self.registry += 1
            raise UnreachableError(str(error)) from error


class SimDriver:
    """See ``Driver``: the process driver of a host, for one life of its agent."""

    name: DriverName = "process"

    def __init__(self, host: Host, agent: Process, clock: LoopClock) -> None:
        self._host = host
        self._agent = agent
        self._clock = clock
        self._listeners: list[Callable[[Run], None]] = []
        host.driver = self

    def exited(self, run: Run) -> None:
        """A program of the host has ended: the agent's listeners hear of it."""
        if self._host.driver is self:
            for listener in self._listeners:
                self._agent.run(lambda listener=listener: listener(run))

    async def open(self) -> None:
        """See ``Driver``."""

    async def close(self) -> None:
        """See ``Driver``."""

    async def start(self, launch: Launch) -> Run:
        """See ``Driver``."""
        world, host = self._host.world, self._host
        await self._clock.sleep(0.001 + 0.02 * world.chance.random())
        if world.weather.happens(world.start_fails):
            raise DriverError("the machine has no room for another process")
        if host.live(launch.key.instance):
            raise DriverError(f"{launch.key.instance} has a live run already")
        world.oracle.starts(host, launch)
        program = Program(host, launch, world.kind_of(launch.key.instance))
        host.programs[launch.key] = program
        world.tell("starts", program.boot_id)
        return program.run

    async def stop(self, key: RunKey, timeout_s: float) -> None:
        """See ``Driver``."""
        program = self._host.programs.get(key)
        if program is None or not program.alive:
            return
        self._host.world.oracle.stops(program)
        program.terminate()
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(program.ended)
        except TimeoutError:
            program.end(None, signal=9)

    async def list(self, instance: InstanceId | None = None) -> list[Run]:
        """See ``Driver``."""
        return [
            program.run
            for key, program in self._host.programs.items()
            if key not in self._host.forgotten and instance in (None, key.instance)
        ]

    async def forget(self, key: RunKey) -> None:
        """See ``Driver``."""
        self._host.forgotten.add(key)

    async def tidy(self, pipelines: Collection[str]) -> None:
        """See ``Driver``: its runs share nothing."""

    def absence(self) -> str | None:
        """See ``Driver``: it is always there."""
        return None

    def on_exit(self, listener: Callable[[Run], None]) -> None:
        """See ``Driver``."""
        self._listeners.append(listener)

    def on_output(self, listener: Callable[[RunKey], None]) -> None:
        """See ``Driver``: these programs write nothing."""

    def outputs(self) -> "list[RunKey]":
        """See ``Driver``."""
        return []

    def read_output(self, key: RunKey, position: int, limit_bytes: int) -> OutputChunk:
        """See ``Driver``."""
        del key, limit_bytes
        return OutputChunk([], position)

    def directory(self, key: RunKey) -> Path:
        """See ``Driver``."""
        return Path(str(key))
