"""The orchestrator once more: at every entry the plan is made again, and what was recorded must be in it.

What differs legitimately: ids, sequences and causes; and an orchestrator that had not read the last entries yet, so a plan of the
last seconds will do. Late is no difference, for the journal cannot tell whether an orchestrator ran; never is one.
"""

from collections import deque
from typing import Final

import msgspec

from flowctl.fleet import Fleet
from flowctl.journal.events import (
    CheckpointCommitted,
    ComponentAssigned,
    ComponentLettersRedriven,
    ComponentProbed,
    ComponentRedriveRequested,
    ComponentUnassigned,
    JournalEvent,
    PipelineStatusChanged,
)
from flowctl.journal.log import Draft, Entry, Poison, Unknown
from flowctl_cli.replaying.report import Count, Difference, as_json
from flowctl_orchestrator.plan import plan_pipeline

RECENT_S: Final = 5.0
KEPT: Final = 64
_S: Final = 1_000_000_000
_NOTHING_FOLLOWS: Final = (CheckpointCommitted, ComponentProbed, ComponentRedriveRequested, ComponentLettersRedriven)


class _Made(msgspec.Struct, frozen=True):
    """A plan: the entry after which it was made, and when."""

    seq: int
    time_ns: int
    drafts: list[Draft]


def is_planned(entry: Entry) -> bool:
    """Whether the entry is a decision of the orchestrator itself, not of a command that it obeyed."""
    return entry.actor.startswith("orchestrator") and isinstance(
        entry.event, ComponentAssigned | ComponentUnassigned | PipelineStatusChanged
    )


class PlanningReplay:
    """Give it every entry before and after it is folded into ``fleet``, then ``end`` it."""

    def __init__(self, fleet: Fleet, *, tolerance_s: float) -> None:
        self.count = Count()
        self.differences: list[Difference] = []
        self.troubles: dict[str, str] = {}
        self.late_s = 0.0
        self._fleet = fleet
        self._tolerance_ns = int(tolerance_s * _S)
        self._recent: dict[str, deque[_Made]] = {}
        self._standing: dict[str, dict[bytes, tuple[int, int, Draft]]] = {}
        self._now_ns = fleet.time_ns
        for name in fleet.pipelines:
            self._plan(name)

    def before(self, entry: Entry) -> None:
        """This entry comes next."""
        if entry.aggregate is None or not is_planned(entry) or isinstance(entry.event, Unknown | Poison):
            return
        name = entry.aggregate.key[0]
        if name not in self._fleet.pipelines:
            return
        self.count.recorded += 1
        self._now_ns = entry.time_ns
        made = [self._made(name), *reversed(self._recent.get(name, ()))]
        recent = [each for each in made if entry.time_ns - each.time_ns <= RECENT_S * _S] or made[:1]
        drafts = [draft for each in recent for draft in each.drafts if draft.aggregate == entry.aggregate]
        recorded = _whenever(entry.event)
        if any(draft.event == recorded for draft in drafts):
            self.count.same += 1
            since = self._standing.get(name, {}).get(_key(recorded, str(entry.aggregate)))
            if since is not None:
                self.late_s = max(self.late_s, (entry.time_ns - since[1]) / _S)
            return
        near = next((draft for draft in drafts if type(draft.event) is type(entry.event)), drafts[0] if drafts else None)
        self.differences.append(
            Difference(
                service="orchestrator",
                subject=str(entry.aggregate),
                seq=entry.seq,
                time_ns=entry.time_ns,
                why="another plan follows now" if near is not None else "it was decided then, and nothing of that follows now",
                recorded=as_json(entry.event),
                decided=as_json(near.event) if near is not None else None,
                decided_time_ns=entry.time_ns if near is not None else None,
            )
        )

    def after(self, entry: Entry) -> None:
        """The entry is folded."""
        aggregate = entry.aggregate
        self._now_ns = max(self._now_ns, entry.time_ns)
        if aggregate is None or isinstance(entry.event, _NOTHING_FOLLOWS):
            return
        if aggregate.kind == "host":
            for name in self._fleet.pipelines:
                self._plan(name)
        elif aggregate.key[0] in self._fleet.pipelines:
            self._plan(aggregate.key[0])

    def end(self, end_ns: int) -> None:
        """Nothing more comes until then: what stood undone is a difference."""
        for name in self._standing:
            for seq, since_ns, draft in self._standing[name].values():
                if end_ns - since_ns > self._tolerance_ns:
                    self.differences.append(
                        Difference(
                            service="orchestrator",
                            subject=str(draft.aggregate),
                            seq=seq,
                            time_ns=since_ns,
                            why="it follows now, and was never recorded",
                            decided=as_json(draft.event),
                            decided_time_ns=since_ns,
                        )
                    )

    def _plan(self, name: str) -> None:
        made = self._made(name)
        self._recent.setdefault(name, deque(maxlen=KEPT)).append(made)
        before = self._standing.get(name, {})
        keys = {_key(draft.event, str(draft.aggregate)): draft for draft in made.drafts}
        self._standing[name] = {key: before.get(key, (made.seq, made.time_ns, draft)) for key, draft in keys.items()}

    def _made(self, name: str) -> _Made:
        try:
            drafts = plan_pipeline(self._fleet, name, self._now_ns).drafts
            bare = [msgspec.structs.replace(draft, event=_whenever(draft.event)) for draft in drafts]
            return _Made(self._fleet.seq, self._now_ns, bare)
        except Exception as error:  # noqa: BLE001 - as in the planner, one pipeline's trouble stops no other
            self.troubles[name] = str(error) or type(error).__name__
            return _Made(self._fleet.seq, self._now_ns, [])


def _whenever(event: JournalEvent) -> JournalEvent:
    """The decision without the entry that it was decided on, which is the last one that the orchestrator had read."""
    return msgspec.structs.replace(event, decided_on=0) if isinstance(event, ComponentAssigned | ComponentUnassigned) else event


def _key(event: JournalEvent | Unknown | Poison, aggregate: str) -> bytes:
    return msgspec.json.encode([aggregate, event])
