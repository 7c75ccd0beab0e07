"""The health monitor once more: the real judgement of the recorded heartbeats, on a fleet that knows its new verdicts only.

What differs legitimately: the moment, within the tolerance or by as much as a monitor that was started anew had to count again
(its own evidence says so); a silence that ended within the tolerance, which a monitor may have missed; and what no monitor lived
to see, by their own signs of life among the heartbeats. Where heartbeats are gone a verdict is held against the evidence in its
entry.
"""

from bisect import bisect_left
from typing import Any, Final

import msgspec

from flowctl import api
from flowctl.fleet import Fleet
from flowctl.ids import InstanceId
from flowctl.journal.events import Aggregate, ComponentStatusChanged, HostLost, HostRecovered, JournalEvent
from flowctl.journal.heartbeats import Heartbeat, HostBeat, ServiceBeat, StoredBeat
from flowctl.journal.log import Draft, Entry
from flowctl_cli.replaying.report import Count, Difference, as_json
from flowctl_health.deadlines import Deadlines
from flowctl_health.decide import PROBE_FAILS, SILENT, Patience, Subject, deadline_ns, judge
from flowctl_health.observed import Observed
from flowctl_orchestrator.plan import plan_pipeline

MAX_CONSEQUENCES: Final = 5
_S: Final = 1_000_000_000

Key = tuple[Any, ...]


class Verdict(msgspec.Struct, eq=False):
    """One change of status, recorded or made now. ``seq`` is its entry, or the entry after which it is made."""

    subject: Subject
    seq: int
    time_ns: int
    event: ComponentStatusChanged | HostLost | HostRecovered
    then: list[str] = msgspec.field(default_factory=list[str])

    @property
    def key(self) -> Key:
        """What makes two verdicts the same, but for the moment."""
        match self.event:
            case ComponentStatusChanged() as event:
                causes = (SILENT, PROBE_FAILS)
                return event.status, event.incarnation, next((cause for cause in causes if event.reason.startswith(cause)), "")
            case HostLost():
                return ("lost",)
            case HostRecovered():
                return ("recovered",)

    @property
    def silence_s(self) -> float | None:
        """The silence that it rests on, None if it rests on none."""
        return self.event.silence_s if isinstance(self.event, ComponentStatusChanged | HostLost) else None


def is_verdict(entry: Entry) -> bool:
    """Whether the entry is a decision of the health monitor."""
    return entry.actor.startswith("health") and isinstance(entry.event, ComponentStatusChanged | HostLost | HostRecovered)


