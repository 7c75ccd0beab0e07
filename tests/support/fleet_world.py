"""Agents, programs, a registry and a health monitor, simulated in plain calls on a ``Ledger`` by the rules of the real ones."""

import random
from dataclasses import dataclass, field

from flowctl.errors import ConflictError
from flowctl.fleet import Fleet, Instance
from flowctl.ids import InstanceId
from flowctl.journal.events import (
    Aggregate,
    ComponentDeregistered,
    ComponentExited,
    ComponentFailed,
    ComponentRegistered,
    ComponentStarted,
    ComponentStarting,
    ComponentStatusChanged,
    DeregisterReason,
    HostJoined,
    HostLeft,
    HostLost,
    HostRecovered,
    JournalEvent,
)
from flowctl.journal.log import Draft
from support.ledger import Ledger, Reader


@dataclass
class Program:
    """One process. ``alive`` until it ends, ``registered`` once the registry has accepted it."""

    instance: InstanceId
    incarnation: int
    assignment: int
    alive: bool = True
    registered: bool = False
    said_goodbye: bool = False
    code: int = 0
    expected: bool = False


@dataclass
class SimHost:
    """A machine: its agent acts while ``agent_up`` and ``connected``; its programs live on regardless."""

    name: str
    reader: Reader
    agent_up: bool = True
    connected: bool = True
    programs: list[Program] = field(default_factory=list[Program])

    def live(self, instance: InstanceId) -> list[Program]:
        """The instance's programs that are alive here."""
        return [program for program in self.programs if program.instance == instance and program.alive]


