"""One schedule: a world made from a seed, what goes wrong in it, peace, and what the oracle says then."""

import logging
import random
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import field

from flowctl.spec.model import Backoff, Component, Metadata, Pipeline, Restart, Spec
from simulation.line import Weather
from simulation.loop import START_NS
from simulation.machines import KILLED, Host, Program
from simulation.sabotage import Sabotage, sabotaged
from simulation.world import Server, World

PEACE_S: Final = 240.0
LOOK_S: Final = 1.0
RESTART: Final = Restart(max_attempts=1_000_000, backoff=Backoff(initial_s=0.2, max_s=2.0))
_S = 1_000_000_000


class Outcome(msgspec.Struct, frozen=True):
    """What came of a schedule. ``digest`` is the same for the same seed; ``seconds`` is simulated time."""

    seed: int
    problems: list[str]
    digest: str
    seconds: float
    steps: int
    entries: int
    counts: dict[str, int] = field(default_factory=dict[str, int])
    trace: list[str] = field(default_factory=list[str])


def play(seed: int, *, sabotage: Sabotage = "", tracing: bool = False) -> Outcome:
    """Play the schedule of a seed, and judge it."""
    watch = _Watch()
    log = logging.getLogger("flowctl")
    before = log.level, log.propagate
    log.setLevel(logging.ERROR)
    log.propagate = False
    log.addHandler(watch)
    try:
        with sabotaged(sabotage):
            schedule = Schedule(seed, sabotage=sabotage, tracing=tracing)
            watch.world = schedule.world
            return schedule.play()
    finally:
        log.removeHandler(watch)
        log.setLevel(before[0])
        log.propagate = before[1]


