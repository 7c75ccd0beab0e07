"""``make cluster-chaos SEED=… SCHEDULES=…``: random faults on three real hosts from seeds; the record goes to RELIABILITY.md.

Each schedule is three faults of the seed, one after the other, under load, with a heal after each. In the end every number must
have arrived, every acknowledged registration must stand in the journal, and the status must be right again.
"""

import argparse
import datetime as dt
import os
import platform
import sys
import tempfile
from collections import Counter
from pathlib import Path

import msgspec

from cluster.faults import Fault, Load, inflict, registrations, schedule, settled
from cluster.parts import Cluster, cluster
from cluster.places import namespaces, why_no_namespaces
from support.reliability import write_section

FAULTS = 3


class Played(msgspec.Struct, frozen=True):
    """One schedule: its faults, and after how many seconds each was healed."""

    seed: int
    faults: list[str]
    kinds: list[str]
    healed_s: list[float]


class Campaign(msgspec.Struct, frozen=True):
    """Several schedules on one cluster, and what arrived."""

    played: list[Played]
    events: int
    again: int
    registrations: int


def main() -> int:
    """Play; the exit code is 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="cluster", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schedules", type=int, default=20)
    parser.add_argument("--log", type=Path, help="append the campaign as a line of JSON")
    parser.add_argument("--record", action="store_true", help="write the section of RELIABILITY.md from the log")
    chosen = parser.parse_args()
    if chosen.record:
        campaigns = [msgspec.json.decode(line, type=Campaign) for line in chosen.log.read_bytes().splitlines()]
        write_section("Three hosts", section(campaigns))
        return 0
    reason = why_no_namespaces()
    if reason is not None:
        _say(reason)
        return 2
    with (
        tempfile.TemporaryDirectory(prefix="flowctl-cluster-") as directory,
        namespaces(3) as network,
        cluster(network, Path(directory)) as running,
    ):
        campaign = play(running, chosen.seed, chosen.schedules)
    if chosen.log is not None:
        with chosen.log.open("ab") as log:
            log.write(msgspec.json.encode(campaign) + b"\n")
    _say(f"{len(campaign.played)} schedules, {campaign.events:,} events, {campaign.again:,} came again, none is missing")
    return 0


def play(running: Cluster, seed: int, schedules: int) -> Campaign:
    """The schedules of ``schedules`` seeds, beginning with ``seed``."""
    load = Load(running)
    load.begin()
    known = registrations(running)
    played: list[Played] = []
    for number in range(seed, seed + schedules):
        faults = schedule(number, [place.name for place in running.network.places], can_cut=True, count=FAULTS)
        healed: list[float] = []
        for fault in faults:
            try:
                inflict(running, fault)
                healed.append(round(settled(running, load), 1))
                now = registrations(running)
                assert known <= now, f"lost registrations: {sorted(known - now)}"
                known = now
            except AssertionError as error:
                raise SystemExit(f"{fault}: {error}\nplay it again: make cluster-chaos SEED={number} SCHEDULES=1") from error
        played.append(Played(number, [str(fault) for fault in faults], [_kind(fault) for fault in faults], healed))
        _say(f"seed {number}: {'; '.join(played[-1].faults)}; healed after {', '.join(f'{each:.1f} s' for each in healed)}")
    numbers = load.end()
    return Campaign(played, len(set(numbers)), len(numbers) - len(set(numbers)), len(known))


def section(campaigns: list[Campaign]) -> str:
    """What RELIABILITY.md says of the campaigns."""
    played = [each for campaign in campaigns for each in campaign.played]
    healed = sorted(seconds for each in played for seconds in each.healed_s)
    kinds = Counter(kind for each in played for kind in each.kinds)
    rows = [
        ("schedules", f"{len(played):,} (seeds {min(each.seed for each in played)} to {max(each.seed for each in played)})"),
        ("faults", f"{kinds.total():,}"),
        ("events that arrived", f"{sum(campaign.events for campaign in campaigns):,}"),
        ("lost", "0"),
        ("arrived again", f"{sum(campaign.again for campaign in campaigns):,}"),
        ("registrations, all of them still in the journal", f"{sum(campaign.registrations for campaign in campaigns):,}"),
        ("everything well again after a fault (median, longest)", f"{healed[len(healed) // 2]:.1f} s, {healed[-1]:.1f} s"),
        ("date", dt.datetime.now(dt.UTC).date().isoformat()),
        ("machine", f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"),
    ]
    table = "\n".join(["|  |  |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])
    faults = "\n".join(["| fault | times |", "| --- | --- |", *(f"| {kind} | {count} |" for kind, count in kinds.most_common())])
    return f"""\
Three network namespaces with an address, a NATS server (three copies of each stream) and each of flowctl's services, and a
pipeline over all of them at 300 events a second ([tests/cluster](tests/cluster), `make cluster-chaos SEED=… SCHEDULES=…`). A
schedule is three random faults, each healed before the next: a part killed, held up or restarted, a host cut off, everything on
a host killed.

{table}

{faults}
"""


def _kind(fault: Fault) -> str:
    return fault.kind if fault.kind in ("cut", "power") else f"{fault.kind} {fault.part}"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
