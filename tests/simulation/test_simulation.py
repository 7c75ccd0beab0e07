"""The control plane as a whole in simulated time, under every anomaly that is known: what must hold holds in each schedule."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.campaign import Tally, report, run
from simulation.sabotage import SABOTAGES, Sabotage
from simulation.schedule import play

SCHEDULES = int(os.environ.get("SIMULATED_SCHEDULES", "10000"))
TESTS = Path(__file__).parents[1]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_what_must_hold_holds_in_every_schedule():
    """Nothing acknowledged is lost, one owner, honest statuses, goals reached, and nothing done because the journal was away."""
    total = Tally()
    for tally in run(1, SCHEDULES):
        total.merge(tally)
    assert total.schedules == SCHEDULES
    assert not total.failed, "\n".join([f"{total.failed} failed", *map(report, total.failures)])
    for what in (
        "journal away",
        "cut line",
        "kill server",
        "pause server",
        "program exits",
        "program hangs",
        "host cut",
        "host dies",
    ):
        assert total.counts[what] > SCHEDULES / 10, f"hardly ever: {what}"
    for what in ("hosts lost", "unhealthy", "healthy"):
        assert total.counts[what] > SCHEDULES / 100, f"hardly ever: {what}"


@pytest.mark.parametrize("sabotage", SABOTAGES)
def test_a_control_plane_without_a_protection_is_caught(sabotage: Sabotage):
    """With one protection taken out a schedule fails; with the protection the same schedule passes."""
    for tally in run(1, 1_000, sabotage=sabotage):
        if tally.failed:
            for outcome in tally.failures:
                assert not play(outcome.seed).problems
            return
    raise AssertionError(f"nobody noticed {sabotage}")


def test_the_same_seed_is_the_same_trace():
    """Byte for byte, in two processes that hash differently."""
    lines = (
        "from simulation.schedule import play",
        "for seed in range(40):",
        "    outcome = play(seed, tracing=True)",
        r"    print(*outcome.trace, outcome.digest, outcome.steps, sep='\n')",
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", "\n".join(lines)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(TESTS)},
            capture_output=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert len(told[0].splitlines()) > 2_000
    assert told[0] == told[1]
    assert len({play(seed).digest for seed in range(40)}) == 40
