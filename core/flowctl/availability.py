"""How well components and pipelines were over a period: up, down, unknown, restarts, times to detect and to repair. Pure.

The figures are defined in docs/availability.md. A ``Record`` is made of the fleet at the period's begin and told every entry up
to its end; ``figures`` is what a table shows of it then, ``track`` what a chart draws.
"""

from collections.abc import Iterable, Sequence
from statistics import fmean, median
from typing import Final, Literal

import msgspec
from msgspec import field

from flowctl.fleet import Fleet, Instance
from flowctl.ids import InstanceId
from flowctl.journal.events import (
    ComponentExited,
    ComponentStarting,
    ComponentStatusChanged,
    HostJoined,
    HostLeft,
    HostReconnected,
)
from flowctl.journal.log import Entry

Condition = Literal["up", "down", "unknown", "off"]
"""An instance is ``up`` while it is registered and healthy, ``off`` while nobody wants it to run; ``unknown``: nobody looked."""

_S: Final = 1_000_000_000


class Span(msgspec.Struct, frozen=True):
    """A condition from ``begin_ns`` to ``end_ns`` (Unix nanoseconds)."""

    begin_ns: int
    end_ns: int
    condition: Condition


class Fall(msgspec.Struct):
    """An instance that was up and is not, unasked. ``detect_s`` None: its begin is not known; ``repair_s`` None: it is open."""

    time_ns: int
    detect_s: float | None
    repair_s: float | None = None


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What a table shows of a pipeline or a component, over one period. ``availability`` is None if it was never up or down."""

    subject: str
    begin_ms: int
    end_ms: int
    availability: float | None
    up_s: float
    down_s: float
    unknown_s: float
    failures: int
    restarts: int
    detect_mean_s: float | None
    detect_median_s: float | None
    detect_max_s: float | None
    repair_mean_s: float | None
    repair_median_s: float | None
    repair_max_s: float | None
    open: int


class _Life(msgspec.Struct):
    """One instance over the period: since when it is in which condition, its falls, and when it was started again."""

    changes: list[tuple[int, Condition]] = field(default_factory=list[tuple[int, Condition]])
    falls: list[Fall] = field(default_factory=list[Fall])
    restarts: list[int] = field(default_factory=list[int])

    @property
    def condition(self) -> Condition:
        return self.changes[-1][1] if self.changes else "off"

    def turn(self, time_ns: int, condition: Condition) -> None:
        """From then on it is so; never before the change that is known already."""
        if condition == self.condition:
            return
        at = max(time_ns, self.changes[-1][0]) if self.changes else time_ns
        self.changes.append((at, condition))

    def forget(self, since_ns: int, until_ns: int) -> None:
        """Nobody knows how it was then; it ends as it is."""
        now = self.condition
        if now == "off":
            return
        kept = [change for change in self.changes if change[0] < since_ns]
        self.changes = [*kept, (max(since_ns, kept[-1][0] if kept else since_ns), "unknown"), (until_ns, now)]


class Record:
    """A period of a fleet. The fleet is the record's own from then on."""

    def __init__(self, fleet: Fleet, begin_ns: int, pipeline: str | None = None) -> None:
        self._fleet = fleet
        self._begin_ns = begin_ns
        self._pipeline = pipeline
        self._lives: dict[InstanceId, _Life] = {}
        self._last_ns = fleet.time_ns
        for instance in fleet.instances.values():
            self._look(instance, begin_ns)
        self._want(begin_ns, fleet.pipelines)

    def apply(self, entry: Entry) -> None:
        """Fold the next entry."""
        fleet, event, aggregate = self._fleet, entry.event, entry.aggregate
        joined = fleet.hosts.get(aggregate.key[0]) if isinstance(event, HostJoined) and aggregate is not None else None
        vanished = joined is not None and joined.status == "up" and joined.joined != event
        restarts = self._restarts(entry)
        fleet.apply(entry)
        if aggregate is None:
            return
        if aggregate.kind == "component":
            instance = fleet.instances.get(aggregate.instance)
            if instance is not None and self._pipeline in (None, instance.id.pipeline):
                self._hear(instance, entry, restarted=instance.restarts > restarts)
        elif aggregate.kind == "pipeline":
            if self._pipeline in (None, aggregate.key[0]):
                self._want(entry.time_ns, [aggregate.key[0]])
        elif aggregate.kind == "host":
            on_it = [each for each in fleet.instances.values() if each.run_host == aggregate.key[0] and each.id in self._lives]
            since_ns = entry.time_ns - round(event.away_s * _S) if isinstance(event, HostReconnected) else self._last_ns
            if isinstance(event, HostReconnected) or vanished:
                for each in on_it:
                    self._lives[each.id].forget(max(since_ns, self._begin_ns), entry.time_ns)
            if isinstance(event, HostJoined | HostLeft):
                for each in on_it:
                    self._look(each, entry.time_ns)
        self._last_ns = entry.time_ns

    def _restarts(self, entry: Entry) -> int:
        if not isinstance(entry.event, ComponentStarting) or entry.aggregate is None or entry.aggregate.kind != "component":
            return 0
        instance = self._fleet.instances.get(entry.aggregate.instance)
        return instance.restarts if instance is not None else 0

    def _hear(self, instance: Instance, entry: Entry, *, restarted: bool) -> None:
        event = entry.event
        life = self._lives.setdefault(instance.id, _Life())
        if restarted and isinstance(event, ComponentStarting):
            life.restarts.append(entry.time_ns)
        before = life.condition
        detect_s = _detection(event, entry.time_ns)
        self._look(instance, entry.time_ns, detect_s)
        if before in ("up", "unknown") and life.condition == "down" and _unasked(event):
            life.falls.append(Fall(entry.time_ns, detect_s))
        elif life.condition == "up" and life.falls and life.falls[-1].repair_s is None:
            life.falls[-1].repair_s = (entry.time_ns - life.falls[-1].time_ns) / _S

    def _look(self, instance: Instance, time_ns: int, detect_s: float | None = None) -> None:
        if self._pipeline not in (None, instance.id.pipeline):
            return
        life = self._lives.setdefault(instance.id, _Life())
        condition = condition_of(self._fleet, instance)
        began_ns = time_ns - round((detect_s or 0) * _S) if condition == "down" else time_ns
        life.turn(max(began_ns, self._begin_ns), condition)

    def _want(self, time_ns: int, names: Iterable[str]) -> None:
        """Look at everything that these pipelines have or want: an instance that has no host yet is down too."""
        for name in names:
            state = self._fleet.pipelines.get(name)
            if state is None or self._pipeline not in (None, name):
                continue
            ids = {id_ for id_, _, _ in state.instance_ids()} | {each.id for each in self._fleet.members.get(name, ())}
            for id_ in sorted(ids):
                self._look(self._fleet.instances.get(id_) or Instance(id_), time_ns)

    # --- what came of it ---------------------------------------------------------------------------------------------------

    def spans(self, id_: InstanceId, begin_ns: int, end_ns: int) -> list[Span]:
        """How an instance was between two times, without gaps."""
        changes = self._lives[id_].changes
        found: list[Span] = []
        for at, (since_ns, condition) in enumerate(changes):
            until_ns = changes[at + 1][0] if at + 1 < len(changes) else end_ns
            low, high = max(since_ns, begin_ns), min(until_ns, end_ns)
            if low < high:
                found.append(Span(low, high, condition))
        return found

    def subjects(self) -> list[tuple[str, list[InstanceId]]]:
        """Each pipeline, followed by its components, with the instances of each."""
        found: dict[str, list[InstanceId]] = {}
        for id_ in sorted(self._lives):
            if any(condition != "off" for _, condition in self._lives[id_].changes):
                found.setdefault(id_.pipeline, []).append(id_)
                found.setdefault(f"{id_.pipeline}.{id_.component}", []).append(id_)
        return sorted(found.items())

    def figures(self, subject: str, ids: Sequence[InstanceId], begin_ns: int, end_ns: int) -> Figures:
        """The figures of one subject between two times."""
        track = self.track(ids, begin_ns, end_ns) if "." not in subject else None
        total: dict[Condition, int] = {"up": 0, "down": 0, "unknown": 0, "off": 0}
        for span in track if track is not None else [span for id_ in ids for span in self.spans(id_, begin_ns, end_ns)]:
            total[span.condition] += span.end_ns - span.begin_ns
        falls = [fall for id_ in ids for fall in self._lives[id_].falls if begin_ns <= fall.time_ns < end_ns]
        detect = [fall.detect_s for fall in falls if fall.detect_s is not None]
        repair = [fall.repair_s for fall in falls if fall.repair_s is not None]
        judged = total["up"] + total["down"]
        return Figures(
            subject=subject,
            begin_ms=begin_ns // 1_000_000,
            end_ms=end_ns // 1_000_000,
            availability=total["up"] / judged if judged else None,
            up_s=total["up"] / _S,
            down_s=total["down"] / _S,
            unknown_s=total["unknown"] / _S,
            failures=len(falls),
            restarts=sum(begin_ns <= at < end_ns for id_ in ids for at in self._lives[id_].restarts),
            detect_mean_s=fmean(detect) if detect else None,
            detect_median_s=median(detect) if detect else None,
            detect_max_s=max(detect, default=None),
            repair_mean_s=fmean(repair) if repair else None,
            repair_median_s=median(repair) if repair else None,
            repair_max_s=max(repair, default=None),
            open=len(falls) - len(repair),
        )

    def track(self, ids: Sequence[InstanceId], begin_ns: int, end_ns: int) -> list[Span]:
        """How several instances were together: down while any is, else unknown while any is, else up while any is wanted."""
        marks: list[tuple[int, Condition, int]] = []
        for id_ in ids:
            for span in self.spans(id_, begin_ns, end_ns):
                marks.append((span.begin_ns, span.condition, 1))
                marks.append((span.end_ns, span.condition, -1))
        counts: dict[Condition, int] = {"down": 0, "unknown": 0, "up": 0}
        found: list[Span] = []
        at_ns = begin_ns
        for time_ns, condition, step in sorted(marks):
            if time_ns > at_ns:
                together: Condition = (
                    "down" if counts["down"] else "unknown" if counts["unknown"] else "up" if counts["up"] else "off"
                )
                if found and found[-1].condition == together:
                    found[-1] = Span(found[-1].begin_ns, time_ns, together)
                else:
                    found.append(Span(at_ns, time_ns, together))
                at_ns = time_ns
            if condition != "off":
                counts[condition] += step
        return found


