"""Whatever happens to whichever process, nothing is lost: random schedules from seeds, and proof that they would notice."""

from pathlib import Path

import pytest

from chaos.oracle import judge, key_of
from chaos.plan import Focus, Plan, plan
from chaos.record import record
from chaos.schedule import Outcome, run_schedules
from chaos.theatre import Play

JOBS = 2
ROUND = 10

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("first", range(1, 51, ROUND))
def test_nothing_is_lost(first: int):
    """Ten schedules: 0 lost, duplicates only where the contract allows them, order per key, counters that add up."""
    failed = [outcome.report() for outcome in run_schedules(range(first, first + ROUND), jobs=JOBS) if outcome.failed]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize(
    ("sabotage", "focus"), [("acks-early", "kill"), ("checkpoints-ahead", "backlog"), ("fence-off", "zombie")]
)
def test_a_broken_data_plane_is_caught(sabotage: str, focus: Focus):
    """With the SDK broken on purpose one of the first seeds fails; unbroken, that one passes.

    Not every fault meets the broken moment: an early acknowledgement matters only if something dies right after it.
    """
    caught: list[int] = []
    for first in range(1, 41, 4):
        played = run_schedules(range(first, first + 4), jobs=JOBS, focus=focus, sabotage=sabotage)
        caught = [outcome.plan.seed for outcome in played if outcome.verdict.problems]
        if caught:
            break
    assert caught, f"nobody noticed {sabotage}"
    sound = [outcome.report() for outcome in run_schedules(caught[:1], jobs=1, focus=focus) if outcome.failed]
    assert not sound, "\n".join(sound)


def test_the_same_seed_is_the_same_plan():
    """Byte for byte, and another seed is another plan."""
    plans = [plan(seed).encoded() for seed in range(200)]
    assert plans == [plan(seed).encoded() for seed in range(200)]
    assert len(set(plans)) == 200


def test_plans_reach_everything():
    """Among a few hundred seeds there is every graph and every fault."""
    plans = [plan(seed) for seed in range(300)]
    assert len({each.shape for each in plans}) == 10
    assert len({fault.kind for each in plans for fault in each.faults}) == 10


class Fabricated:
    """Sink files that no pipeline has written, to see what the oracle says of them."""

    def __init__(self, directory: Path) -> None:
        self.plan: Plan = next(each for seed in range(1_000) if (each := plan(seed)).shape == "direct" and not each.faults)
        self.out = directory
        self.lines = [self.line(n) for n in range(self.plan.events)]
        self.play = Play(seconds=1.0, done={}, resending=[], voids=[], totals={}, problems=[])

    def line(self, n: int) -> str:
        """The record of one event."""
        return f"s.0:{n} {n} {key_of(n)} {n}\n"

    def problems(self) -> list[str]:
        """What the oracle says."""
        (self.out / "k.0.1").write_text("".join(self.lines))
        return judge(self.plan, self.play, self.out).problems


@pytest.fixture
def fabricated(tmp_path: Path) -> Fabricated:
    """A run in which all went well."""
    made = Fabricated(tmp_path)
    assert made.problems() == []
    return made


def test_the_oracle_sees_a_loss(fabricated: Fabricated):
    """One event that is missing, or whose line was cut short by a kill, is named."""
    fabricated.lines[-1] = fabricated.lines[-1].rstrip("\n")
    assert fabricated.problems() == [f"k: lost 1 of 10000 events: s.0:{fabricated.plan.events - 1}"]


def test_the_oracle_sees_a_duplicate_without_a_reason(fabricated: Fabricated):
    """An event that came twice although nothing on its way can have caused that."""
    fabricated.lines.append(fabricated.line(7))
    assert "s.0:7 2 times with 0 resending faults" in fabricated.problems()[0]
    fabricated.play.resending.append("k")
    assert fabricated.problems() == []


def test_the_oracle_sees_disorder(fabricated: Fabricated):
    """Two events of one key whose order was not kept."""
    later = fabricated.lines[16].replace(" 16\n", " 5\n")
    fabricated.lines[0], fabricated.lines[16] = later, fabricated.lines[0].replace(" 0\n", " 16\n")
    assert "out of order" in fabricated.problems()[0]


def test_the_oracle_sees_what_nobody_sent(fabricated: Fabricated):
    """An event that no source emitted, and one with the content of another."""
    fabricated.lines[3] = fabricated.lines[3].replace("s.0:3 3 ", "s.0:3 4 ")
    fabricated.lines.append("s.9:1 1 k15 99999\n")
    assert {problem.partition(": ")[2].partition(":")[0] for problem in fabricated.problems()} == {
        "1 events that nobody emitted",
        "1 events with another's content",
    }


def test_the_record_adds_up(fabricated: Fabricated):
    """The document has the totals of what was played, and says what the controls did."""
    verdict = judge(fabricated.plan, fabricated.play, fabricated.out)
    good = Outcome(plan=fabricated.plan, sabotage="", play=fabricated.play, verdict=verdict)
    fabricated.lines.pop()
    fabricated.problems()
    bad = Outcome(
        plan=fabricated.plan,
        sabotage="acks-early",
        play=fabricated.play,
        verdict=judge(fabricated.plan, fabricated.play, fabricated.out),
    )
    text = record([good, good, bad], day="2026-01-01", machine="a machine")
    assert "| schedules | 2 |" in text
    assert "| events emitted | 20,000 |" in text
    assert "| lost | 0 |" in text
    assert f"| acks-early | 1 | 1 | {fabricated.plan.seed} | 1 |" in text
