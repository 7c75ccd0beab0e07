"""``make cluster-chaos SEED=… SCHEDULES=…``: random faults on three real hosts from seeds; the record goes to RELIABILITY.md.

In the end every number must have arrived, every acknowledged registration must stand in the journal, and after each heal the
status must be right again.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import msgspec

from cluster.campaign import Campaign, play
from cluster.parts import cluster
from cluster.places import namespaces, why_no_namespaces
from cluster.record import section
from support.reliability import write_section


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
        tempfile.TemporaryDirectory(prefix="flowctl-cluster-", ignore_cleanup_errors=True) as directory,
        namespaces(3) as network,
        cluster(network, Path(directory)) as running,
    ):
        campaign = play(running, chosen.seed, chosen.schedules, say=_say)
    if chosen.log is not None:
        with chosen.log.open("ab") as log:
            log.write(msgspec.json.encode(campaign) + b"\n")
    _say(
        f"{len(campaign.played)} schedules, {campaign.events:,} events, {campaign.again:,} came again, none is missing; "
        f"{campaign.registrations:,} acknowledged registrations, all of them in the journal"
    )
    if campaign.failed:
        _say(f"{campaign.failed}\nplay it again: make cluster-chaos SEED={campaign.failed_seed} SCHEDULES=1")
    return 1 if campaign.failed else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
