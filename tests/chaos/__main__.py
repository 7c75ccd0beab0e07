"""``python -m chaos --seed N --schedules M``: plays schedules and prints what fails."""

import argparse
import sys
import time
from pathlib import Path
from typing import get_args

import msgspec

from chaos.plan import EVENTS, Focus, plan
from chaos.schedule import run_schedules


def main() -> int:
    """Run; returns 1 if a schedule failed."""
    parser = argparse.ArgumentParser(prog="chaos")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schedules", type=int, default=50)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--events", type=int, default=EVENTS, help="how many the sources of a schedule emit together")
    parser.add_argument("--focus", choices=get_args(Focus), default="all")
    parser.add_argument("--sabotage", default="")
    parser.add_argument("--plan", action="store_true", help="only print the plans")
    parser.add_argument("--log", type=Path, help="append a JSON line for each outcome")
    parser.add_argument("--until", help="start no schedule after this time of day, HH:MM")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.schedules)
    if arguments.plan:
        for seed in seeds:
            sys.stdout.write(plan(seed, arguments.focus, arguments.events).encoded().decode() + "\n")
        return 0
    began, failures, count, events = time.monotonic(), 0, 0, 0
    played = run_schedules(
        seeds, jobs=arguments.jobs, focus=arguments.focus, sabotage=arguments.sabotage, events=arguments.events
    )
    for outcome in played:
        count += 1
        events += outcome.verdict.events
        failures += outcome.failed
        if arguments.log:
            with arguments.log.open("ab") as log:
                log.write(msgspec.json.encode(outcome) + b"\n")
        if outcome.failed:
            sys.stdout.write(outcome.report() + "\n")
        elif arguments.schedules <= 100:
            sys.stdout.write(
                f"{outcome.plan.seed}: {outcome.plan.shape}, {outcome.verdict.events} events, {outcome.play.done}, "
                f"{outcome.verdict.duplicates} twice, {outcome.play.seconds:.1f} s\n"
            )
        sys.stdout.flush()
        if arguments.until and time.strftime("%H:%M") >= arguments.until:
            break
    seconds = time.monotonic() - began
    sys.stdout.write(f"{count} schedules, {events} events, {failures} failed, {seconds:.0f} s\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
