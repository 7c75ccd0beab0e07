"""What changed between two instants, field by field, and which entries changed it. Pure.

Both instants are folds of the journal: the entries between them are folded one by one into the first, and whenever a field of
something differs afterwards, the entry is remembered with that field. What changed and changed back is no difference.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, cast

import msgspec

from flowctl.fleet import Fleet, Host, Instance, PipelineState
from flowctl.journal.log import Entry
from flowctl.spec.model import Component

Kind = Literal["pipeline", "component", "instance", "host"]
Facts = Mapping[str, Any]
"""The fields of one thing, flat: ``config.rate`` is a field."""

KINDS: Final[tuple[Kind, ...]] = ("pipeline", "component", "instance", "host")
KEPT: Final = 10
"""So many of the first and of the last entries that changed a field are kept."""


class Subject(msgspec.Struct, frozen=True, order=True):
    """What a change is about; ``name`` is ``orders``, ``orders.enrich``, ``orders.enrich.0`` or a host's."""

    kind: Kind
    name: str


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference. ``field`` is empty if the whole thing was ``added`` or ``removed``; then one value is all its fields.

    ``entries`` are the entries that changed it, the first and the last of ``count``.
    """

    kind: Kind
    subject: str
    change: Literal["added", "removed", "changed"]
    field: str = ""
    before: Any = None
    after: Any = None
    entries: list[int] = msgspec.field(default_factory=list[int])
    count: int = 0


class Comparison:
    """Two instants of a fleet: made at the first (the fleet is its own from then on), told every entry up to the second."""

    def __init__(self, fleet: Fleet, pipeline: str | None = None) -> None:
        self.fleet = fleet
        self.entries: dict[int, Entry] = {}
        self._pipeline = pipeline
        self._before: dict[Subject, Facts] = dict(_everything(fleet, pipeline))
        self._now = dict(self._before)
        self._trails: dict[tuple[Subject, str], list[Entry]] = {}
        self._counts: dict[tuple[Subject, str], int] = {}

    def apply(self, entry: Entry) -> None:
        """Fold the next entry."""
        self.fleet.apply(entry)
        for subject, facts in _touched(self.fleet, entry, self._pipeline):
            known = self._now.get(subject)
            if known == facts:
                continue
            self._now[subject] = facts
            names = (
                [""] if known is None else [name for name in known.keys() | facts.keys() if known.get(name) != facts.get(name)]
            )
            for name in names:
                self._remember(subject, name, entry)
        self._drop_components(entry)

    def changes(self) -> list[Change]:
        """What differs now from the first instant: pipelines, components, instances, hosts, each by name."""
        found: list[Change] = []
        subjects = {*self._before, *self._now}
        for subject in sorted(subjects, key=lambda each: (KINDS.index(each.kind), each.name)):
            found += self._changes_of(subject)
        self.entries = {
            entry.seq: entry
            for change in found
            for entry in self._trails.get((Subject(change.kind, change.subject), change.field), [])
        }
        return found

    def _changes_of(self, subject: Subject) -> Iterator[Change]:
        before, after = self._before.get(subject), self._now.get(subject)
        if before is None or after is None:
            if before is not after:
                yield self._change(subject, "added" if before is None else "removed", "", before, after)
            return
        for name in [*before, *(name for name in after if name not in before)]:
            if before.get(name) != after.get(name):
                yield self._change(subject, "changed", name, before.get(name), after.get(name))

    def _change(
        self, subject: Subject, change: Literal["added", "removed", "changed"], name: str, before: object, after: object
    ) -> Change:
        trail = self._trails.get((subject, name), [])
        return Change(
            kind=subject.kind,
            subject=subject.name,
            change=change,
            field=name,
            before=before,
            after=after,
            entries=[entry.seq for entry in trail],
            count=self._counts.get((subject, name), 0),
        )

    def _remember(self, subject: Subject, name: str, entry: Entry) -> None:
        trail = self._trails.setdefault((subject, name), [])
        trail.append(entry)
        if len(trail) > 2 * KEPT:
            del trail[KEPT]
        self._counts[subject, name] = self._counts.get((subject, name), 0) + 1

    def _drop_components(self, entry: Entry) -> None:
        """Components that the newest revision of a pipeline has no more."""
        if entry.aggregate is None or entry.aggregate.kind != "pipeline":
            return
        name = entry.aggregate.key[0]
        state = self.fleet.pipelines.get(name)
        have = {f"{name}.{component.id}" for _, component in state.pipeline.components()} if state is not None else set[str]()
        for subject in [each for each in self._now if each.kind == "component" and each.name.partition(".")[0] == name]:
            if subject.name not in have:
                del self._now[subject]
                self._remember(subject, "", entry)


def _everything(fleet: Fleet, pipeline: str | None) -> Iterator[tuple[Subject, Facts]]:
    for name, state in fleet.pipelines.items():
        if pipeline in (None, name):
            yield from _pipeline(state)
    for id_, instance in fleet.instances.items():
        if pipeline in (None, id_.pipeline):
            yield Subject("instance", str(id_)), facts_of_instance(instance)
    for name, host in fleet.hosts.items() if pipeline is None else ():
        yield Subject("host", name), facts_of_host(host)


def _touched(fleet: Fleet, entry: Entry, pipeline: str | None) -> Iterator[tuple[Subject, Facts]]:
    """What the entry may have changed, as it is now."""
    aggregate = entry.aggregate
    if aggregate is None:
        return
    name = aggregate.key[0]
    if aggregate.kind == "host":
        host = fleet.hosts.get(name)
        if host is not None and pipeline is None:
            yield Subject("host", name), facts_of_host(host)
    elif pipeline not in (None, name):
        return
    elif aggregate.kind == "component":
        instance = fleet.instances.get(aggregate.instance)
        if instance is not None:
            yield Subject("instance", str(instance.id)), facts_of_instance(instance)
    elif aggregate.kind == "pipeline" and (state := fleet.pipelines.get(name)) is not None:
        yield from _pipeline(state)
        for instance in fleet.members.get(name, ()):  # a new run changes all of them
            yield Subject("instance", str(instance.id)), facts_of_instance(instance)


def _pipeline(state: PipelineState) -> Iterator[tuple[Subject, Facts]]:
    yield Subject("pipeline", state.name), facts_of_pipeline(state)
    for kind, component in state.pipeline.components():
        yield Subject("component", f"{state.name}.{component.id}"), facts_of_component(kind, component, state)


def facts_of_pipeline(state: PipelineState) -> Facts:
    """A pipeline's own fields; its components have theirs."""
    spec = state.pipeline.spec
    facts: dict[str, Any] = {
        "status": state.status,
        "revision": state.revision,
        "run": state.run,
        "source": state.source,
        "stop requested": state.stop_requested is not None,
        "spec.description": spec.description,
        "spec.driver": spec.driver,
    }
    return facts | dict(_flat("metadata", msgspec.to_builtins(state.pipeline.metadata)))


