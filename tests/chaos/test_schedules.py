"""Whatever happens to whichever process, nothing is lost: random schedules from seeds, and proof that they would notice."""

import pytest

from chaos.plan import Focus, plan
from chaos.schedule import run_schedules

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

    A fault may miss the broken moment (a zombie that wakes up too late has nothing left to steal), so a few are tried.
    """
    caught: list[int] = []
    for first in range(1, 13, 2):
        played = run_schedules(range(first, first + 2), jobs=JOBS, focus=focus, sabotage=sabotage)
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
    assert len({each.shape for each in plans}) == 11
    assert len({fault.kind for each in plans for fault in each.faults}) == 10
