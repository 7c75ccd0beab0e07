"""Which host is to run an instance, and why none can. Pure."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from flowctl.fleet import Fleet, Host, Instance
from flowctl.ids import InstanceId
from flowctl.spec.model import Component, Driver, Pipeline

HOST_RETURN_S: Final = 60.0
"""How long the instances of a host whose agent left on purpose wait for it (an upgrade) before they go elsewhere."""


NO_SIBLINGS: Final[Mapping[str, int]] = MappingProxyType({})


class Nowhere(msgspec.Struct, frozen=True):
    """No host can run it; the reason continues the sentence "it waits: …"."""

    reason: str


def driver_of(pipeline: Pipeline, component: Component) -> Driver:
    """What starts the component's instances."""
    return component.driver or pipeline.spec.driver


def fits(host: Host, component: Component, driver: Driver) -> bool:
    """Whether the host may run the component, as far as the host itself goes: its driver, its name, its labels."""
    placement = component.placement
    if driver not in host.joined.drivers:
        return False
    if placement is None:
        return True
    if placement.host is not None and placement.host != host.name:
        return False
    return all(host.joined.labels.get(key) == value for key, value in placement.labels.items())


def loads(fleet: Fleet) -> Counter[str]:
    """How many instances each host is to keep running."""
    found: Counter[str] = Counter()
    for instance in fleet.instances.values():
        if instance.assignment is not None and instance.wanted:
            found[instance.assignment.host] += 1
    return found


def place(
    hosts: dict[str, Host],
    component: Component,
    driver: Driver,
    load: Counter[str],
    *,
    prefer: str = "",
    siblings: Mapping[str, int] = NO_SIBLINGS,
) -> str | Nowhere:
    """Where to run one more instance: on ``prefer`` if it will do, else where the fewest of its ``siblings`` are.

    ``siblings`` counts the component's other instances by host: replicas are spread, so that a lost host takes few of them. Among
    equals the least loaded host is taken, then the first by name.
    """
    candidates = [host.name for host in hosts.values() if takes(host) and fits(host, component, driver)]
    if prefer in candidates:
        return prefer
    if not candidates:
        return Nowhere(_why_nowhere(hosts, component, driver))
    return min(candidates, key=lambda name: (siblings.get(name, 0), load[name], name))


def takes(host: Host) -> bool:
    """Whether the host takes new instances: it is up and not drained."""
    return host.status == "up" and host.drain is None


def is_on(instance: Instance, host: str) -> bool:
    """Whether the host runs the instance, or is to."""
    if instance.active and instance.run_host == host:
        return True
    return instance.assignment is not None and instance.wanted and instance.assignment.host == host


def gone(hosts: dict[str, Host], name: str) -> bool:
    """Whether nobody can say what happens on the host: it is lost, or was never there."""
    host = hosts.get(name)
    return host is None or host.status == "lost"


def to_be_left(hosts: dict[str, Host], instance: Instance, now_ns: int) -> bool:
    """Whether an assigned instance should go elsewhere if it can."""
    if instance.assignment is None or instance.completed:
        return False
    host = hosts.get(instance.assignment.host)
    if host is None or host.status == "lost":
        return True
    if host.drain is not None and host.status == "up":
        return True
    if host.status == "up":
        return not instance.active and not fits(host, instance.assignment.component, instance.assignment.driver)
    return not is_well(instance) and now_ns >= return_deadline_ns(host)


def return_deadline_ns(host: Host) -> int:
    """Until when a host that was left is waited for."""
    return host.since_ns + int(HOST_RETURN_S * 1e9)


def is_well(instance: Instance) -> bool:
    """Whether the program that is wanted runs, is registered and is healthy."""
    return instance.current and instance.run == "running" and instance.status == "healthy"


def why_there(fleet: Fleet, instance: InstanceId, component: Component, driver: Driver, chosen: str) -> str:
    """Why ``place`` chose that host for an instance, in this state of the fleet, as half a sentence about the host."""
    placement = component.placement
    labels = "".join(f" with {key}={value}" for key, value in (placement.labels if placement is not None else {}).items())
    if placement is not None and placement.host is not None:
        return f"the pipeline file names host {placement.host}"
    candidates = [host.name for host in fleet.hosts.values() if host.status == "up" and fits(host, component, driver)]
    known = fleet.instances.get(instance)
    assigned = (known.assignment or known.withdrawn) if known is not None else None
    if len(candidates) < 2:
        return f"it is the only host that is up and offers driver {driver}{labels}"
    if known is not None and chosen in (known.run_host, assigned.host if assigned is not None else ""):
        return "it ran there before, and what it keeps on disk lies there"
    load = loads(fleet)
    others = ", ".join(f"{name} {load[name]}" for name in sorted(candidates) if name != chosen)
    fitting = f"up and offer driver {driver}{labels}"
    return f"of {len(candidates)} hosts that are {fitting} it has the least to do: {load[chosen]} instances ({others})"


def _why_nowhere(hosts: dict[str, Host], component: Component, driver: Driver) -> str:
    """The first condition that leaves no host, in the words of who has to change something."""
    if not hosts:
        return "no host has joined yet"
    placement = component.placement
    named = placement.host if placement is not None else None
    if named is not None:
        host = hosts.get(named)
        if host is None:
            return f"host {named} has not joined"
        if fits(host, component, driver):
            return f"host {named} {_unavailable(host)}"
        if driver not in host.joined.drivers:
            return f"host {named} does not offer driver {driver}"
    able = [host for host in hosts.values() if fits(host, component, driver)]
    if able:
        away = ", ".join(sorted(f"{host.name} {_unavailable(host)}" for host in able)[:5])
        return f"no host that would do is available: {away}"
    offering = [host for host in hosts.values() if driver in host.joined.drivers and (named is None or host.name == named)]
    if not offering:
        return f"no host offers driver {driver}"
    labels = placement.labels if placement is not None else {}
    for key, value in labels.items():
        if all(host.joined.labels.get(key) != value for host in offering):
            return f"{f'host {named} does not match' if named else 'no host matches'} label {key}={value}"
    return f"no host matches all of the labels {', '.join(f'{key}={value}' for key, value in labels.items())}"


def _unavailable(host: Host) -> str:
    if host.status == "up":
        return "is drained"
    return "is lost" if host.status == "lost" else "has no agent: it has left"