class World:
    """Everything but the orchestrator. ``finite`` sources end after a while."""

    def __init__(self, ledger: Ledger, hosts: tuple[str, ...] = ("h1",), *, finite: bool = False) -> None:
        self.ledger = ledger
        self.finite = finite
        self.hosts = {name: SimHost(name, Reader(ledger)) for name in hosts}
        self.claimed: set[tuple[InstanceId, int]] = set()
        for name in hosts:
            self.join(name)

    # --- hosts -------------------------------------------------------------------------------------------------------------

    def join(self, name: str, **labels: str) -> None:
        """The agent starts, or starts again."""
        self.hosts[name].agent_up = True
        event = HostJoined(agent=name, address="127.0.0.1", drivers=["process"], labels=labels)
        self.ledger.write(f"host/{name}", event)

    def leave(self, name: str) -> None:
        """The agent stops on purpose; what it started goes on."""
        self.hosts[name].agent_up = False
        self.ledger.write(f"host/{name}", HostLeft(reason="stopped"))

    def lose(self, name: str) -> None:
        """The host is cut off."""
        self.hosts[name].connected = False
        self.ledger.write(f"host/{name}", HostLost(silence_s=31.0))

    def recover(self, name: str) -> None:
        """The host is back."""
        self.hosts[name].connected = True
        self.ledger.write(f"host/{name}", HostRecovered())

    # --- programs ----------------------------------------------------------------------------------------------------------

    def programs(self) -> list[tuple[SimHost, Program]]:
        """Every program that is alive."""
        return [(host, program) for host in self.hosts.values() for program in host.programs if program.alive]

    def crash(self, program: Program) -> None:
        """kill -9."""
        program.alive, program.code = False, 137

    def run_programs(self, *, end: bool = True) -> None:
        """Each program that can reach the registry does the next thing that it has to do."""
        for host, program in self.programs():
            if host.connected:
                self.step(program, end=end)

    def step(self, program: Program, *, end: bool = True) -> None:
        """The program does the next thing that it has to do: register, complete, exit."""
        truth = self.ledger.fleet.instances[program.instance]
        if program.incarnation < truth.incarnation:  # the registry says: superseded
            program.alive, program.code = False, 75
        elif not program.registered:
            kind = truth.assignment.kind if truth.assignment else "source"
            event = ComponentRegistered(incarnation=program.incarnation, kind=kind, boot_id="b", address="127.0.0.1:1")
            self.ledger.write(program.instance, event)
            program.registered = True
        elif program.said_goodbye:
            program.alive = False
        elif end and self._is_done(truth):
            self._goodbye(program, "completed")

    def _is_done(self, truth: Instance) -> bool:
        fleet = self.ledger.fleet
        assignment = truth.assignment
        if not self.finite or assignment is None or not truth.current:
            return False
        state = fleet.pipelines[truth.id.pipeline]
        upstreams = {each.from_ for each in assignment.component.upstreams}
        feeding = [id_ for id_, _, each in state.instance_ids() if each.id in upstreams]
        return all(id_ in fleet.instances and fleet.instances[id_].completed for id_ in feeding)

    def _goodbye(self, program: Program, reason: DeregisterReason) -> None:
        self.ledger.write(program.instance, ComponentDeregistered(incarnation=program.incarnation, reason=reason))
        program.said_goodbye = True

    def check_health(self) -> None:
        """The health monitor: silent programs become unhealthy, and healthy again."""
        reachable = {(p.instance, p.incarnation) for host, p in self.programs() if host.connected and p.registered}
        for instance in list(self.ledger.fleet.instances.values()):
            if instance.run != "running":
                continue
            alive = (instance.id, instance.incarnation) in reachable
            if alive != (instance.status == "healthy"):
                to, previous = ("healthy", "unhealthy") if alive else ("unhealthy", "healthy")
                event = ComponentStatusChanged(incarnation=instance.incarnation, status=to, previous=previous, reason="beats")
                self.ledger.write(instance.id, event)

    # --- agents ------------------------------------------------------------------------------------------------------------

    def run_agents(self, chance: random.Random | None = None) -> None:
        """Each agent that can reach the journal acts once on what it has read; with ``chance`` that may be old."""
        for host in self.hosts.values():
            if host.agent_up and host.connected:
                host.reader.read(None if chance is None or chance.random() < 0.7 else chance.randrange(5))
                self._act(host)

    def _act(self, host: SimHost) -> None:
        for program in list(host.programs):
            instance = host.reader.fleet.instances.get(program.instance)
            if instance is not None:
                self._tend(host, program, instance)
        for instance in list(host.reader.fleet.instances.values()):
            self._reconcile(host, instance)

    def _tend(self, host: SimHost, program: Program, instance: Instance) -> None:
        latest = instance.incarnation == program.incarnation
        if not program.alive:
            if not latest or not instance.active:
                if instance.incarnation >= program.incarnation:
                    host.programs.remove(program)
                return
            self._write(
                host,
                instance.id,
                ComponentExited(
                    host=host.name,
                    incarnation=program.incarnation,
                    assignment=program.assignment,
                    code=program.code,
                    expected=program.expected,
                    restart_in_s=None if program.expected else 0.1,
                ),
            )
            return
        assignment = instance.assignment
        fits = assignment is not None and assignment.host == host.name and assignment.seq == program.assignment
        if instance.incarnation >= program.incarnation and not (latest and fits and instance.failure is None):
            truth = self.ledger.fleet.instances[program.instance]
            if program.registered and not program.said_goodbye and truth.incarnation == program.incarnation:
                self._goodbye(program, "stopped")
            program.alive, program.expected = False, True

    def _reconcile(self, host: SimHost, instance: Instance) -> None:
        if instance.active and instance.run_host == host.name:
            if not any(p.instance == instance.id and p.incarnation == instance.incarnation for p in host.programs):
                event = ComponentExited(
                    host=host.name, incarnation=instance.incarnation, assignment=instance.run_assignment, detail="gone"
                )
                self._write(host, instance.id, event)
            return
        assignment = instance.assignment
        if assignment is None or assignment.host != host.name or not instance.wanted or host.live(instance.id):
            return
        elsewhere = host.reader.fleet.hosts.get(instance.run_host)
        if instance.active and elsewhere is not None and elsewhere.status == "up":
            return
        number = instance.incarnation + 1
        claim = ComponentStarting(host=host.name, incarnation=number, assignment=assignment.seq)
        if self._write(host, instance.id, claim):
            assert (instance.id, number) not in self.claimed, f"incarnation {number} of {instance.id} was claimed twice"
            self.claimed.add((instance.id, number))
            host.programs.append(Program(instance.id, number, assignment.seq))
            self.ledger.write(instance.id, ComponentStarted(host=host.name, incarnation=number, handle=str(number)))

    def fail(self, host: SimHost, program: Program) -> None:
        """The program crashes, and with that its restart policy is spent."""
        self.crash(program)
        host.reader.read()
        self._tend(host, program, host.reader.fleet.instances[program.instance])
        host.reader.read()
        instance = host.reader.fleet.instances[program.instance]
        if instance.assignment is not None and instance.run == "exited" and instance.current and instance.wanted:
            event = ComponentFailed(host=host.name, assignment=instance.assignment.seq, reason="restarted too often", restarts=3)
            self._write(host, instance.id, event)

    def _write(self, host: SimHost, id_: InstanceId, event: JournalEvent) -> bool:
        aggregate = Aggregate.of_instance(id_)
        try:
            self.ledger.append([Draft(aggregate, event)], expect={aggregate: host.reader.fleet.head(aggregate)}, actor=host.name)
        except ConflictError:
            return False
        return True

    # --- what must always hold ---------------------------------------------------------------------------------------------

    def check_owners(self) -> None:
        """No two live programs hold one incarnation, no host runs two of one instance, and only one has the present number."""
        held: set[tuple[InstanceId, int]] = set()
        truth: Fleet = self.ledger.fleet
        for host, program in self.programs():
            key = program.instance, program.incarnation
            assert key not in held, f"{key} lives twice"
            held.add(key)
            assert len(host.live(program.instance)) == 1, f"{program.instance} lives twice on {host.name}"
        for id_ in {id_ for id_, _ in held}:
            owners = [number for other, number in held if other == id_ and number == truth.instances[id_].incarnation]
            assert len(owners) <= 1