class HealthReplay:
    """Give it everything in order, then ask for ``differences``. ``imagining`` works out what would have followed, too."""

    def __init__(self, fleet: Fleet, patience: Patience, *, tolerance_s: float, imagining: bool) -> None:
        self.count = Count()
        self.since_ns: int | None = None
        self.beats = 0
        self._fleet = fleet
        self._patience = patience
        self._tolerance_ns = int(tolerance_s * _S)
        self._imagining = imagining
        self._observed = Observed()
        self._instances: Deadlines[InstanceId] = Deadlines()
        self._hosts: Deadlines[str] = Deadlines()
        self._recorded: list[Verdict] = []
        self._made: list[Verdict] = []
        self._monitors_ns: list[int] = []
        self._end_ns = 0
        self._judge([*fleet.instances, *fleet.hosts], 0)

    def beat(self, stored: StoredBeat) -> None:
        """A heartbeat was stored."""
        self.beats += 1
        if self.since_ns is None:
            self.since_ns = stored.time_ns
        self._end_ns = max(self._end_ns, stored.time_ns)
        self._observed.apply(stored)
        touched: list[Subject] = []
        match stored.beat:
            case Heartbeat() as beat:
                instance = self._fleet.instances.get(beat.instance)
                if instance is not None and instance.status != "healthy" and instance.incarnation == beat.incarnation:
                    touched.append(beat.instance)
            case HostBeat() as beat:
                host = self._fleet.hosts.get(beat.host)
                if host is not None and host.status == "lost":
                    touched.append(beat.host)
            case ServiceBeat(service=api.HEALTH):
                self._monitors_ns.append(stored.time_ns)
            case ServiceBeat():
                pass
        touched += self._instances.due(self._observed.registry.last_ns)
        touched += self._hosts.due(self._observed.stream.last_ns)
        if touched:
            self._judge(touched, stored.time_ns)

    def entry(self, entry: Entry) -> None:
        """An entry was written."""
        self._end_ns = max(self._end_ns, entry.time_ns)
        aggregate, event = entry.aggregate, entry.event
        if aggregate is None or aggregate.kind not in ("component", "host"):
            self._fleet.fold(entry)
            return
        subject: Subject = aggregate.instance if aggregate.kind == "component" else aggregate.key[0]
        if is_verdict(entry) and isinstance(event, ComponentStatusChanged | HostLost | HostRecovered):
            verdict = Verdict(subject, entry.seq, entry.time_ns, event)
            self._recorded.append(verdict)
            self.count.recorded += 1
            if self._beyond_hearing(verdict) and self._stands(verdict):
                self._fleet.fold(entry)
                self._judge([subject], entry.time_ns)
            else:
                self._fleet.seq = entry.seq
            return
        self._fleet.fold(entry)
        self._judge([subject], entry.time_ns)

    def differences(self) -> list[Difference]:
        """What is not the same, in order."""
        found: list[Difference] = []
        subjects = dict.fromkeys(verdict.subject for verdict in [*self._recorded, *self._made])
        for subject in subjects:
            recorded = [each for each in self._recorded if each.subject == subject]
            made = [each for each in self._made if each.subject == subject]
            found += self._compare(recorded, made)
        return found

    # --- deciding ------------------------------------------------------------------------------------------------------------

    def _judge(self, subjects: list[Subject], time_ns: int) -> None:
        for draft in judge(self._observed, self._fleet, subjects, self._patience):
            self._make(draft, time_ns)
        for subject in subjects:
            look_ns = deadline_ns(self._observed, self._fleet, subject, self._patience)
            if look_ns is not None and isinstance(subject, InstanceId):
                self._instances.set(subject, look_ns)
            elif look_ns is not None and isinstance(subject, str):
                self._hosts.set(subject, look_ns)

    def _make(self, draft: Draft, time_ns: int) -> None:
        event = draft.event
        if not isinstance(event, ComponentStatusChanged | HostLost | HostRecovered):
            return
        subject: Subject = draft.aggregate.instance if draft.aggregate.kind == "component" else draft.aggregate.key[0]
        before = self._followers(subject, time_ns) if self._imagining else []
        self._fold(draft.aggregate, event, time_ns)
        then = [line for line in self._followers(subject, time_ns) if line not in before] if self._imagining else []
        self._made.append(Verdict(subject, self._fleet.seq, time_ns, event, then[:MAX_CONSEQUENCES]))

    def _fold(self, aggregate: Aggregate, event: JournalEvent, time_ns: int) -> None:
        """Fold what was never written: it takes the place of the last entry, and no sequence of its own."""
        self._fleet.seq -= 1
        self._fleet.fold(Entry(self._fleet.seq + 1, time_ns, "", aggregate, event))

    def _followers(self, subject: Subject, time_ns: int) -> list[str]:
        """What the orchestrator would do now."""
        names = [subject.pipeline] if isinstance(subject, InstanceId) else list(self._fleet.pipelines)
        drafts = [draft for name in names for draft in plan_pipeline(self._fleet, name, time_ns).drafts]
        return [f"{draft.aggregate}: {_told(draft.event)}" for draft in drafts]

    # --- comparing -----------------------------------------------------------------------------------------------------------

    def _beyond_hearing(self, verdict: Verdict) -> bool:
        """Whether it rests on a time of which the heartbeats are not there."""
        needed_ns = verdict.time_ns - int((verdict.silence_s or 0.0) * _S) - self._tolerance_ns
        return self.since_ns is None or needed_ns < self.since_ns

    def _stands(self, verdict: Verdict) -> bool:
        """Whether its own evidence gives it, by the rule as it is now."""
        patience_s = self._patience.host_s if isinstance(verdict.subject, str) else self._patience.instance_s
        return verdict.silence_s is None or verdict.silence_s > patience_s

    def _compare(self, recorded: list[Verdict], made: list[Verdict]) -> list[Difference]:
        left = list(made)
        differing: list[Verdict] = []
        for verdict in recorded:
            twin = next((each for each in left if each.key == verdict.key and self._same_moment(verdict, each)), None)
            if twin is not None:
                left.remove(twin)
                self.count.same += 1
            elif self._beyond_hearing(verdict) and self._stands(verdict):
                self.count.same += 1
            else:
                differing.append(verdict)
        left = self._without_blinks(left)
        found: list[Difference] = []
        for verdict in differing:
            twin = next((each for each in left if each.key == verdict.key), None)
            if twin is not None:
                left.remove(twin)
            found.append(_gone(verdict) if twin is None else _moved(verdict, twin))
        return found + [_new(each) for each in left if each.time_ns + self._tolerance_ns < self._end_ns and self._watched(each)]

    def _watched(self, made: Verdict) -> bool:
        """Whether a monitor lived just then; if none did, nobody could decide."""
        at = bisect_left(self._monitors_ns, made.time_ns)
        return at < len(self._monitors_ns) and self._monitors_ns[at] <= made.time_ns + self._tolerance_ns

    def _same_moment(self, recorded: Verdict, made: Verdict) -> bool:
        apart_ns = recorded.time_ns - made.time_ns
        if abs(apart_ns) <= self._tolerance_ns:
            return True
        patience_s = self._patience.host_s if isinstance(recorded.subject, str) else self._patience.instance_s
        counted_s = recorded.silence_s
        return apart_ns > 0 and counted_s is not None and 0 < counted_s - patience_s <= self._tolerance_ns / _S

    def _without_blinks(self, left: list[Verdict]) -> list[Verdict]:
        """Without what was over before a monitor had to see it."""
        kept: list[Verdict] = []
        for verdict in left:
            if kept and verdict.time_ns - kept[-1].time_ns <= self._tolerance_ns and _undoes(verdict, kept[-1]):
                kept.pop()
            else:
                kept.append(verdict)
        return kept


