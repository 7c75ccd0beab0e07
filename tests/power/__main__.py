"""``python -m power --seed 1 --rounds 100``: cut the power in the middle of writing, again and again. Needs root.

``--lazy`` is the positive control: nats-server with its own default fsync interval, on a new disk each time. A round that lost
something prints the command that plays its disk again.
"""

import argparse
import asyncio
import sys
from pathlib import Path

import msgspec

from power.disk import disk, why_not
from power.rounds import Outcome, campaign

ROUNDS_A_DISK = 10


def main() -> int:
    """Play the rounds; 1 if something was lost, or with ``--lazy`` if nothing was; 2 if this machine cannot."""
    parser = argparse.ArgumentParser(prog="power", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--lazy", action="store_true", help="the positive control")
    parser.add_argument("--log", type=Path, help="append one JSON line a round, for power.record")
    options = parser.parse_args()
    if reason := why_not():
        _say(f"the power cannot be cut here: {reason}")
        return 2
    a_disk = 1 if options.lazy else ROUNDS_A_DISK
    outcomes: list[Outcome] = []
    for first in range(0, options.rounds, a_disk):
        with disk() as made:
            numbers = range(first, min(first + a_disk, options.rounds))
            played = asyncio.run(campaign(made, seed=options.seed, numbers=numbers, lazy=options.lazy))
        for outcome in played:
            _tell(outcome, options.log)
        outcomes += played
    bad = [outcome for outcome in outcomes if not outcome.kept]
    entries = sum(outcome.acknowledged for outcome in outcomes)
    _say(f"{len(outcomes)} rounds, {entries:,} entries acknowledged, {len(bad)} rounds with a loss")
    return 0 if bool(bad) == options.lazy else 1


def _tell(outcome: Outcome, log: Path | None) -> None:
    state = "kept" if outcome.kept else f"LOST {outcome.lost} entries, {outcome.lost_letters} letters {outcome.problem}".rstrip()
    _say(f"seed {outcome.seed} round {outcome.round}: {outcome.acknowledged} acknowledged in {outcome.writing_s:.2f} s; {state}")
    if log is not None:
        with log.open("ab") as file:
            file.write(msgspec.json.encode(outcome) + b"\n")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
