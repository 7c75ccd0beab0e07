"""What really runs on the hosts, as their kernels tell it, and whether what flowctl says of it is so."""

import asyncio
import time
from pathlib import Path

import msgspec
import psutil

from cluster.faults import Load
from cluster.parts import Cluster
from cluster.places import Place, pids_in
from flowctl.api import StatusView
from flowctl.errors import FlowctlError, JournalUnavailableError
from flowctl.journal.events import Aggregate, HostDrainCancelled
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.log import Draft
from flowctl_cli import plane, questions
from flowctl_cli.session import Session

TWICE = -1
"""In place of an incarnation: more than one program of the instance lives."""


class Settled(msgspec.Struct, frozen=True):
    """After a heal: how many seconds until all that is said was right, and until all was well; what was wrong the longest."""

    right_s: float
    well_s: float
    wrong: str = ""


def settled(cluster: Cluster, load: Load, *, timeout_s: float = 60.0) -> Settled:
    """Wait until what is said is right and all is well again; how long each of them took.

    Right is: each host is said to be up, each instance that is called healthy is the only program of its name that lives,
    with that incarnation, and no program lives that is not called healthy. Well is: right, the pipeline runs, the journal takes
    an entry, and a new event arrives.
    """
    begun = time.monotonic()
    right_s: float | None = None
    last = ""
    while True:
        wrong = _wrong(cluster, load.name)
        now = time.monotonic() - begun
        if right_s is None and wrong.statements:
            last = "; ".join(wrong.statements)
        if not wrong.statements and right_s is None:
            right_s = now
        if not wrong.statements and wrong.status == "running" and writes(cluster):
            break
        if now > timeout_s:
            logs = "\n".join(f"--- {part}\n{part.log()}" for part in cluster.parts.values())
            said = "; ".join((*wrong.statements, *wrong.ill))
            raise AssertionError(f"after {now:.0f} s {load.name} is {wrong.status}: {said}\n{logs}")
        time.sleep(0.1)
    load.flows()
    return Settled(round(now if right_s is None else right_s, 1), round(time.monotonic() - begun, 1), last)


class _Wrong(msgspec.Struct, frozen=True):
    """A pipeline's status, what is said and is not so, and the instances that are rightly said not to be well."""

    status: str
    statements: list[str]
    ill: list[str]


def _wrong(cluster: Cluster, pipeline: str) -> _Wrong:
    view = asyncio.run(_status(cluster))
    if view is None:
        return _Wrong("unknown", ["nobody answers"], [])
    said = {host.name: host.status for host in view.hosts}
    statements = [
        f"{place.name} is said to be {said.get(place.name, 'unknown')}"
        for place in cluster.network.places
        if said.get(place.name) != "up"
    ]
    found = next(each for each in view.pipelines if each.name == pipeline)
    healthy = {each.instance: each.incarnation for each in found.instances if each.status == "healthy"}
    lives = live_incarnations(cluster, pipeline)
    statements += [
        f"{name} is said to be #{healthy.get(name)} and is #{lives.get(name)}"
        for name in sorted(healthy.keys() | lives.keys())
        if healthy.get(name) != lives.get(name)
    ]
    ill = [
        f"{each.instance} is {each.status} on {each.host}: {each.reason}" for each in found.instances if each.status != "healthy"
    ]
    return _Wrong(found.status, statements, ill)


async def _status(cluster: Cluster) -> StatusView | None:
    """What `flowctl status` and `flowctl hosts` print, asked as they ask: anew each time, of whichever replica answers."""
    session = Session(nats=cluster.nats_urls, state_dir=cluster.directory / "operator")
    try:
        async with plane.opened(session, timeout_s=5) as control:
            return await questions.status(control)
    except FlowctlError:
        return None


def live_incarnations(cluster: Cluster, pipeline: str) -> dict[str, int]:
    """The programs of a pipeline that really live on all hosts, by instance; ``TWICE`` if there are several of one."""
    found: dict[str, int] = {}
    for pid in (pid for place in cluster.network.places for pid in _pids(place)):
        environment = _environ_of(pid)
        if environment.get("FLOWCTL_INCARNATION") and environment.get("FLOWCTL_PIPELINE") == pipeline and _is_program(pid):
            name = ".".join(environment[f"FLOWCTL_{part}"] for part in ("PIPELINE", "COMPONENT_ID", "INSTANCE_INDEX"))
            found[name] = int(environment["FLOWCTL_INCARNATION"]) if name not in found else TWICE
    return found


def _pids(place: Place) -> list[int]:
    """The processes on a host; a host that is only an address has those that were told of it."""
    if place.prefix:
        return pids_in(place.prefix[-1])
    return [pid for pid in psutil.pids() if _environ_of(pid).get("FLOWCTL_ADVERTISE_HOST") == place.address]


def _environ_of(pid: int) -> dict[str, str]:
    """A process' environment; empty if it is gone."""
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    return dict(pair.decode().split("=", 1) for pair in pairs if b"=" in pair)


def _is_program(pid: int) -> bool:
    """Whether it is a component's own process, and lives."""
    try:
        return b"programs/" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def writes(cluster: Cluster) -> bool:
    """Whether an entry can be appended to the journal within two seconds, by a client that comes anew."""
    return asyncio.run(_append(cluster))


async def _append(cluster: Cluster) -> bool:
    draft = Draft(Aggregate.of_host("probe"), HostDrainCancelled())  # of a host that there is not: it changes nothing
    try:
        async with asyncio.timeout(2):
            store = await JetStreamStore.connect(
                cluster.nats_urls, name="probe", request_timeout_s=1.5, create=False, assume_synced=True
            )
            try:
                await store.journal.append([draft], actor="probe")
            finally:
                await store.close()
    except (TimeoutError, JournalUnavailableError):
        return False
    return True
