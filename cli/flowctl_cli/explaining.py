"""Why something is as it is, or was at an instant: fetches the entries that ``flowctl.causes`` asks for."""

from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import Final

import msgspec
from msgspec import field

from flowctl import causes, past
from flowctl.api import InstanceView, PipelineView, StatusView
from flowctl.causes import Step
from flowctl.errors import UserError
from flowctl.fleet import Fleet, Instance
from flowctl.ids import InstanceId
from flowctl.instants import Instant
from flowctl.journal.events import Aggregate, ComponentAssigned, HostJoined
from flowctl.journal.log import Entry, Journal
from flowctl.journal.paging import newest_first
from flowctl.journal.store import Store
from flowctl.journal.subjects import aggregate_filter
from flowctl.past import Moment
from flowctl.spec.problems import did_you_mean
from flowctl_cli.targets import Target
from flowctl_orchestrator.placement import why_there
from flowctl_orchestrator.views import answer

MAX_OWN: Final = 500
"""So many of an instance's entries under its present assignment are looked at; the newest ones count."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why the subject is as ``summary`` says.

    ``chain`` are the entries that led there, oldest first; ``untold`` is how many more the subject has since the chain's begin.
    ``parts`` are the components' instances of a pipeline, with chains of their own where they are not well.
    """

    subject: str
    state: str
    summary: str
    waiting_for: str = ""
    chain: list[Step] = field(default_factory=list[Step])
    untold: int = 0
    parts: list["Explanation"] = field(default_factory=list["Explanation"])


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """An explanation, and the instant that it is about: after entry ``seq``, at ``time_ms`` (Unix milliseconds)."""

    seq: int
    time_ms: int
    explanation: Explanation


