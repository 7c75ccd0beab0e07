"""Which dead letters go to which instance once more, and what is to be journalled for it? Pure."""

from collections.abc import Sequence
from typing import Final

from flowctl.decision import Decision, Rejected
from flowctl.fleet import Fleet
from flowctl.ids import InstanceId
from flowctl.journal.events import Aggregate, ComponentLettersRedriven, ComponentRedriveRequested
from flowctl.journal.letters import Envelope
from flowctl.journal.log import Draft
from flowctl_registry.decide import admit
from flowctl_registry.requests import RedriveWish, Settlement

LETTERS_A_FACT: Final = 1_000
MAX_LETTERS: Final = 50_000
"""How many letters one command may send again; the rest are asked for by asking again."""


def request(fleet: Fleet, wish: RedriveWish, envelopes: Sequence[Envelope]) -> Decision:
    """Which of these letters are to be redriven, by whom? Empty if all of them are under way or delivered already.

    ``envelopes`` are all letters of the pipeline, or of the component that is meant. Without numbers those are meant that were
    never delivered; a letter that is named is redriven though it was.
    """
    known = {envelope.number: envelope.instance for envelope in envelopes}
    whom = wish.pipeline if wish.component is None else f"{wish.pipeline}.{wish.component}"
    if wish.pipeline not in fleet.pipelines and not fleet.members.get(wish.pipeline):
        return Rejected("not_found", f"there is no pipeline {wish.pipeline!r}")
    missing = [number for number in wish.numbers if number not in known]
    if missing:
        return Rejected("not_found", f"{whom} has no dead letter {missing[0]}", f"`flowctl dead-letters list {whom}` shows them")
    redriving, redriven = _progress(fleet, wish.pipeline)
    numbers = wish.numbers or [number for number in known if number not in redriven]
    wanted = [number for number in sorted(set(numbers)) if number not in redriving][:MAX_LETTERS]
    shares: dict[InstanceId, list[int]] = {}
    for number in wanted:
        to = heir(fleet, known[number])
        if to is None:
            component = known[number].component
            return Rejected(
                "precondition",
                f"pipeline {wish.pipeline} has no component {component!r} any more, which dead letter {number} is for",
                f"name another component: flowctl dead-letters redrive {wish.pipeline}.COMPONENT",
            )
        shares.setdefault(to, []).append(number)
    return [
        Draft(Aggregate.of_instance(to), ComponentRedriveRequested(letters=share[start : start + LETTERS_A_FACT]))
        for to, share in sorted(shares.items())
        for start in range(0, len(share), LETTERS_A_FACT)
    ]


def heir(fleet: Fleet, instance: InstanceId) -> InstanceId | None:
    """Who takes the letters of an instance: itself while the pipeline has it, else one that is left; None if none is."""
    pipeline = fleet.pipelines.get(instance.pipeline)
    if pipeline is None:
        return instance
    component = pipeline.pipeline.component(instance.component)
    if component is None:
        return None
    return InstanceId(instance.pipeline, instance.component, instance.index % pipeline.replicas_of(component))


def _progress(fleet: Fleet, pipeline: str) -> tuple[set[int], set[int]]:
    """The letters that are under way, and those that were delivered; what an instance has that is gone is not under way."""
    redriving: set[int] = set()
    redriven: set[int] = set()
    for instance in fleet.members.get(pipeline, ()):
        if heir(fleet, instance.id) == instance.id:
            redriving |= instance.redriving
        redriven |= instance.redriven
    return redriving, redriven - redriving


def settle(fleet: Fleet, settlement: Settlement) -> Decision:
    """What came of redriven letters; those that are not the caller's to redrive (any more) are passed over."""
    caller = settlement.caller
    if (refused := admit(fleet, caller)) is not None:
        return refused
    instance = fleet.instances[caller.instance]
    open_ = instance.redriving
    outcomes = {outcome.number: outcome for outcome in settlement.outcomes if outcome.number in open_}
    events: list[ComponentLettersRedriven] = []
    delivered = sorted(number for number, outcome in outcomes.items() if outcome.delivered)
    if delivered:
        events.append(ComponentLettersRedriven(incarnation=caller.incarnation, letters=delivered, outcome="delivered"))
    events += [
        ComponentLettersRedriven(incarnation=caller.incarnation, letters=[number], outcome="failed", error=outcome.error)
        for number, outcome in sorted(outcomes.items())
        if not outcome.delivered
    ]
    return [Draft(Aggregate.of_instance(caller.instance), event, instance.redrive_seq) for event in events]
