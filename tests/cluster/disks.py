"""``PYTHONPATH=tests python -m cluster.disks``: full disks under one and under all NATS servers; ``--record`` writes it down.

Each server's store lies on a small file system of its own (tmpfs, so root is needed). It is filled to the last byte while
programs register; what a registry acknowledges must be in the journal afterwards.
"""

import argparse
import contextlib
import datetime as dt
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path

import msgspec

from cluster.parts import MONITOR, Cluster, cluster
from cluster.places import namespaces, why_no_namespaces
from cluster.registrars import Registrars
from cluster.truth import writes
from support.disks import DISK_BYTES, fill, make_room, small_disk, why_no_disks
from support.flowctl import COMMAND, until
from support.reliability import write_section

SECTION = "Full disks"
AT_ONCE_S = 1.0
"""What is asked for in the first second may still find room in a file that was long enough."""


class Filled(msgspec.Struct, frozen=True, kw_only=True):
    """Some servers' disks were full: after how many seconds what was the case.

    ``reported_s`` is when `doctor` named the first of them, ``all_reported_s`` when it named them all: a server knows of its disk
    when it writes, and one writes at a time while they elect the next. ``writable_s`` with a disk full is None where nothing can
    be written until there is room; ``serving_s`` counts from when there was room again and the servers were restarted, as
    ``doctor`` says.
    """

    servers: int
    reported_s: float
    all_reported_s: float
    writable_s: float | None
    serving_s: float
    acknowledged: int
    lost: int


@contextlib.contextmanager
def three_on_small_disks(directory: Path) -> Generator[Cluster]:
    """Three hosts with a NATS server and a registry each, the servers' stores on small disks."""
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(namespaces(3))
        for place in network.places:
            stack.enter_context(small_disk(disk_of(directory, place.name)))
        yield stack.enter_context(cluster(network, directory, parts=("nats", "registry")))


def disk_of(directory: Path, host: str) -> Path:
    """Where that host's server has its store."""
    return directory / host / "nats"


def play(running: Cluster, hosts: list[str], registrars: Registrars, *, survives: bool) -> Filled:
    """Fill the disks of these hosts' servers, see what comes of it, make room, and do what `doctor` says."""
    begun = time.monotonic()
    for host in hosts:
        fill(disk_of(running.directory, host))
    full = time.monotonic()
    addresses = {f"http://{place.address}:{MONITOR}" for place in running.network.places if place.name in hosts}
    first = until(lambda: _reported(running), "doctor to report it", timeout_s=60, every_s=0.1)
    reported_s = time.monotonic() - full
    assert first <= addresses
    until(lambda: _reported(running) == addresses, "doctor to report all of them", timeout_s=60, every_s=0.1)
    all_reported_s = time.monotonic() - full
    writable_s = None
    if survives:
        writable_s = until(lambda: registrars.first_after(full + AT_ONCE_S), "a registration", timeout_s=60) + AT_ONCE_S
    else:
        assert not writes(running), "something was acknowledged by servers that can keep nothing"
    for host in hosts:
        make_room(disk_of(running.directory, host))
        running.parts[host, "nats"].stop()
        running.parts[host, "nats"].start()
    restarted = time.monotonic()
    until(lambda: writes(running), "a write to the journal", timeout_s=60, every_s=0.1)
    until(lambda: registrars.first_after(restarted), "a registration", timeout_s=60, every_s=0.1)
    serving_s = time.monotonic() - restarted
    acknowledged = sum(each.done >= begun for registrar in registrars.each for each in registrar.acknowledged)
    return Filled(
        servers=len(hosts),
        reported_s=round(reported_s, 1),
        all_reported_s=round(all_reported_s, 1),
        writable_s=writable_s,
        serving_s=round(serving_s, 1),
        acknowledged=acknowledged,
        lost=len(registrars.lost()),
    )


