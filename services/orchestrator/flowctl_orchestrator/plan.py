"""What follows from the present state? Assignments, withdrawals in waves, and the lifecycle of each pipeline. Pure.

A plan is worked out to its end: each step is folded into a sketch of the pipeline, and the next one follows from that. So
planning again once the drafts are in the journal gives nothing, and any beginning of the drafts may be appended by itself.
"""

from collections import Counter
from collections.abc import Sequence
from copy import copy
from typing import Final

import msgspec
from msgspec import field

from flowctl.fleet import Assignment, Fleet, Instance, PipelineState
from flowctl.ids import InstanceId
from flowctl.journal.events import (
    Aggregate,
    ComponentAssigned,
    ComponentUnassigned,
    PipelineStatusChanged,
)
from flowctl.journal.log import Draft, Entry
from flowctl.spec.model import Component, Driver, Kind
from flowctl.topology import Graph, component_hash
from flowctl_orchestrator import lifecycle
from flowctl_orchestrator.lifecycle import desired, is_live, short
from flowctl_orchestrator.placement import (
    Nowhere,
    driver_of,
    gone,
    is_well,
    loads,
    place,
    return_deadline_ns,
    to_be_left,
)
from flowctl_orchestrator.waiting import waiting_for, waiting_to_end

MAX_STEPS: Final = 4_000
"""More than any plan needs: a wave for each of the components, and the moves between them."""


class Plan(msgspec.Struct, frozen=True):
    """What to append, for what everybody waits, and when time alone may change the plan (Unix ns by the journal)."""

    drafts: list[Draft] = field(default_factory=list[Draft])
    waiting: dict[InstanceId, str] = field(default_factory=dict[InstanceId, str])
    next_wake_ns: int | None = None


def plan(fleet: Fleet, now_ns: int) -> Plan:
    """What follows from the present state of every pipeline?"""
    drafts: list[Draft] = []
    waiting: dict[InstanceId, str] = {}
    wakes: list[int] = []
    load = loads(fleet)
    for name in sorted(fleet.pipelines):
        part = plan_pipeline(fleet, name, now_ns, load=load)
        drafts += part.drafts
        waiting |= part.waiting
        wakes += [part.next_wake_ns] if part.next_wake_ns is not None else []
    return Plan(drafts, waiting, min(wakes, default=None))


def plan_pipeline(fleet: Fleet, name: str, now_ns: int, *, load: Counter[str] | None = None) -> Plan:
    """What follows from the present state of this pipeline? ``load`` (see ``loads``) is kept up to date with the plan.

    Raises:
        UserError: the journal holds a pipeline that is no graph.
    """
    if name not in fleet.pipelines:
        return Plan()
    sketch = _Sketch(fleet, name, now_ns, load)
    drafts: list[Draft] = []
    for _ in range(MAX_STEPS):
        step = sketch.next_step()
        if not step:
            return Plan(drafts, sketch.waiting(), sketch.next_wake_ns())
        drafts += step
        sketch.fold(step)
    raise AssertionError(f"the plan of {name} has no end")


