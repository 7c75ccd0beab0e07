"""Positive controls: flowctl with one of its protections taken out, to see that the oracle notices."""

import contextlib
from collections.abc import Generator, Iterator
from typing import Any, Literal, get_args

import flowctl_registry.decide
from flowctl.decision import Decision
from flowctl.fleet import Fleet
from flowctl.journal.events import Aggregate, ComponentRegistered
from flowctl.journal.heartbeats import StoredBeat
from flowctl.journal.log import Draft
from flowctl_health.observed import Observed
from flowctl_registry.requests import Register

Sabotage = Literal["", "heads-ignored", "claims-unchecked", "absence-is-silence"]

SABOTAGES: tuple[Sabotage, ...] = get_args(Sabotage)[1:]
"""What each takes out:

``heads-ignored``: the journal takes every append, whatever heads it expects (see ``Disk.append``).
``claims-unchecked``: the registry takes registrations of whatever incarnation.
``absence-is-silence``: the health monitor's windows never end, so that time without any heartbeats counts.
"""


@contextlib.contextmanager
def sabotaged(what: Sabotage) -> Generator[None]:
    """Take the protection out for a while."""
    with contextlib.ExitStack() as stack:
        for owner, name, replacement in _replacements(what):
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, replacement)
        yield


def _replacements(what: Sabotage) -> Iterator[tuple[Any, str, Any]]:
    match what:
        case "claims-unchecked":
            yield flowctl_registry.decide, "register", _register_anybody
        case "absence-is-silence":
            yield Observed, "_observe", _observe_without_gaps
        case _:
            return


def _register_anybody(fleet: Fleet, request: Register) -> Decision:
    del fleet
    caller = request.caller
    event = ComponentRegistered(
        incarnation=caller.incarnation, kind=request.kind, boot_id=request.boot_id, address=request.address
    )
    return [Draft(Aggregate.of_instance(caller.instance), event)]


def _observe_without_gaps(observed: Observed, stored: StoredBeat) -> None:
    for window in (observed.registry, observed.stream):
        window.since_ns = window.since_ns or stored.time_ns
        window.last_ns = max(window.last_ns, stored.time_ns)
    observed.seq = stored.seq
