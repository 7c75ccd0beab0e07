"""``python -m simulation --seed N --schedules M``: plays schedules and prints what fails."""

import argparse
import sys
import time
from pathlib import Path
from typing import get_args

import msgspec

from simulation.campaign import Tally, report, run
from simulation.sabotage import Sabotage
from simulation.schedule import play


def main() -> int:
    """Run; returns 1 if a schedule failed."""
    parser = argparse.ArgumentParser(prog="simulation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schedules", type=int, default=1_000)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sabotage", choices=get_args(Sabotage), default="")
    parser.add_argument("--trace", action="store_true", help="print everything that happens in the one schedule of the seed")
    parser.add_argument("--log", type=Path, help="append the tally as a line of JSON, for the record")
    parser.add_argument("--for", dest="limit_s", type=float, default=float("inf"), help="begin nothing after so many seconds")
    arguments = parser.parse_args()
    if arguments.trace:
        outcome = play(arguments.seed, sabotage=arguments.sabotage, tracing=True)
        sys.stdout.write("\n".join([*outcome.trace, outcome.digest, *([report(outcome)] if outcome.problems else [])]) + "\n")
        return 1 if outcome.problems else 0
    began, total = time.monotonic(), Tally()
    for tally in run(arguments.seed, arguments.schedules, jobs=arguments.jobs, sabotage=arguments.sabotage):
        total.merge(tally)
        for outcome in tally.failures:
            sys.stdout.write(report(outcome) + "\n")
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{total.schedules} of {arguments.schedules} schedules, {total.failed} failed")
        if time.monotonic() - began > arguments.limit_s:
            break
    real_s = time.monotonic() - began
    sys.stdout.write(
        f"{total.schedules} schedules from seed {arguments.seed}, {total.failed} failed, {total.seconds:.0f} simulated seconds,"
        f" {total.entries} entries, {total.steps} steps, {real_s:.0f} s\n"
    )
    if arguments.log:
        line = {"first": arguments.seed, "real_s": real_s, "sabotage": arguments.sabotage, "tally": total}
        with arguments.log.open("ab") as log:
            log.write(msgspec.json.encode(line) + b"\n")
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