def _reported(running: Cluster) -> set[str]:
    """Which servers keep nothing, as `doctor` says. Reads as far as it speaks of them."""
    told: set[str] = set()
    environment = {**running.environment, "PYTHONUNBUFFERED": "1"}
    words = [*COMMAND, "doctor", "--timeout", "1"]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as doctor:
        assert doctor.stdout is not None
        for line in doctor.stdout:
            level, check, *detail = [*line.split(), "", ""]
            if check == "journal":
                break
            if level == "WRONG" and "keeps nothing" in line:
                told.add(detail[0])
                assert "restart it" in next(doctor.stdout)
        doctor.terminate()
    return told


def play_all(directory: Path, say: Callable[[str], None]) -> list[Filled]:
    """The leader's disk, a follower's, all three."""
    with three_on_small_disks(directory) as running:
        registrars = Registrars(running)
        try:
            until(lambda: registrars.total() > 3, "registrations")
            found: list[Filled] = []
            for servers in ("the leader", "a follower", "all"):
                leader = until(running.nats_leader, "a leader")
                others = [place.name for place in running.network.places if place.name != leader]
                hosts = {"the leader": [leader], "a follower": others[:1], "all": [leader, *others]}[servers]
                found.append(play(running, hosts, registrars, survives=len(hosts) == 1))
                say(f"{servers}: {found[-1]}")
                until(lambda: not _reported(running), "all servers to be well", timeout_s=60)
        finally:
            registrars.end()
    return found


def main() -> int:
    """Play; the exit code is 1 if something was acknowledged and is not there."""
    parser = argparse.ArgumentParser(prog="cluster.disks", description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"write the section {SECTION!r} of RELIABILITY.md")
    parser.add_argument("--times", type=int, default=3)
    chosen = parser.parse_args()
    reason = why_no_namespaces() or why_no_disks()
    if reason is not None:
        _say(reason)
        return 2
    played: list[list[Filled]] = []
    for _ in range(chosen.times):
        with tempfile.TemporaryDirectory(prefix="flowctl-disks-", ignore_cleanup_errors=True) as directory:
            played.append(play_all(Path(directory), _say))
    if chosen.record:
        write_section(SECTION, section(played))
    return 1 if any(each.lost for found in played for each in found) else 0


def section(played: list[list[Filled]]) -> str:
    """What RELIABILITY.md says."""
    names = ("the server that leads the journal", "another server", "all three servers")
    columns = [[found[at] for found in played] for at in range(len(names))]

    def row(name: str, show: Callable[[list[Filled]], str]) -> str:
        return f"| {name} | {' | '.join(show(column) for column in columns)} |"

    def longest(values: list[float | None]) -> str:
        return "not until there is room" if None in values else f"{max(each or 0 for each in values):.1f} s"

    rows = [
        f"|  | {' | '.join(names)} |",
        "| --- | --- | --- | --- |",
        row("times", lambda column: str(len(column))),
        row("`doctor` names a server, and what to do (longest)", lambda column: longest([each.reported_s for each in column])),
        row("`doctor` names all of them (longest)", lambda column: longest([each.all_reported_s for each in column])),
        row("registrations acknowledged again (longest)", lambda column: longest([each.writable_s for each in column])),
        row("all well after room and restart (longest)", lambda column: longest([each.serving_s for each in column])),
        row("registrations acknowledged meanwhile", lambda column: f"{sum(each.acknowledged for each in column):,}"),
        row("**of these, not in the journal**", lambda column: f"**{sum(each.lost for each in column)}**"),
    ]
    table = "\n".join(rows)
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"""\
Three NATS servers, each with its store on a file system of {DISK_BYTES >> 20} MB that is filled to the last byte while three
programs register twice a second ([tests/cluster/disks.py](tests/cluster/disks.py), `PYTHONPATH=tests python -m cluster.disks`).
nats-server switches its JetStream off then, and on again only when it is restarted; `flowctl doctor` says so. An embedded server
is restarted by flowctl itself within seconds of there being room (`tests/journal/test_embedded.py`).

{table}

{dt.datetime.now(dt.UTC).date().isoformat()}; {machine}.
"""


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
