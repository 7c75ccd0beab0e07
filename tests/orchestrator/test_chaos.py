"""Random commands and faults, late readers, conflicting writes; then peace. The seed tells it all again."""

import random

import pytest

from flowctl.decision import Decision
from flowctl.fleet import ENDED, Fleet
from flowctl.journal.events import ComponentAssigned
from flowctl.spec.model import Pipeline
from flowctl_orchestrator.decide import decide_restart, decide_scale, decide_stop, decide_submit
from flowctl_orchestrator.plan import plan, plan_pipeline
from support.fleet_world import World
from support.ledger import Ledger, Reader, component, linear, pipeline
from support.scene import tell

NAMES = ("orders", "clicks")


def shapes(name: str) -> list[Pipeline]:
    """Files of one pipeline that follow each other."""
    diamond = pipeline(
        name,
        [component("numbers", replicas=2)],
        [component("left", "numbers"), component("right", "numbers")],
        [component("store", "left", "right")],
    )
    return [linear(name), linear(name, config={"factor": 3}), linear(name, replicas=3), diamond]


class Chaos:
    """Everything that can happen, chosen by a seed."""

    def __init__(self, seed: int, *, finite: bool) -> None:
        self.random = random.Random(seed)
        self.ledger = Ledger()
        self.world = World(self.ledger, ("h1", "h2", "h3"), finite=finite)
        self.orchestrators = [Reader(self.ledger), Reader(self.ledger)]

    def step(self) -> None:
        """One thing happens."""
        things = [self.command, self.fault, self.health, self.programs, self.programs, self.agents, self.agents, *[self.plan] * 4]
        self.random.choice(things)()
        self.ledger.advance(self.random.choice((0.1, 1.0, 30.0)))
        self.world.check_owners()

    def plan(self) -> None:
        """An orchestrator that may have read only a part writes what it may write of its plan."""
        reader = self.random.choice(self.orchestrators)
        reader.read(None if self.random.random() < 0.6 else self.random.randrange(8))
        name = self.random.choice(NAMES)
        limit = self.random.choice((1, 2, 500))

        def follows(fleet: Fleet) -> Decision:
            return plan_pipeline(fleet, name, self.ledger.now_ns).drafts[:limit]

        reader.decide(follows, actor="orchestrator")

    def command(self) -> None:
        """A user wants something."""
        name = self.random.choice(NAMES)
        fleet = self.ledger.fleet
        chosen = self.random.randrange(7)
        decision: Decision
        if chosen <= 2:
            fresh = self.random.random() < 0.2
            decision = decide_submit(fleet, self.random.choice(shapes(name)), source="", fresh=fresh)
        elif chosen == 3:
            decision = decide_stop(fleet, name, reason="")
        elif chosen == 4:
            decision = decide_scale(fleet, name, self.random.choice(("numbers", "double", "left")), self.random.randint(1, 4))
        else:
            decision = decide_restart(fleet, name, self.random.choice((None, "numbers", "store")))
        if isinstance(decision, list):
            self.ledger.append(decision)

    def fault(self) -> None:
        """Something breaks, or is mended."""
        host = self.random.choice(list(self.world.hosts.values()))
        if not host.connected:
            self.world.recover(host.name)
        elif not host.agent_up:
            self.world.join(host.name)
        else:
            alive = [program for program in host.programs if program.alive]
            chosen = self.random.randrange(6)
            if chosen == 0:
                self.world.lose(host.name)
            elif chosen == 1:
                self.world.leave(host.name)
            elif chosen == 2 and alive:
                self.world.fail(host, self.random.choice(alive))
            elif alive:
                self.world.crash(self.random.choice(alive))

    def health(self) -> None:
        self.world.check_health()

    def programs(self) -> None:
        self.world.run_programs()

    def agents(self) -> None:
        self.world.run_agents(self.random)

    def peace(self) -> None:
        """Whatever is broken is mended, and everybody acts until nothing more happens."""
        for host in self.world.hosts.values():
            if not host.connected:
                self.world.recover(host.name)
            if not host.agent_up:
                self.world.join(host.name)
        for _ in range(300):
            before = len(self.ledger.entries), len(self.world.programs())
            for reader in self.orchestrators:
                for name in NAMES:
                    reader.read()
                    reader.decide(lambda fleet, name=name: plan_pipeline(fleet, name, self.ledger.now_ns).drafts, actor="o")
            self.world.run_agents()
            self.world.run_programs()
            self.world.check_health()
            self.world.check_owners()
            if (len(self.ledger.entries), len(self.world.programs())) == before:
                return
        raise AssertionError(f"no end: {tell(self.ledger.entries[-30:])}")

    def check_goals(self) -> None:
        """Every pipeline is where its last command wants it, and nothing runs that should not."""
        fleet = self.ledger.fleet
        assert plan(fleet, self.ledger.now_ns).drafts == []
        assert plan(fleet, self.ledger.now_ns).waiting == {}
        for name, state in fleet.pipelines.items():
            wanted = {id_ for id_, _, _ in state.instance_ids()}
            alive = {p.instance for _, p in self.world.programs() if p.instance.pipeline == name}
            assert state.status in ENDED | {"running"}, f"{name} is {state.status}: {state.status_reason}"
            if state.stop_requested is not None:
                assert state.ended
            if state.ended:
                assert not alive, f"{name} has {state.status} and {alive} live"
            else:
                expected = {id_ for id_ in wanted if not fleet.instances[id_].completed}
                assert alive == expected
                for id_ in expected:
                    assert fleet.instances[id_].current
                    assert fleet.instances[id_].status == "healthy"
            if state.status == "completed":
                assert all(fleet.instances[id_].completed for id_ in wanted)


@pytest.mark.parametrize("finite", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_every_pipeline_reaches_its_goal(seed: int, finite: bool):
    """Once faults stop, each pipeline is running, completed, stopped or failed, as asked; no instance ever had two owners."""
    chaos = Chaos(seed, finite=finite)
    for _ in range(250):
        chaos.step()
    chaos.peace()
    chaos.check_goals()
    for entry in chaos.ledger.entries:  # whatever happened, nobody was assigned to a host that could not run it
        if isinstance(entry.event, ComponentAssigned):
            assert entry.event.host in chaos.world.hosts
