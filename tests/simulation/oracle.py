"""Who knows the truth, and says when flowctl departs from it.

Told of everything that happens, it checks at once what must hold always (fences, honest statuses, honest exits, no needless
stops) and at the end what must have come of it (acknowledged facts are there, statuses are true, pipelines have their goals).
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from flowctl.fleet import ENDED, Fleet, Instance
from flowctl.ids import InstanceId
from flowctl.journal.events import (
    CheckpointCommitted,
    ComponentDeregistered,
    ComponentExited,
    ComponentFailed,
    ComponentRegistered,
    ComponentStarting,
    ComponentStatusChanged,
    DeregisterReason,
    HostLost,
)
from flowctl.journal.log import Entry
from flowctl_agent.drivers import Launch, RunKey
from flowctl_health.observed import MAX_GAP_NS
from flowctl_orchestrator.plan import plan

if TYPE_CHECKING:
    from simulation.machines import Host, Program
    from simulation.world import World

SLACK_S = 0.05
IN_FLIGHT_S = 5
"""So long after it was decided, at most, a verdict is written; see ``Line.ask``."""
_S = 1_000_000_000


class Oracle:
    """``problems`` is what was found wrong, in order; ``fleet`` is what the journal says, without delay."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.fleet = Fleet()
        self.problems: list[str] = []
        self.programs: dict[RunKey, Program] = {}
        self.started: dict[RunKey, str] = {}
        self.boots: list[tuple[InstanceId, str]] = []
        self.farewells: list[tuple[RunKey, DeregisterReason]] = []
        self.submissions: list[tuple[str, int]] = []
        self.positions: dict[tuple[InstanceId, int], int] = {}

    def wrong(self, what: str) -> None:
        """A promise was broken."""
        if len(self.problems) < 20:
            self.problems.append(f"{self.world.time_s():.3f} s: {what}")
        self.world.tell("WRONG", what)

    # --- what programs and hosts do --------------------------------------------------------------------------------------------

    def starts(self, host: "Host", launch: Launch) -> None:
        """A driver starts a run."""
        key = launch.key
        if key in self.started:
            self.wrong(f"{key} has two owners: started on {self.started[key]} and on {host.name}")
        self.started[key] = host.name
        self.world.count("starts")

    def registered(self, program: "Program", floor: int) -> None:
        """A registry has acknowledged a registration, with a checkpoint that cannot lie before ``floor``."""
        self.programs[program.key] = program
        self.boots.append((program.key.instance, program.boot_id))
        if program.position < floor:
            self.wrong(f"{program.key} resumes at {program.position}, and {floor} was acknowledged")
        self.world.tell("registered", program.boot_id)

    def checkpoint_floor(self, program: "Program") -> int:
        """The position that a registration from now on cannot lie before."""
        return self.positions.get(self._run(program), 0)

    def committed(self, program: "Program", position: int) -> None:
        """A registry has acknowledged a checkpoint."""
        run = self._run(program)
        self.positions[run] = max(position, self.positions.get(run, 0))

    def deregistered(self, program: "Program", reason: DeregisterReason) -> None:
        """A registry has acknowledged an end on purpose."""
        self.farewells.append((program.key, reason))

    def submitted(self, pipeline: str, revision: int) -> None:
        """An orchestrator has acknowledged a submission."""
        self.submissions.append((pipeline, revision))

    def stops(self, program: "Program") -> None:
        """An agent ends a program that lives: only if nobody wants it any more."""
        instance = self.fleet.instances.get(program.key.instance)
        if instance is None or not self._wanted(instance, program):
            return
        self.wrong(f"{program.key} is stopped on {program.host.name}, and nothing in the journal wants that")

    def _wanted(self, instance: Instance, program: "Program") -> bool:
        assignment = instance.assignment
        return (
            instance.active
            and instance.run in ("starting", "started", "running")
            and instance.incarnation == program.key.incarnation
            and instance.wanted
            and assignment is not None
            and assignment.host == program.host.name
            and assignment.seq == program.assignment
        )

    def _run(self, program: "Program") -> tuple[InstanceId, int]:
        state = self.fleet.pipelines.get(program.key.instance.pipeline)
        return program.key.instance, state.run if state is not None else 0

    # --- what is written -------------------------------------------------------------------------------------------------------

    def written(self, entries: list[Entry]) -> None:
        """Entries were stored."""
        for entry in entries:
            self._check(entry)
            self.fleet.apply(entry)

    def _check(self, entry: Entry) -> None:
        aggregate, event = entry.aggregate, entry.event
        if aggregate is None:
            self.wrong(f"entry {entry.seq} is poison: {event}")
        elif aggregate.kind == "component":
            id_ = aggregate.instance
            self._check_component(entry, id_, self.fleet.instances.get(id_) or Instance(id_))
        elif isinstance(event, HostLost):
            self._check_host_lost(aggregate.key[0])

    def _check_component(self, entry: Entry, id_: InstanceId, before: Instance) -> None:
        match entry.event:
            case ComponentStarting() as event:
                if event.incarnation != before.incarnation + 1:
                    self.wrong(f"{id_}/{event.incarnation} is claimed by {entry.actor} after incarnation {before.incarnation}")
            case ComponentRegistered() | ComponentDeregistered() | CheckpointCommitted() as event:
                if event.incarnation < before.incarnation:
                    name = type(event).__name__
                    self.wrong(f"{name} of {id_}/{event.incarnation} counts although {before.incarnation} has taken over")
            case ComponentExited() as event:
                program = self._program(RunKey(id_, event.incarnation))
                if program is not None and program.alive:
                    self.wrong(f"{program.key} is said to have exited, and lives on {program.host.name}")
            case ComponentFailed():
                self.world.count("failures")
            case ComponentStatusChanged() as event:
                self.world.count(event.status)
                if event.status == "unhealthy":
                    self._check_unhealthy(RunKey(id_, event.incarnation))
                elif event.status == "healthy":
                    self._check_healthy(RunKey(id_, event.incarnation))
            case _:
                pass

    def _program(self, key: RunKey) -> "Program | None":
        host = self.world.hosts.get(self.started.get(key, ""))
        return host.programs.get(key) if host is not None else None

    def _check_unhealthy(self, key: RunKey) -> None:
        """It must be silent: for long enough, for a reason of its own, not because the journal was away."""
        program = self._program(key)
        if program is None:
            self.wrong(f"{key} is unhealthy, and never ran")
            return
        if not program.alive:
            return
        heard_ns = self._known_ns(self.world.disk.heard_ns.get((key.instance, key.incarnation), ()))
        registration = self.fleet.instances[key.instance].registration
        silent_ns = self.world.loop.now_ns - self._counts_since_ns(max(heard_ns, registration.time_ns if registration else 0))
        if silent_ns < (self.world.silence_s - SLACK_S) * _S:
            self.wrong(f"{key} is marked unhealthy after {silent_ns / _S:.2f} s of silence that counts")
        elif program.registered and not program.own_fault and program.process.state == "running":
            self.wrong(f"{key} is marked unhealthy although nothing kept it from speaking but the journal")

    def _check_healthy(self, key: RunKey) -> None:
        """It must have spoken."""
        program = self._program(key)
        if program is None or not program.registered:
            self.wrong(f"{key} is healthy, and never registered")

    def _check_host_lost(self, name: str) -> None:
        self.world.count("hosts lost")
        host = self.fleet.hosts.get(name)
        heard_ns = max(self._known_ns(self.world.disk.hosts_heard_ns.get(name, ())), host.since_ns if host is not None else 0)
        silent_ns = self.world.loop.now_ns - self._counts_since_ns(heard_ns)
        if silent_ns < (self.world.silence_s - SLACK_S) * _S:
            self.wrong(f"host {name} is called lost after {silent_ns / _S:.2f} s of silence that counts")

    def _known_ns(self, times_ns: Collection[int]) -> int:
        """When it was heard last, as far as whoever wrote just now could have known before the write was on its way."""
        return max((at_ns for at_ns in times_ns if at_ns <= self.world.loop.now_ns - IN_FLIGHT_S * _S), default=0)

    def _counts_since_ns(self, heard_ns: int) -> int:
        """Since when silence counts: since it was heard, or since the journal was back after a longer absence."""
        for begin_ns, end_ns in self.world.disk.outages:
            if (end_ns or self.world.loop.now_ns) - begin_ns > MAX_GAP_NS:
                heard_ns = max(heard_ns, end_ns or self.world.loop.now_ns)
        return heard_ns

    # --- at the end ------------------------------------------------------------------------------------------------------------

    def unsettled(self) -> str | None:
        """What is not yet as it should be once faults have stopped; None if everything is."""
        fleet = self.fleet
        for name, state in fleet.pipelines.items():
            wanted = {id_ for id_, _, _ in state.instance_ids()}
            alive = {p.key.instance for host in self.world.hosts.values() for p in host.live() if p.key.instance.pipeline == name}
            if state.ended:
                if alive:
                    return f"{name} has {state.status}, and {sorted(map(str, alive))} live"
                continue
            if state.stop_requested is not None or state.status != "running":
                return f"{name} is {state.status}: {state.status_reason}"
            expected = {id_ for id_ in wanted if not fleet.instances[id_].completed}
            if alive != expected:
                return f"of {name} {sorted(map(str, alive))} live, and {sorted(map(str, expected))} should"
            for id_ in expected:
                instance = fleet.instances[id_]
                if not instance.current or instance.run != "running" or instance.status != "healthy":
                    return f"{id_} is {instance.phase} and {instance.status}: {instance.status_reason}"
        return self._unsettled_elsewhere()

    def _unsettled_elsewhere(self) -> str | None:
        for host in self.fleet.hosts.values():
            if host.status != "up":
                return f"host {host.name} is {host.status}"
        for instance in self.fleet.instances.values():
            program = self._program(RunKey(instance.id, instance.incarnation))
            if instance.active and (program is None or not program.alive):
                return f"{instance.id} is {instance.run}, and nothing runs"
        rest = plan(self.fleet, self.world.loop.now_ns)
        return f"to be planned still: {rest.drafts[:2]}" if rest.drafts else None

    def conclude(self) -> None:
        """What was acknowledged is in the journal, and pipelines ended as they were asked to."""
        written: set[tuple[InstanceId, str]] = set()
        ended: set[tuple[RunKey, DeregisterReason]] = set()
        for entry in self.world.disk.entries:
            if entry.aggregate is not None and isinstance(entry.event, ComponentRegistered):
                written.add((entry.aggregate.instance, entry.event.boot_id))
            elif entry.aggregate is not None and isinstance(entry.event, ComponentDeregistered):
                ended.add((RunKey(entry.aggregate.instance, entry.event.incarnation), entry.event.reason))
        for boot in self.boots:
            if boot not in written:
                self.wrong(f"the acknowledged registration {boot} is lost")
        for farewell in self.farewells:
            if farewell not in ended:
                self.wrong(f"the acknowledged end {farewell} is lost")
        for pipeline, revision in self.submissions:
            state = self.fleet.pipelines.get(pipeline)
            if state is None or state.revision < revision:
                self.wrong(f"the acknowledged revision {revision} of {pipeline} is lost")
        for (id_, run), position in self.positions.items():
            state, instance = self.fleet.pipelines.get(id_.pipeline), self.fleet.instances.get(id_)
            if state is None or instance is None or state.run != run or instance.checkpoint is None:
                continue
            if instance.checkpoint.position < position:
                self.wrong(f"{id_} has checkpoint {instance.checkpoint.position}, and {position} was acknowledged")
        for name, state in self.fleet.pipelines.items():
            if state.status == "failed" and not self.world.may_fail:
                self.wrong(f"{name} has failed: {state.status_reason}")
            if state.status == "completed" and name not in self.world.finite:
                self.wrong(f"{name} has completed, and has no end")
            if state.ended and state.status != "stopped" and state.stop_requested is not None:
                assert state.status in ENDED
        if self.fleet.poison_total or self.fleet.unknown_total:
            self.wrong(f"the journal has {self.fleet.poison_total} poison and {self.fleet.unknown_total} unknown entries")