def _moved(recorded: Verdict, made: Verdict) -> Difference:
    apart_s = (made.time_ns - recorded.time_ns) / _S
    way = "later" if apart_s > 0 else "earlier"
    return _difference(recorded, f"it is decided {abs(apart_s):.1f} s {way} now", recorded, made)


def _gone(recorded: Verdict) -> Difference:
    return _difference(recorded, "it was decided then, and is not now", recorded, None)


def _new(made: Verdict) -> Difference:
    return _difference(made, "it is decided now, and was not then", None, made)


def _difference(verdict: Verdict, why: str, recorded: Verdict | None, made: Verdict | None) -> Difference:
    return Difference(
        service="health",
        subject=str(verdict.subject) if isinstance(verdict.subject, InstanceId) else f"host {verdict.subject}",
        seq=verdict.seq,
        time_ns=verdict.time_ns,
        why=why,
        recorded=as_json(recorded.event) if recorded is not None else None,
        decided=as_json(made.event) if made is not None else None,
        decided_time_ns=made.time_ns if made is not None else None,
        then=made.then if made is not None else [],
    )


def _undoes(later: Verdict, earlier: Verdict) -> bool:
    match later.event, earlier.event:
        case ComponentStatusChanged(status=now), ComponentStatusChanged(status=before):
            return now != before
        case HostRecovered(), HostLost():
            return True
        case _:
            return False


def _told(event: JournalEvent) -> str:
    told = as_json(event)
    words = (f"{name} {told[name]}" for name in ("status", "host", "reason") if told.get(name))
    return f"{told['type']} ({', '.join(words)})"
