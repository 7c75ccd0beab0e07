"""A simulated fleet with an orchestrator, and what happened told in short lines."""

from collections.abc import Sequence

from flowctl.decision import Decision, Rejected
from flowctl.errors import RefusedError
from flowctl.fleet import Fleet, Instance
from flowctl.ids import InstanceId
from flowctl.journal.events import (
    ComponentAssigned,
    ComponentDeregistered,
    ComponentExited,
    ComponentStatusChanged,
    ComponentUnassigned,
    PipelineScaled,
    PipelineStatusChanged,
    PipelineSubmitted,
)
from flowctl.journal.log import Draft, Entry
from flowctl.projection import refusal
from flowctl.spec.model import Pipeline
from flowctl_orchestrator.decide import decide_restart, decide_scale, decide_stop, decide_submit
from flowctl_orchestrator.drain import decide_drain, decide_undrain
from flowctl_orchestrator.plan import Plan, plan
from support.fleet_world import Program, World
from support.ledger import Ledger


class Scene:
    """One orchestrator and its world; ``settle`` lets everybody act until nothing more happens."""

    def __init__(self, *hosts: str, finite: bool = False) -> None:
        self.ledger = Ledger()
        self.world = World(self.ledger, hosts or ("h1",), finite=finite)
        self._told = len(self.ledger.entries)

    @property
    def fleet(self) -> Fleet:
        """What the journal says."""
        return self.ledger.fleet

    def obey(self, decision: Decision) -> list[Entry]:
        """Append a command's decision.

        Raises:
            RefusedError: it was refused.
        """
        if isinstance(decision, Rejected):
            raise refusal(decision)
        return self.ledger.append(decision)

    def submit(self, pipeline: Pipeline, *, fresh: bool = False) -> list[Entry]:
        """``flowctl up``."""
        return self.obey(decide_submit(self.fleet, pipeline, source="orders.yaml", fresh=fresh))

    def stop(self, name: str) -> list[Entry]:
        """``flowctl down``."""
        return self.obey(decide_stop(self.fleet, name, reason="asked"))

    def scale(self, name: str, component: str, replicas: int) -> list[Entry]:
        """``flowctl scale``."""
        return self.obey(decide_scale(self.fleet, name, component, replicas))

    def restart(self, name: str, component: str | None = None, index: int | None = None) -> list[Entry]:
        """``flowctl restart``."""
        return self.obey(decide_restart(self.fleet, name, component, index))

    def drain(self, host: str) -> list[Entry]:
        """``flowctl hosts drain``."""
        return self.obey(decide_drain(self.fleet, host, reason="new kernel"))

    def undrain(self, host: str) -> list[Entry]:
        """``flowctl hosts undrain``."""
        return self.obey(decide_undrain(self.fleet, host))

    def plan(self) -> Plan:
        """Plan, append it, and make sure that nothing is left to plan."""
        made = plan(self.fleet, self.ledger.now_ns)
        assert all(draft.causation <= self.fleet.seq for draft in made.drafts)
        if made.drafts:
            self.ledger.append(made.drafts, actor="orchestrator")
        again = plan(self.fleet, self.ledger.now_ns)
        assert again.drafts == [], f"planned again: {tell_drafts(again.drafts)}"
        assert again.waiting.keys() == made.waiting.keys()
        return again

    def settle(self, *, end: bool = True) -> Plan:
        """Everybody acts until nothing more happens."""
        for _ in range(200):
            before = len(self.ledger.entries)
            alive = len(self.world.programs())
            self.plan()
            self.world.run_agents()
            self.plan()
            self.world.run_programs(end=end)
            self.plan()
            self.world.check_health()
            self.world.check_owners()
            made = self.plan()
            if len(self.ledger.entries) == before and len(self.world.programs()) == alive:
                return made
        raise AssertionError(f"no end: {self.story()[-20:]}")

    def story(self) -> list[str]:
        """What happened since it was last told."""
        fresh = self.ledger.entries[self._told :]
        self._told = len(self.ledger.entries)
        return tell(fresh)

    def instance(self, name: str) -> Instance:
        """``orders.numbers.0``."""
        return self.fleet.instances[InstanceId.parse(name)]

    def program(self, name: str) -> Program:
        """The live program of an instance."""
        return next(program for _, program in self.world.programs() if str(program.instance) == name)

    def status(self, name: str = "orders") -> str:
        """The pipeline's status."""
        return self.fleet.pipelines[name].status


def tell(entries: Sequence[Entry]) -> list[str]:
    """Each entry as a line."""
    return [_line(".".join(entry.aggregate.key) if entry.aggregate else "?", entry.event) for entry in entries]


def tell_drafts(drafts: Sequence[Draft]) -> list[str]:
    """Each draft as a line."""
    return [_line(".".join(draft.aggregate.key), draft.event) for draft in drafts]


def _line(who: str, event: object) -> str:
    match event:
        case PipelineSubmitted():
            return f"{who} submitted, revision {event.revision} run {event.run}"
        case PipelineScaled():
            return f"{who} scaled {event.component} to {event.replicas}"
        case PipelineStatusChanged():
            return f"{who} {event.previous} -> {event.status}"
        case ComponentAssigned():
            return f"{who} assigned to {event.host}" + (f": {event.reason}" if event.reason else "")
        case ComponentUnassigned():
            return f"{who} unassigned: {event.reason}"
        case ComponentExited():
            return f"{who} exited"
        case ComponentDeregistered() | ComponentStatusChanged():
            return f"{who} {event.reason if isinstance(event, ComponentDeregistered) else event.status}"
        case _:
            name = type(event).__name__.removeprefix("Component").removeprefix("Pipeline")
            return f"{who} {name.lower()}"


__all__ = ["RefusedError", "Scene", "tell", "tell_drafts"]