class _Watch(logging.Handler):
    """What a service logs as an error it did not foresee."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.world: World | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if self.world is not None:
            cause = f": {record.exc_info[1]!r}" if record.exc_info else ""
            self.world.oracle.wrong(f"{record.name} logs an error: {record.getMessage()}{cause}")


def pipeline(name: str, chance: random.Random) -> Pipeline:
    """A small graph: two or three components, one or two instances of each."""

    def component(id_: str, *inputs: str, replicas: int = 1) -> Component:
        return Component(
            id=id_,
            command=["true"],
            inputs=list(inputs),
            replicas=replicas,
            restart=RESTART,
            stop_timeout_s=3.0,
            config={"v": chance.randrange(2)},
        )

    sources = [component("numbers", replicas=chance.choice((1, 1, 2)))]
    processors = [component("double", "numbers")] if chance.random() < 0.3 else []
    sinks = [component("store", processors[0].id if processors else "numbers", replicas=chance.choice((1, 1, 1, 2)))]
    spec = Spec(sources=sources, processors=processors, sinks=sinks)
    return Pipeline(api_version="flowctl/v1", kind="Pipeline", metadata=Metadata(name=name), spec=spec)


class Schedule:
    """What happens, when: all of it chosen by the seed."""

    def __init__(self, seed: int, *, sabotage: Sabotage = "", tracing: bool = False) -> None:
        self.seed = seed
        chance = self.chance = random.Random(f"schedule/{seed}")
        replicas = chance.choice((1, 1, 2)), chance.choice((1, 1, 2)), chance.choice((1, 2, 2))
        self.world = World(seed, replicas=replicas, hosts=chance.choice((1, 2, 2, 3)), tracing=tracing)
        self.world.disk.heads_matter = sabotage != "heads-ignored"
        if chance.random() < 0.3:
            self.world.finite.add("orders")
        self.storm_s = chance.uniform(4, 10) if chance.random() < 0.6 else chance.uniform(15, 30)

    def play(self) -> Outcome:
        """Play it to its end."""
        world, loop = self.world, self.world.loop
        try:
            self._bad_weather(world.weather)
            for server in world.servers:
                loop.at(self.chance.random(), server.start)
            self._later(0.2, self._submit)
            for _ in range(self.chance.choice((0, 0, 1, 1, 2))):
                self._later(self.chance.uniform(2, self.storm_s), self._command)
            for _ in range(self.chance.randrange(1, 9)):
                self._later(self.chance.uniform(0.5, self.storm_s), self._fault)
            loop.run_until(_never, START_NS + int(self.storm_s * _S))
            self._make_peace()
            self._converge()
            world.oracle.conclude()
            for error in loop.errors:
                world.oracle.wrong(f"nobody handled {error}")
            return Outcome(
                seed=self.seed,
                problems=list(world.oracle.problems),
                digest=world.digest,
                seconds=world.time_s(),
                steps=loop.steps,
                entries=len(world.disk.entries),
                counts=dict(world.counts),
                trace=world.trace,
            )
        finally:
            world.close()

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.world.loop.at(delay_s, call)

    def _bad_weather(self, weather: Weather) -> None:
        chance = self.chance
        for name, most in (
            ("slow", 0.1),
            ("lost_answer", 0.1),
            ("late_write", 0.05),
            ("conflict", 0.1),
            ("stale", 0.3),
            ("twice", 0.1),
            ("gap", 0.05),
        ):
            if chance.random() < 0.5:
                setattr(weather, name, most * chance.random())
        self.world.start_fails = 0.1 if chance.random() < 0.2 else 0.0

    # --- a user ----------------------------------------------------------------------------------------------------------------

    def _submit(self) -> None:
        self.world.user.spawn(self.world.submit(pipeline("orders", self.chance)))

    def _command(self) -> None:
        world, chance = self.world, self.chance
        chosen = chance.randrange(6)
        self.world.tell("command", chosen)
        self.world.count("commands")
        if chosen <= 1:
            self._submit()
        elif chosen == 2:
            world.user.spawn(world.scale("orders", chance.choice(("numbers", "store")), chance.randint(1, 3)))
        elif chosen == 3:
            world.user.spawn(world.restart("orders", chance.choice((None, "numbers"))))
        elif chosen == 4:
            world.user.spawn(world.stop("orders"))
        else:
            world.user.spawn(world.stop("orders"))
            self._later(chance.uniform(0.1, 8), self._submit)

    # --- faults ----------------------------------------------------------------------------------------------------------------

    def _fault(self) -> None:
        faults = (
            self._journal_away,
            self._cut_line,
            self._kill_server,
            self._kill_server,
            self._pause_server,
            self._stop_agent,
            self._program_exits,
            self._program_exits,
            self._program_hangs,
            self._host_cut,
            self._host_dies,
        )
        fault = self.chance.choice(faults)
        self.world.tell("fault", fault.__name__.strip("_"))
        self.world.count(fault.__name__.strip("_").replace("_", " "))
        fault()

    def _journal_away(self) -> None:
        self.world.disk.go_away()
        self._later(self.chance.choice((0.3, 1.5, 4.0, 12.0)) * (0.5 + self.chance.random()), self.world.disk.come_back)

    def _cut_line(self) -> None:
        server = self.chance.choice(self.world.servers)
        line = server.line
        if line is None or not server.up:
            return
        line.cut = True
        line.break_up()

        def mend() -> None:
            line.cut = server.host.cut if server.host is not None else False
            line.hear_of_everything()

        self._later(self.chance.uniform(0.5, 15), mend)

    def _kill_server(self) -> None:
        """Between any two steps: some time from now, at whatever it is about to do then."""
        server = self.chance.choice(self.world.servers)
        if server.process is not None:
            server.process.die_after(self.chance.randrange(60))

    def _pause_server(self) -> None:
        server = self.chance.choice(self.world.servers)
        if server.process is not None:
            server.process.pause()
            self._later(self.chance.uniform(0.5, 15), server.process.resume)

    def _stop_agent(self) -> None:
        server = self.chance.choice([each for each in self.world.servers if each.role == "agent"])
        if server.process is not None and server.process.state == "running" and not server.stopping:
            server.stopping = True
            server.process.spawn(server.leave())

    def _program(self) -> Program | None:
        alive = [program for host in self.world.hosts.values() for program in host.live()]
        return self.chance.choice(alive) if alive else None

    def _program_exits(self) -> None:
        program = self._program()
        if program is not None:
            if self.chance.random() < 0.5:
                program.end(None, signal=9)
            else:
                program.end(self.chance.choice((0, 1, KILLED)))

    def _program_hangs(self) -> None:
        program = self._program()
        if program is not None:
            program.own_fault = True
            program.process.pause()
            self._later(self.chance.uniform(1, 20), program.resumed)

    def _host(self) -> tuple[Host, Server]:
        server = self.chance.choice([each for each in self.world.servers if each.role == "agent"])
        assert server.host is not None
        return server.host, server

    def _host_cut(self) -> None:
        host, agent = self._host()
        host.cut = True
        if agent.line is not None and agent.up:
            agent.line.cut = True
            agent.line.break_up()
        self._later(self.chance.uniform(1, 25), lambda: self._join_up(host, agent))

    def _join_up(self, host: Host, agent: Server) -> None:
        host.cut = False
        if agent.line is not None and agent.up:
            agent.line.cut = False
            agent.line.hear_of_everything()

    def _host_dies(self) -> None:
        host, agent = self._host()
        agent.stays_down = True
        if agent.process is not None:
            agent.process.kill()
        host.lose_power()
        self._later(self.chance.uniform(1, 25), lambda: self._boot(agent))

    def _boot(self, agent: Server) -> None:
        agent.stays_down = False
        agent.start()

    # --- peace -----------------------------------------------------------------------------------------------------------------

    def _make_peace(self) -> None:
        """Whatever is broken is mended."""
        world = self.world
        world.tell("peace")
        world.weather.peace()
        world.start_fails = 0.0
        world.disk.come_back()
        for host in world.hosts.values():
            host.cut = False
            for program in host.live():
                program.resumed()
        for server in world.servers:
            if server.process is not None:
                server.process.steps_left = None
                server.process.resume()
            server.stays_down = False
            if server.line is not None and server.up:
                server.line.cut = False
                server.line.hear_of_everything()
            server.start()

    def _converge(self) -> None:
        """Look every second whether everything is as it should be; it must be before long, and stay so."""
        world, loop = self.world, self.world.loop
        end_ns = loop.now_ns + int(PEACE_S * _S)
        why: str | None = ""
        while loop.now_ns < end_ns:
            loop.run_until(_never, loop.now_ns + int(LOOK_S * _S))
            why = "the user's words are still on their way" if self._user_busy() else world.oracle.unsettled()
            if why is None:
                return
        world.oracle.wrong(f"not settled {PEACE_S:g} s after faults have stopped: {why}")

    def _user_busy(self) -> bool:
        return any(not task.done() for task in self.world.user.tasks)


def _never() -> bool:
    return False
