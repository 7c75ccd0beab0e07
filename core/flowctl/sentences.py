"""Journal entries in plain English, one sentence each. Pure and total: also for what this release does not know.

A sentence has no full stop and no time; whoever shows it puts sequence and time beside it.
"""

from collections.abc import Sequence
from typing import Final

from flowctl.journal.events import (
    Aggregate,
    CheckpointCommitted,
    ComponentAssigned,
    ComponentDeregistered,
    ComponentExited,
    ComponentFailed,
    ComponentLettersRedriven,
    ComponentProbed,
    ComponentRedriveRequested,
    ComponentRegistered,
    ComponentStarted,
    ComponentStarting,
    ComponentStatusChanged,
    ComponentUnassigned,
    HostJoined,
    HostLeft,
    HostLost,
    HostReconnected,
    HostRecovered,
    JournalEvent,
    PipelineScaled,
    PipelineStatusChanged,
    PipelineStopRequested,
    PipelineSubmitted,
)
from flowctl.journal.log import Entry, Poison, Unknown

MAX_NAMED: Final = 5
SIGNALS: Final = {1: "SIGHUP", 2: "SIGINT", 6: "SIGABRT", 9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 15: "SIGTERM"}


def sentence(entry: Entry) -> str:
    """What the entry says."""
    who = name_of(entry.aggregate)
    match entry.event:
        case Poison(reason=reason):
            return f"an entry on {entry.subject} that cannot be read: {reason}"
        case Unknown(ce_type=ce_type):
            return f"{who}: an entry of type {ce_type}, which this version of flowctl does not know"
        case event:
            return _sentence(event, who, speaker(entry.actor))


def name_of(aggregate: Aggregate | None) -> str:
    """``orders.enrich.0``, ``pipeline orders`` or ``host h1``."""
    if aggregate is None:
        return "something unreadable"
    name = ".".join(aggregate.key)
    return name if aggregate.kind == "component" else f"{aggregate.kind} {name}"


def speaker(actor: str) -> str:
    """Who wrote an entry: ``the orchestrator``, ``the agent of host h1``, a user's name."""
    service, _, name = actor.partition("/")
    match service:
        case "cli":
            return name or "somebody"
        case "agent":
            return f"the agent of host {name}" if name else "an agent"
        case "health":
            return "the health monitor"
        case "orchestrator" | "registry":
            return f"the {service}"
        case _:
            return actor or "somebody"


def ending_of(event: ComponentExited) -> str:
    """How a program ended: ``exit code 1``, ``signal 9 (SIGKILL)``."""
    if event.signal is not None:
        name = SIGNALS.get(event.signal)
        return f"signal {event.signal} ({name})" if name else f"signal {event.signal}"
    return f"exit code {event.code}" if event.code is not None else "an end that nobody saw"


def _sentence(event: JournalEvent, who: str, by: str) -> str:
    match event:
        case PipelineSubmitted():
            source = f" from {event.source}" if event.source else ""
            return f"{by} submitted {who}{source}: revision {event.revision}, run {event.run}"
        case PipelineScaled():
            return f"{by} asked for {_count(event.replicas, 'instance')} of {event.component} in {who}"
        case PipelineStopRequested():
            return f"{by} asked {who} to end{_because(event.reason)}"
        case PipelineStatusChanged():
            before = f", which was {event.previous}," if event.previous else ""
            return f"{who}{before} is {event.status}{_because(event.reason)}"
        case ComponentAssigned():
            return (
                f"{by} assigned {who} to host {event.host} (driver {event.driver}, revision {event.revision})"
                f"{_because(event.reason)}"
            )
        case ComponentUnassigned():
            at_once = "" if event.drain else ", at once"
            return f"{by} took {who} away from its host{at_once}{_because(event.reason)}"
        case ComponentStarting():
            return f"{by} claimed incarnation {event.incarnation} of {who} and began to start it"
        case ComponentStarted():
            return f"incarnation {event.incarnation} of {who} was started on host {event.host} (handle {event.handle})"
        case ComponentRegistered():
            address = f", its data plane listens on {event.address}" if event.address else ""
            return f"incarnation {event.incarnation} of {who} registered{address}"
        case ComponentDeregistered():
            words = {"completed": "it has nothing more to do", "stopped": "it was stopped", "failed": "it failed"}[event.reason]
            return f"incarnation {event.incarnation} of {who} said good-bye: {words}{_because(event.detail)}"
        case ComponentStatusChanged():
            was = f", which was {event.previous}"
            return f"{by} found incarnation {event.incarnation} of {who} {event.status}{was}{_because(event.reason)}"
        case ComponentProbed():
            verb = "succeeds again" if event.healthy else "fails"
            return f"the health check of incarnation {event.incarnation} of {who} {verb}{_because(event.detail)}"
        case ComponentExited():
            return f"incarnation {event.incarnation} of {who} ended with {ending_of(event)}{_after_exit(event)}"
        case ComponentFailed():
            return f"{by} gave {who} up after {_count(event.restarts, 'restart')}: {first_line(event.reason)}"
        case CheckpointCommitted():
            return f"every event of {who} up to position {event.position:,} is in every sink"
        case ComponentRedriveRequested():
            return f"{by} asked {who} to process {_letters(event.letters)} once more"
        case ComponentLettersRedriven():
            outcome = "delivered to every sink" if event.outcome == "delivered" else "failed again"
            return f"{who} processed {_letters(event.letters)} once more: {outcome}{_because(event.error)}"
        case HostJoined():
            labels = "".join(f", {key}={value}" for key, value in sorted(event.labels.items()))
            return f"{who} joined at {event.address} (drivers {', '.join(event.drivers)}, {event.cpus} CPUs{labels})"
        case HostLost():
            return f"{by} gave {who} up for lost: no heartbeat for {event.silence_s:.1f} s"
        case HostRecovered():
            return f"{who} is back: its heartbeats arrive again"
        case HostReconnected():
            return f"{who} reached the journal again after {event.away_s:.1f} s"
        case HostLeft():
            return f"the agent of {who} left{_because(event.reason)}; what it started goes on running"
        case _:
            return f"{who}: {type(event).__name__}"


def _after_exit(event: ComponentExited) -> str:
    if event.expected:
        return ", as it was to"
    if event.restart_in_s is not None:
        return f"; nobody had asked for that, and its restart policy starts it again in {event.restart_in_s:.1f} s"
    return "; nobody had asked for that, and it is not started again"


def _because(reason: str) -> str:
    return f": {first_line(reason)}" if reason.strip() else ""


def first_line(text: str, limit: int = 160) -> str:
    """The first line of what somebody said, shortened: safe to print on one line."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = "".join(letter if letter.isprintable() else " " for letter in line)
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _letters(numbers: Sequence[int]) -> str:
    named = ", ".join(str(number) for number in numbers[:MAX_NAMED])
    more = f" and {len(numbers) - MAX_NAMED} more" if len(numbers) > MAX_NAMED else ""
    return f"dead letter{'' if len(numbers) == 1 else 's'} {named}{more}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
