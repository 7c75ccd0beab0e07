"""May this host be emptied, or used again, and what is to be written then? Pure."""

from flowctl.decision import Decision, Rejected
from flowctl.fleet import Fleet
from flowctl.journal.events import Aggregate, HostDrainCancelled, HostDrainRequested
from flowctl.journal.log import Draft
from flowctl.spec.problems import did_you_mean


def decide_drain(fleet: Fleet, name: str, *, reason: str) -> Decision:
    """May this host be told to run nothing? Empty if it was told so already."""
    host = fleet.hosts.get(name)
    if host is None:
        return _no_host(fleet, name)
    if host.drain is not None:
        return []
    return [Draft(Aggregate.of_host(name), HostDrainRequested(reason=reason), host.seq)]


def decide_undrain(fleet: Fleet, name: str) -> Decision:
    """May this host run instances again? Empty if it may already."""
    host = fleet.hosts.get(name)
    if host is None:
        return _no_host(fleet, name)
    if host.drain is None:
        return []
    return [Draft(Aggregate.of_host(name), HostDrainCancelled(), host.drain_seq)]


def _no_host(fleet: Fleet, name: str) -> Rejected:
    hint = did_you_mean(name, fleet.hosts) or "`flowctl hosts` lists those there are"
    return Rejected("not_found", f"there is no host {name[:80]!r}", hint=hint)
