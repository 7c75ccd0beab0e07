"""The agents once more: which exits are restarted and when, which fail, and which incarnations may start.

How a program ended is a fact, and so is that it could not be started at all. What differs legitimately: the jitter of a back-off,
and how long an agent took to start what was due.
"""

from typing import Final

import msgspec

from flowctl.decision import Decision, Rejected
from flowctl.fleet import Fleet
from flowctl.ids import InstanceId
from flowctl.journal.events import ComponentExited, ComponentFailed, ComponentStarting
from flowctl.journal.log import Entry
from flowctl_agent import plan
from flowctl_agent.drivers import Run, RunKey
from flowctl_cli.replaying.report import Count, Difference, as_json

NOBODY_SAW: Final = "nobody saw how it ended"
ROUNDING_S: Final = 0.002
_S: Final = 1_000_000_000


class _Exit(msgspec.Struct, frozen=True):
    """A recorded exit, what may come of it now, and between which delays its restart may lie."""

    entry: Entry
    event: ComponentExited
    decisions: list[Decision]
    delays_s: tuple[float, float] | None


class AgentReplay:
    """Give it every entry before it is folded into ``fleet``, then ``end`` it."""

    def __init__(self, fleet: Fleet, *, tolerance_s: float) -> None:
        self.count = Count()
        self.differences: list[Difference] = []
        self._fleet = fleet
        self._tolerance_ns = int(tolerance_s * _S)
        self._exit: _Exit | None = None

    def before(self, entry: Entry) -> None:
        """This entry comes next."""
        event = entry.event
        pending, self._exit = self._exit, None
        if pending is not None:
            same = entry.aggregate == pending.entry.aggregate and entry.actor == pending.entry.actor
            failed = event if same and isinstance(event, ComponentFailed) and entry.seq == pending.entry.seq + 1 else None
            self._check_exit(pending, failed)
        if entry.aggregate is None or entry.aggregate.kind != "component" or not entry.actor.startswith("agent"):
            return
        id_ = entry.aggregate.instance
        if isinstance(event, ComponentExited):
            self._exit = self._exited(entry, id_, event)
        elif isinstance(event, ComponentStarting):
            self._check_start(entry, id_, event)

    def end(self, end_ns: int) -> None:
        """Nothing more comes until then: a restart that was due by then is missing."""
        if self._exit is not None:
            self._check_exit(self._exit, None)
            self._exit = None
        for instance in self._fleet.instances.values():
            assignment, last = instance.assignment, instance.last_exit
            host = self._fleet.hosts.get(assignment.host) if assignment is not None else None
            if host is None or host.status != "up" or not instance.wanted or instance.run != "exited" or not instance.current:
                continue
            if last is None or last.restart_in_s is None:
                continue
            due_ns = max(instance.last_exit_ns + int(last.restart_in_s * _S), host.since_ns)
            if end_ns - due_ns > self._tolerance_ns:
                self.differences.append(
                    Difference(
                        service="agent",
                        subject=str(instance.id),
                        seq=instance.last_exit_seq,
                        time_ns=due_ns,
                        why=f"its restart was due {(end_ns - due_ns) / _S:.1f} s before the end, and is not recorded",
                        decided={"type": "ComponentStarting", "incarnation": instance.incarnation + 1},
                        decided_time_ns=due_ns,
                    )
                )

    def _exited(self, entry: Entry, id_: InstanceId, event: ComponentExited) -> _Exit | None:
        instance = self._fleet.instances.get(id_)
        if instance is None or instance.incarnation != event.incarnation:
            return None  # the record does not go back to where it was started
        words = [] if event.detail == NOBODY_SAW else event.detail.splitlines()
        runs = [
            Run(
                key=RunKey(id_, event.incarnation),
                assignment=event.assignment,
                state="exited",
                code=event.code,
                signal=event.signal,
                failure=failure,
                last_words=words,
            )
            for failure in (["", event.detail] if event.code is None and event.signal is None else [""])
        ]
        decisions = [plan.exit_of(self._fleet, event.host, run, entry.time_ns, 0) for run in runs]
        assignment = instance.assignment
        delays = None
        if assignment is not None:
            backoff, times_ns = assignment.component.restart.backoff, instance.restart_times_ns
            delays = (
                plan.restart_delay_s(backoff, times_ns, entry.time_ns, 0.0),
                plan.restart_delay_s(backoff, times_ns, entry.time_ns, 1.0),
            )
        return _Exit(entry, event, decisions, delays)

    def _check_exit(self, exit_: _Exit, failed: ComponentFailed | None) -> None:
        self.count.recorded += 1
        if any(_same_exit(exit_, decision, failed) for decision in exit_.decisions):
            self.count.same += 1
            return
        decision = exit_.decisions[0]
        drafts = [] if isinstance(decision, Rejected) else list(decision)
        recorded = as_json(exit_.event) | ({"failed": as_json(failed)} if failed is not None else {})
        decided = as_json(drafts[0].event) if drafts else None
        if decided is not None and len(drafts) > 1:
            decided["failed"] = as_json(drafts[1].event)
        self.differences.append(
            Difference(
                service="agent",
                subject=str(exit_.entry.aggregate.instance) if exit_.entry.aggregate is not None else "",
                seq=exit_.entry.seq,
                time_ns=exit_.entry.time_ns,
                why="something else comes of this exit now" if drafts else "nothing comes of this exit now",
                recorded=recorded,
                decided=decided,
                decided_time_ns=exit_.entry.time_ns if drafts else None,
            )
        )

    def _check_start(self, entry: Entry, id_: InstanceId, event: ComponentStarting) -> None:
        host = self._fleet.hosts.get(event.host)
        if host is None or id_ not in self._fleet.instances:
            return  # the record does not go back to where it was assigned
        self.count.recorded += 1
        drivers = frozenset(host.joined.drivers)
        decision = plan.claim(self._fleet, event.host, plan.Start(id_, event.assignment), entry.time_ns, drivers)
        drafts = [] if isinstance(decision, Rejected) else list(decision)
        if drafts and drafts[0].event == event:
            self.count.same += 1
            return
        actions = plan.plan_instance(
            id_, self._fleet.instances[id_], event.host, [], entry.time_ns, drivers=drivers, hosts=self._fleet.hosts
        )
        waits = [action.reason for action in actions if isinstance(action, plan.Wait)]
        self.differences.append(
            Difference(
                service="agent",
                subject=str(id_),
                seq=entry.seq,
                time_ns=entry.time_ns,
                why=f"it would still wait for {waits[0]}" if waits else "it would not be started now",
                recorded=as_json(event),
                decided=as_json(drafts[0].event) if drafts else None,
            )
        )


def _same_exit(exit_: _Exit, decision: Decision, failed: ComponentFailed | None) -> bool:
    """Whether the decision is what was recorded, but for the jitter."""
    if isinstance(decision, Rejected) or not decision:
        return False
    event, recorded = decision[0].event, exit_.event
    if not isinstance(event, ComponentExited) or event.expected != recorded.expected:
        return False
    if (event.restart_in_s is None) != (recorded.restart_in_s is None):
        return False
    if recorded.restart_in_s is not None and exit_.delays_s is not None:
        least_s, most_s = exit_.delays_s
        if not least_s - ROUNDING_S <= recorded.restart_in_s <= most_s + ROUNDING_S:
            return False
    now = decision[1].event if len(decision) > 1 else None
    return now == failed
