"""All of it: everything that was recorded, in order, to those who decide once more. Pure."""

import copy
from collections.abc import AsyncIterator, Callable, Mapping

from flowctl.fleet import Fleet
from flowctl.journal.heartbeats import StoredBeat
from flowctl.journal.log import Entry
from flowctl_cli.replaying.agents import AgentReplay
from flowctl_cli.replaying.health import HealthReplay
from flowctl_cli.replaying.planning import PlanningReplay
from flowctl_cli.replaying.report import Report
from flowctl_health.decide import Patience


async def replay(
    fleet: Fleet,
    recorded: AsyncIterator[Entry | StoredBeat],
    patience: Patience,
    *,
    tolerance_s: float,
    changed: Mapping[str, float],
    progress: Callable[[int], None] = lambda _: None,
) -> Report:
    """Decide again over what was recorded after the state ``fleet``, which is folded on.

    ``changed`` are the settings that are not as they were: then what would have followed of a verdict is worked out too.
    """
    first = fleet.seq + 1
    health = HealthReplay(copy.deepcopy(fleet), patience, tolerance_s=tolerance_s, imagining=bool(changed))
    planning = PlanningReplay(fleet, tolerance_s=tolerance_s)
    agents = AgentReplay(fleet, tolerance_s=tolerance_s)
    count, end_ns = 0, fleet.time_ns
    async for each in recorded:
        end_ns = max(end_ns, each.time_ns)
        if isinstance(each, StoredBeat):
            health.beat(each)
            continue
        count += 1
        planning.before(each)
        agents.before(each)
        health.entry(each)
        fleet.fold(each)
        planning.after(each)
        if count % 1_000 == 0:
            progress(each.seq)
    planning.end(end_ns)
    agents.end(end_ns)
    differences = sorted(
        [*health.differences(), *planning.differences, *agents.differences], key=lambda each: (each.seq, each.time_ns)
    )
    return Report(
        first=first,
        last=fleet.seq,
        entries=count,
        heartbeats=health.beats,
        heartbeats_since_ns=health.since_ns,
        settings=dict(changed),
        decisions={"health": health.count, "orchestrator": planning.count, "agent": agents.count},
        differences=differences,
        notes=_notes(health, planning, first, tolerance_s),
    )


def _notes(health: HealthReplay, planning: PlanningReplay, first: int, tolerance_s: float) -> list[str]:
    notes: list[str] = []
    if health.since_ns is None and health.count.recorded:
        notes.append(
            "the heartbeats of this time are gone: verdicts are held against the evidence in their entries, and silences of which"
            " nothing came then are not known"
        )
    elif health.since_ns is not None and first > 1:
        notes.append("silence is counted from the first heartbeat of the record on")
    if planning.late_s > tolerance_s:
        notes.append(
            f"the orchestrator came up to {planning.late_s:.1f} s after what it decided on: it may not have run meanwhile"
        )
    notes += [f"pipeline {name} cannot be planned: {trouble}" for name, trouble in sorted(planning.troubles.items())]
    return notes
