"""Many schedules, on several cores, and what came of all of them."""

import gc
import multiprocessing
import warnings
from collections import Counter
from collections.abc import Iterator

import msgspec
from msgspec import field

from simulation.sabotage import Sabotage
from simulation.schedule import Outcome, play

CHUNK = 100
KEPT = 20


class Tally(msgspec.Struct):
    """The sum of many outcomes; of those with problems the first few are kept."""

    schedules: int = 0
    failed: int = 0
    seconds: float = 0.0
    steps: int = 0
    entries: int = 0
    counts: dict[str, int] = field(default_factory=dict[str, int])
    failures: list[Outcome] = field(default_factory=list[Outcome])

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self.merge(
            Tally(
                schedules=1,
                failed=1 if outcome.problems else 0,
                seconds=outcome.seconds,
                steps=outcome.steps,
                entries=outcome.entries,
                counts=outcome.counts,
                failures=[outcome] if outcome.problems else [],
            )
        )

    def merge(self, other: "Tally") -> None:
        """Those of another tally too."""
        self.schedules += other.schedules
        self.failed += other.failed
        self.seconds += other.seconds
        self.steps += other.steps
        self.entries += other.entries
        self.counts = dict(Counter(self.counts) + Counter(other.counts))
        self.failures = [*self.failures, *other.failures][:KEPT]


def report(outcome: Outcome) -> str:
    """What went wrong, and the command that does it again."""
    problems = "\n  ".join(outcome.problems)
    return f"seed {outcome.seed}: again with `make simulate SEED={outcome.seed} SCHEDULES=1 TRACE=1`\n  {problems}"


def run(first: int, schedules: int, *, jobs: int = 2, sabotage: Sabotage = "") -> Iterator[Tally]:
    """Play the schedules of the seeds from ``first`` on; a tally for every hundred or so, in order."""
    chunks: list[tuple[int, int, Sabotage]] = [
        (at, min(CHUNK, first + schedules - at), sabotage) for at in range(first, first + schedules, CHUNK)
    ]
    if jobs <= 1:
        yield from map(_play_some, chunks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(_play_some, chunks)


def _play_some(chunk: tuple[int, int, Sabotage]) -> Tally:
    first, count, sabotage = chunk
    tally = Tally()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for seed in range(first, first + count):
                tally.add(play(seed, sabotage=sabotage))
    finally:
        gc.enable()
        gc.collect()
    return tally
