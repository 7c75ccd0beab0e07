"""Whatever happens to whichever process, nothing is lost: random schedules from seeds, and proof that they would notice."""

from typing import get_args

import pytest

from chaos.plan import FaultKind, Focus, plan
from chaos.schedule import run_schedules

PROGRAMS = ("numbered", "same", "twice", "some", "slow", "batched", "picky", "windowed", "store")

JOBS = 3
"""Schedules wait more than they work: two cores are busy with three."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("seeds", [range(1, 16), range(16, 31), range(31, 46)], ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_nothing_is_lost(seeds: range):
    """0 lost, duplicates only where the contract allows them, order per key, and every edge adds up."""
    failed = [outcome.report() for outcome in run_schedules(seeds, jobs=JOBS) if outcome.failed]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("seeds", [range(1, 4), range(4, 7)], ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_nothing_is_lost_under_the_real_control_plane(seeds: range):
    """The same while parts of flowctl itself are killed, paused and cut off and commands are given; and its status is true."""
    failed = [outcome.report() for outcome in run_schedules(seeds, jobs=JOBS, focus="plane") if outcome.failed]
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
    """Among a few hundred seeds there is every graph, every program and every fault."""
    plans = [plan(seed) for seed in range(300)]
    assert len({each.shape for each in plans}) == 11
    assert {part.program for each in plans for part in each.parts} == set(PROGRAMS)
    assert any(part.drops for each in plans for part in each.parts)
    governed = [plan(seed, "plane") for seed in range(300)]
    assert {each.services for each in governed} == {"one", "apart"}
    kinds = {fault.kind for each in (*plans, *governed) for fault in each.faults}
    assert kinds == set(get_args(FaultKind))
    attacked = {(fault.kind, fault.component) for each in governed for fault in each.faults if fault.component.startswith("@")}
    for service in ("registry", "health", "orchestrator", "agent", "server", "nats-server"):
        assert {("kill", f"@{service}"), ("pause", f"@{service}")} <= attacked, service