def condition_of(fleet: Fleet, instance: Instance) -> Condition:
    """How an instance is, as far as the journal tells."""
    state = fleet.pipelines.get(instance.id.pipeline)
    well = instance.run == "running" and instance.status == "healthy"
    if state is None:  # started by hand
        if not instance.active or instance.run == "ending":
            return "off"
        return "up" if well else "down"
    component = state.pipeline.component(instance.id.component)
    wanted = component is not None and instance.id.index < state.replicas_of(component)
    if (
        not wanted
        or instance.completed
        or state.stop_requested is not None
        or state.status in ("stopping", "stopped", "completed")
    ):
        return "off"
    if instance.current and well and state.status != "failed":
        host = fleet.hosts.get(instance.run_host)
        return "unknown" if host is not None and host.status == "left" else "up"
    return "down"


def _detection(event: object, time_ns: int) -> float | None:
    """From the exit, or from the last heartbeat, to the entry that says so."""
    match event:
        case ComponentExited(expected=False, ended_ago_s=float() as ago_s):
            return ago_s
        case ComponentStatusChanged(status="unhealthy", silence_s=float(), last_heartbeat_ms=int() as last_ms):
            return max(0.0, time_ns / _S - last_ms / 1_000)
        case _:
            return None


def _unasked(event: object) -> bool:
    return (isinstance(event, ComponentExited) and not event.expected) or isinstance(event, ComponentStatusChanged)
