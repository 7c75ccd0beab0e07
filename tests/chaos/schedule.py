"""One schedule from seed to verdict, and many of them at a time."""

import multiprocessing
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import msgspec

from chaos.oracle import Verdict, judge
from chaos.plan import EVENTS, Focus, Plan, plan
from chaos.plane import Stage
from chaos.theatre import Play, Theatre


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a schedule. ``kept`` is where its logs and files are if it failed."""

    plan: Plan
    sabotage: str
    play: Play
    verdict: Verdict
    kept: str = ""

    @property
    def failed(self) -> bool:
        """Whether the contract was broken."""
        return bool(self.verdict.problems)

    def report(self) -> str:
        """For a person: the problems, the plan, and the command that does it again."""
        command = f"make chaos SEED={self.plan.seed} SCHEDULES=1"
        if self.plan.focus != "all":
            command += f" FOCUS={self.plan.focus}"
        emitters = sum(part.replicas for part in self.plan.parts if part.kind == "source")
        if self.plan.events != EVENTS // emitters:
            command += f" EVENTS={self.plan.events * emitters}"
        if self.sabotage:
            command += f" SABOTAGE={self.sabotage}"
        problems = "\n".join(f"  - {problem}" for problem in self.verdict.problems)
        plan = self.plan.encoded().decode()
        return f"schedule {self.plan.seed} FAILED:\n{problems}\nplan:\n{plan}\nfiles: {self.kept}\nagain: {command}"


def run_schedule(seed: int, focus: Focus = "all", sabotage: str = "", events: int = EVENTS) -> Outcome:
    """Play and judge; the files of a failure are kept."""
    chosen = plan(seed, focus, events)
    directory = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
    performance = Stage(chosen, directory) if chosen.services else Theatre(chosen, directory, sabotage=sabotage)
    play = performance.play()
    verdict = judge(chosen, play, directory / "out")
    outcome = Outcome(plan=chosen, sabotage=sabotage, play=play, verdict=verdict, kept=str(directory))
    if not outcome.failed:
        shutil.rmtree(directory)
        outcome = msgspec.structs.replace(outcome, kept="")
    return outcome


def run_schedules(
    seeds: Iterable[int], *, jobs: int, focus: Focus = "all", sabotage: str = "", events: int = EVENTS
) -> Iterator[Outcome]:
    """The outcomes as they come, ``jobs`` at a time, each in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        running = [pool.submit(run_schedule, seed, focus, sabotage, events) for seed in seeds]
        try:
            for done in as_completed(running):
                yield done.result()
        finally:
            for future in running:
                future.cancel()