def facts_of_component(kind: str, component: Component, state: PipelineState) -> Facts:
    """A component's fields as the file has them; ``replicas`` as they are wanted now."""
    spec: dict[str, Any] = msgspec.to_builtins(component)
    spec["replicas"] = state.replicas_of(component)
    return {"kind": kind} | dict(_flat("", spec))


def facts_of_instance(instance: Instance) -> Facts:
    """An instance's fields, without those that every incarnation has anew (address, handle)."""
    assignment = instance.assignment
    return {
        "phase": instance.phase,
        "health": instance.status,
        "host": assignment.host if assignment is not None else "",
        "revision": assignment.revision if assignment is not None else 0,
        "incarnation": instance.incarnation,
        "restarts": instance.restarts,
        "failure": instance.failure.reason if instance.failure is not None else "",
        "checkpoint": instance.checkpoint.position if instance.checkpoint is not None else None,
    }


def facts_of_host(host: Host) -> Facts:
    """A host's fields."""
    joined = host.joined
    facts: dict[str, Any] = {
        "status": host.status,
        "agent": joined.agent[:8],
        "address": joined.address,
        "drivers": list(joined.drivers),
        "version": joined.version,
    }
    return facts | {f"labels.{key}": value for key, value in joined.labels.items()}


def _flat(path: str, value: object) -> Iterator[tuple[str, Any]]:
    """The leaves of a structure with their paths; lists are leaves."""
    if isinstance(value, dict):
        for key, each in cast("dict[str, object]", value).items():
            yield from _flat(f"{path}.{key}" if path else key, each)
    elif path:
        yield path, value