class _Sketch:
    """One pipeline as it will be once what is planned so far is in the journal."""

    def __init__(self, fleet: Fleet, name: str, now_ns: int, load: Counter[str] | None) -> None:
        self._real_seq = fleet.seq
        self._now_ns = now_ns
        self._everybody = fleet
        self._known_load = load
        self._causes: dict[int, int] = {}
        self._nowhere: dict[InstanceId, str] = {}
        self._held: dict[InstanceId, str] = {}
        self._spread: dict[str, Counter[str]] = {}
        self.fleet = Fleet(seq=fleet.seq, time_ns=now_ns, hosts=fleet.hosts)
        self.fleet.pipelines[name] = copy(fleet.pipelines[name])
        self.fleet.add(copy(instance) for instance in fleet.members.get(name, ()))
        self._graph = Graph.of(self.state.pipeline)

    @property
    def state(self) -> PipelineState:
        return next(iter(self.fleet.pipelines.values()))

    @property
    def _load(self) -> Counter[str]:
        if self._known_load is None:  # counting the whole fleet is for the few plans that place something
            self._known_load = loads(self._everybody)
        return self._known_load

    def next_step(self) -> list[Draft]:
        """The first kind of thing that there is to do: assign, move along the lifecycle, withdraw."""
        return self._assignments() or self._move() or self._withdrawals()

    def fold(self, step: Sequence[Draft]) -> None:
        for draft in step:
            seq = self.fleet.seq + 1
            self._causes[seq] = draft.causation
            self.fleet.apply(Entry(seq, self._now_ns, "", draft.aggregate, draft.event))

    def _draft(
        self, aggregate: Aggregate, event: ComponentAssigned | ComponentUnassigned | PipelineStatusChanged, cause: int
    ) -> Draft:
        while cause > self._real_seq:  # it is planned itself: its own cause is what led here
            cause = self._causes.get(cause, 0)
        return Draft(aggregate, event, cause)

    # --- assigning ---------------------------------------------------------------------------------------------------------

    def _targets(self) -> list["_Target"]:
        pipeline = self.state.pipeline
        return [
            _Target(self.fleet.instances.get(id_) or Instance(id_), kind, driver_of(pipeline, component), component)
            for id_, kind, component in self.state.instance_ids()
        ]

    def _assignments(self) -> list[Draft]:
        """Everybody who needs a new assignment gets one at once, but those that are well are replaced one after the other."""
        self._nowhere, self._held = {}, {}
        if not is_live(self.state):
            return []
        targets = self._targets()
        self._spread = _spread(targets)
        busy = self._busy(targets)
        gate = self._gate(targets)
        drafts: list[Draft] = []
        for target in targets:
            why = self._why_assign(target, busy)
            if why is None:
                continue
            instance = target.instance
            rolling = is_well(instance) and not self._is_away(instance)
            if rolling and gate is not None:
                self._held[instance.id] = f"{short(gate)} to be healthy before it is replaced"
                continue
            draft = self._assign(target, *why, rolling=rolling)
            if draft is not None:
                drafts.append(draft)
                gate = instance.id if rolling else gate
        return drafts

    def _gate(self, targets: Sequence["_Target"]) -> InstanceId | None:
        """Who has taken the place of an instance that was well, in this revision, and is not well yet itself."""
        for target in targets:
            instance, assignment = target.instance, target.instance.assignment
            if assignment is None or not assignment.rolling or assignment.revision != self.state.revision:
                continue
            if not (instance.completed or is_well(instance) or self._is_away(instance)):
                return instance.id
        return None

    def _is_away(self, instance: Instance) -> bool:
        """Whether the host that is to run it does not answer."""
        host = self.fleet.hosts.get(instance.assignment.host) if instance.assignment is not None else None
        return host is None or host.status != "up"

    def _why_assign(self, target: "_Target", busy: frozenset[str]) -> tuple[str, int] | None:
        """Why the instance needs a new assignment, with the entry that led to it; None if the one it has will do."""
        state, instance = self.state, target.instance
        assignment = instance.assignment
        if assignment is None:
            return "", max(state.command_seq, instance.withdrawn_seq)
        if not target.is_what(assignment):
            return f"changed in revision {state.revision}", state.submitted_seq
        if instance.completed:
            upstream = next((name for name in self._graph.nodes[target.component.id].upstreams if name in busy), None)
            return (f"{upstream} has work again", state.command_seq) if upstream is not None else None
        if assignment.seq < state.submitted_seq and (instance.failure is not None or instance.run == "exited"):
            return f"tried again at once with revision {state.revision}", state.submitted_seq
        if to_be_left(self.fleet.hosts, instance, self._now_ns):
            host = self.fleet.hosts.get(assignment.host)
            if host is None:
                return f"host {assignment.host} is not there", 0
            if host.status == "up" and host.drain is not None:
                return f"host {host.name} is drained", host.drain_seq
            return f"host {host.name} is {host.status}", host.seq
        return None

    def _assign(self, target: "_Target", reason: str, cause: int, *, rolling: bool) -> Draft | None:
        instance = target.instance
        assignment = instance.assignment
        before = assignment.host if assignment is not None else _last_host(instance)
        prefer = "" if to_be_left(self.fleet.hosts, instance, self._now_ns) else before
        siblings = self._spread[instance.id.component]
        if assignment is not None and instance.wanted:
            siblings[assignment.host] -= 1
        host = place(self.fleet.hosts, target.component, target.driver, self._load, prefer=prefer, siblings=siblings)
        if isinstance(host, Nowhere):
            siblings.update([assignment.host] if assignment is not None and instance.wanted else [])
            if assignment is None:
                self._nowhere[instance.id] = host.reason
            elif not target.is_what(assignment):
                self._nowhere[instance.id] = f"{host.reason} (for revision {self.state.revision})"
            elif not self._is_away(instance):
                self._nowhere[instance.id] = f"{host.reason} (it stays on {assignment.host} until then)"
            return None
        if assignment is not None and instance.wanted:
            self._load[assignment.host] -= 1
        self._load[host] += 1
        siblings[host] += 1
        event = ComponentAssigned(
            host=host,
            kind=target.kind,
            driver=target.driver,
            revision=self.state.revision,
            component=target.component,
            reason=reason,
            rolling=rolling,
            decided_on=self._real_seq,
        )
        return self._draft(Aggregate.of_instance(instance.id), event, cause)

    def _busy(self, targets: Sequence["_Target"]) -> frozenset[str]:
        """Which components have work: an instance that has not completed or is to be assigned anew for its own sake."""
        none = frozenset[str]()
        return frozenset(
            target.component.id
            for target in targets
            if not target.instance.completed or self._why_assign(target, none) is not None
        )

    # --- the lifecycle -----------------------------------------------------------------------------------------------------

    def _move(self) -> list[Draft]:
        move = lifecycle.next_move(self.fleet, self.state)
        if move is None:
            return []
        event = PipelineStatusChanged(status=move.status, previous=self.state.status, reason=move.reason)
        return [self._draft(Aggregate.of_pipeline(self.state.name), event, move.causation)]

    # --- withdrawing -------------------------------------------------------------------------------------------------------

    def _withdrawals(self) -> list[Draft]:
        """The next wave: of what is to end, what nothing upstream of it still runs for."""
        wave, _ = self._waves()
        drafts: list[Draft] = []
        for instance in wave:
            if not self._to_withdraw(instance):
                continue
            if instance.assignment is not None and instance.wanted:
                self._load[instance.assignment.host] -= 1
            reason, cause = self._why_withdraw(instance)
            drain = self.state.status != "failed"  # who has failed for good acknowledges nothing any more
            event = ComponentUnassigned(reason=reason, drain=drain, decided_on=self._real_seq)
            drafts.append(self._draft(Aggregate.of_instance(instance.id), event, cause))
        return drafts

    def _waves(self) -> tuple[list[Instance], list[Instance]]:
        """Those of the leaving instances that are or can be told to end now, and those that have to wait for them."""
        wanted = {id_ for id_, _, _ in self.state.instance_ids()} if is_live(self.state) else set[InstanceId]()
        leaving = [instance for instance in self.fleet.instances_of(self.state.name) if instance.id not in wanted]
        pending = [instance for instance in leaving if self._to_withdraw(instance) or self._blocks(instance)]
        if not pending:
            return [], []
        levels = self._levels(pending)
        first = min(levels[instance.id.component] for instance in pending)
        wave = [instance for instance in pending if levels[instance.id.component] == first]
        return wave, [instance for instance in pending if levels[instance.id.component] != first]

    def _to_withdraw(self, instance: Instance) -> bool:
        """What has completed keeps its assignment when the pipeline ends: that it is done stays true for the same run."""
        return instance.assignment is not None and (not instance.completed or is_live(self.state))

    def _blocks(self, instance: Instance) -> bool:
        """Whether the next wave waits for it. Nobody can say what a lost host does, so nobody waits for it."""
        return instance.active and instance.ever_assigned and not gone(self.fleet.hosts, instance.run_host)

    def _why_withdraw(self, instance: Instance) -> tuple[str, int]:
        state = self.state
        if state.status in ("stopping", "stopped"):
            return "the pipeline is stopped", max(state.stop_seq, instance.assignment.seq if instance.assignment else 0)
        if not is_live(state):
            return f"the pipeline has {state.status}", state.status_seq
        if state.pipeline.component(instance.id.component) is None:
            return f"not in revision {state.revision} any more", state.submitted_seq
        return "scaled down", max(state.scaled_seq, state.submitted_seq)

    def _levels(self, pending: Sequence[Instance]) -> dict[str, int]:
        """The level of every component in the graph, and of those of earlier revisions that are still there."""
        levels = {name: node.level for name, node in self._graph.nodes.items()}
        removed = {
            instance.id.component: [each.from_ for each in assignment.component.upstreams]
            for instance in pending
            if instance.id.component not in levels and (assignment := instance.assignment or instance.withdrawn) is not None
        }
        for _ in removed:
            for name, upstreams in removed.items():
                levels[name] = max((levels[upstream] + 1 for upstream in upstreams if upstream in levels), default=0)
        return {instance.id.component: 0 for instance in pending} | levels

    # --- waiting -----------------------------------------------------------------------------------------------------------

    def waiting(self) -> dict[InstanceId, str]:
        """For what each instance waits that is not as it should be."""
        found: dict[InstanceId, str] = {}
        if is_live(self.state):
            for instance in desired(self.fleet, self.state):
                reason = self._nowhere.get(instance.id) or self._held.get(instance.id, "")
                reason = reason or waiting_for(self.fleet, instance, self._now_ns)
                if reason:
                    found[instance.id] = reason
        wave, later = self._waves()
        holding = [instance for instance in wave if self._blocks(instance)]
        first = f"{', '.join(short(instance.id) for instance in holding[:3])}{' and others' if len(holding) > 3 else ''}"
        for instance in self.fleet.members.get(self.state.name, ()):
            if instance.id not in found and instance.ever_assigned and instance.assignment is None:
                reason = waiting_to_end(self.fleet, instance, self._now_ns)
                if reason:
                    found[instance.id] = reason
        for instance in later:
            if self._to_withdraw(instance):
                found[instance.id] = f"{first} to be stopped first"
        return found

    def next_wake_ns(self) -> int | None:
        """When the host of an instance will have been away for long enough that it goes elsewhere if it can."""
        if not is_live(self.state):
            return None
        deadlines: list[int] = []
        for instance in desired(self.fleet, self.state):
            if instance.assignment is None or instance.completed or is_well(instance):
                continue
            host = self.fleet.hosts.get(instance.assignment.host)
            if host is not None and host.status == "left" and return_deadline_ns(host) > self._now_ns:
                deadlines.append(return_deadline_ns(host))
        return min(deadlines, default=None)


class _Target(msgspec.Struct, frozen=True):
    """One instance as it is, and what it should be."""

    instance: Instance
    kind: Kind
    driver: Driver
    component: Component

    def is_what(self, assignment: Assignment) -> bool:
        """Whether a program that was started for the assignment need not be replaced."""
        if (assignment.kind, assignment.driver) != (self.kind, self.driver):
            return False
        assigned = assignment.component
        return assigned == self.component or component_hash(assigned) == component_hash(self.component)


def _spread(targets: Sequence[_Target]) -> dict[str, Counter[str]]:
    """How many instances of each component each host is to run."""
    found = {target.component.id: Counter[str]() for target in targets}
    for target in targets:
        if target.instance.assignment is not None and target.instance.wanted:
            found[target.component.id][target.instance.assignment.host] += 1
    return found


def _last_host(instance: Instance) -> str:
    """Where its private state lies, if it ran before."""
    return instance.withdrawn.host if instance.withdrawn is not None else instance.run_host