async def explain(store: Store, instant: Instant, target: Target) -> Explained:
    """Why a pipeline, a component or an instance is as it is.

    Raises:
        UserError: there was nothing of that name.
    """
    at = await past.moment(store, instant)
    fleet = await past.fleet_at(store, at.seq)
    view = answer(fleet, at.time_ns)
    pipeline = next((each for each in view.pipelines if each.name == target.pipeline), None)
    asking = _Asking(store, fleet, at)
    if pipeline is None:
        found = await asking.external(target)
    elif target.component is None:
        found = await asking.pipeline(pipeline)
    else:
        found = await asking.component(pipeline, target)
    return Explained(seq=at.seq, time_ms=at.time_ns // 1_000_000, explanation=found)


async def explain_host(store: Store, instant: Instant, name: str) -> Explained:
    """Why a host is as it is.

    Raises:
        UserError: there was none of that name.
    """
    at = await past.moment(store, instant)
    fleet = await past.fleet_at(store, at.seq)
    host = fleet.hosts.get(name)
    if host is None:
        known = f"it has {', '.join(sorted(fleet.hosts)[:10])}" if fleet.hosts else "none had joined"
        raise UserError(f"there was no host {name!r} after entry {at.seq}", hint=did_you_mean(name, fleet.hosts) or known)
    asking = _Asking(store, fleet, at)
    begins: list[int] = []
    mine = newest_first(store.journal, upto=at.seq, subject=aggregate_filter(Aggregate.of_host(name)))
    async with aclosing(mine) as backwards:
        async for entry in backwards:
            begins.append(entry.seq)
            if isinstance(entry.event, HostJoined) or len(begins) >= causes.MAX_STEPS:
                break
    view: StatusView = answer(fleet, at.time_ns)
    wanted = next((each.instances for each in view.hosts if each.name == name), 0)
    reason = f": {host.reason}" if host.reason else ""
    summary = f"host {name} is {host.status}{_since(at, host.since_ns)}{reason}; it is to run {wanted} instances"
    chain = await asking.chain(begins)
    found = Explanation(subject=f"host {name}", state=host.status, summary=summary, chain=chain)
    return Explained(seq=at.seq, time_ms=at.time_ns // 1_000_000, explanation=found)


class _Asking:
    """One question at one instant."""

    def __init__(self, store: Store, fleet: Fleet, at: Moment) -> None:
        self._store = store
        self._journal: Journal = store.journal
        self._fleet = fleet
        self._at = at

    async def pipeline(self, view: PipelineView) -> Explanation:
        state = self._fleet.pipelines[view.name]
        reason = f": {view.reason}" if view.reason else ""
        return Explanation(
            subject=view.name,
            state=view.status,
            summary=f"pipeline {view.name} is {view.status}{_since(self._at, state.status_since_ns)}{reason}",
            chain=await self.chain(causes.entries_of_pipeline(state)),
            parts=[await self._instance(each, brief=_is_well(each) or each.phase == "stopped") for each in view.instances],
        )

    async def component(self, view: PipelineView, target: Target) -> Explanation:
        named = [each for each in view.instances if each.component == target.component]
        known = {each.component for each in view.instances}
        if not named:
            hint = did_you_mean(target.component or "", known) or f"it has {', '.join(sorted(known)[:10])}"
            raise UserError(f"pipeline {view.name} had no component {target.component!r} after entry {self._at.seq}", hint=hint)
        chosen = [each for each in named if target.index in (None, each.index)]
        if not chosen:
            hint = f"it has {', '.join(str(each.index) for each in named[:20])}"
            raise UserError(
                f"{view.name}.{target.component} had no instance {target.index} after entry {self._at.seq}", hint=hint
            )
        if len(chosen) == 1:
            return await self._instance(chosen[0])
        well = sum(_is_well(each) for each in chosen)
        return Explanation(
            subject=str(target),
            state="running" if well == len(chosen) else "degraded",
            summary=f"{target} has {len(chosen)} instances, {well} of them as they should be",
            parts=[await self._instance(each) for each in chosen],
        )

    async def external(self, target: Target) -> Explanation:
        """Instances without a pipeline: programs that somebody started by hand."""
        fleet = self._fleet
        found = [each for each in fleet.instances_of(target.pipeline) if target.covers(each.id.component, each.id.index)]
        if target.component is not None:
            found = [each for each in found if each.id.component == target.component]
        if not found:
            hint = did_you_mean(target.pipeline, fleet.pipelines) or "`flowctl status` shows all of them"
            if self._at.seq < await self._journal.last_sequence():
                hint = f"{hint}; this is about what was known after entry {self._at.seq}"
            raise UserError(
                f"there was no pipeline {target.pipeline!r}" if target.component is None else f"there was no {target}", hint=hint
            )
        parts = [await self._own(each, f"{each.id} is {each.phase}", each.phase, "") for each in found]
        if len(parts) == 1:
            return parts[0]
        return Explanation(subject=str(target), state="running", summary=f"{target} belongs to no pipeline file", parts=parts)

    async def _instance(self, view: InstanceView, *, brief: bool = False) -> Explanation:
        id_ = InstanceId.parse(view.instance)
        instance = self._fleet.instances.get(id_) or Instance(id_)
        summary = _summary(view, instance, self._at)
        if brief:
            return Explanation(subject=view.instance, state=view.phase, summary=summary)
        return await self._own(instance, summary, view.phase, view.waiting_for)

    async def _own(self, instance: Instance, summary: str, state: str, waiting_for: str) -> Explanation:
        begin = max(0, causes.begin_of(instance) - 1)
        own: list[Entry] = []
        subjects = causes.subjects_of_instance(instance.id)
        async with aclosing(newest_first(self._journal, after=begin, upto=self._at.seq, subject=subjects)) as backwards:
            async for entry in backwards:
                own.append(entry)
                if len(own) >= MAX_OWN:
                    break
        own.reverse()
        chain = await self.chain(causes.entries_of_instance(self._fleet, instance, own), own)
        told = {step.seq for step in chain}
        untold = sum(entry.seq not in told for entry in own)
        return Explanation(
            subject=str(instance.id), state=state, summary=summary, waiting_for=waiting_for, chain=chain, untold=untold
        )

    async def chain(self, begins: Sequence[int], own: Iterable[Entry] = ()) -> list[Step]:
        """The entries at which it begins, and what each of them came of."""
        at_hand = {entry.seq: entry for entry in own}
        known: dict[int, Entry] = {}
        while wanted := causes.missing(known, begins):
            for seq in wanted:
                known[seq] = at_hand.get(seq) or await self._journal.entry(seq)
        places = {seq: await self._why_there(entry) for seq, entry in known.items() if isinstance(entry.event, ComponentAssigned)}
        return causes.steps(self._fleet, known, begins, places)

    async def _why_there(self, entry: Entry) -> str:
        """Why that host: found out anew from what was known just before."""
        event = entry.event
        if not isinstance(event, ComponentAssigned) or entry.aggregate is None:
            return ""
        before = await past.fleet_at(self._store, entry.seq - 1)
        return why_there(before, entry.aggregate.instance, event.component, event.driver, event.host)


def _is_well(view: InstanceView) -> bool:
    return view.phase == "completed" or (view.phase == "running" and view.status == "healthy")


def _summary(view: InstanceView, instance: Instance, at: Moment) -> str:
    health = f" and {view.status}" if view.phase == "running" else ""
    where = f" on host {view.host}" if view.host and view.phase not in ("waiting", "stopped", "completed") else ""
    count = f", incarnation {view.incarnation}" if view.incarnation else ""
    restarts = f", {view.restarts} restart{'' if view.restarts == 1 else 's'} in all" if view.restarts else ""
    reason = f": {view.reason}" if view.phase == "failed" or view.status == "unhealthy" else ""
    return f"{view.instance} is {view.phase}{health}{where}{_since(at, instance.since_ns)}{count}{restarts}{reason}"


def _since(at: Moment, since_ns: int) -> str:
    from flowctl_cli.terminal import age

    return f" for {age((at.time_ns - since_ns) / 1e6)}" if since_ns and at.time_ns >= since_ns else ""
