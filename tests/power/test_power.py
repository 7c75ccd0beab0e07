"""What is acknowledged survives a power cut, and the harness that says so can tell the difference."""

import asyncio

import pytest

from power.disk import disk, why_not
from power.rounds import campaign

SEED = 20
WHY_NOT = why_not()
pytestmark = [
    pytest.mark.skipif(bool(WHY_NOT), reason=f"the power cannot be cut here: {WHY_NOT}"),
    # The harness lets go of each server and ends it by its pid, so the object that started it never hears of its end.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_nothing_acknowledged_is_lost():
    """Four cuts in the middle of writing, one after the other on one disk: all that was ever acknowledged is there."""
    with disk() as made:
        outcomes = asyncio.run(campaign(made, seed=SEED, numbers=range(4)))
    assert len(outcomes) == 4
    assert all(outcome.kept for outcome in outcomes), outcomes
    assert all(outcome.acknowledged for outcome in outcomes), outcomes


def test_with_the_servers_own_default_the_same_harness_fails():
    """An fsync every two minutes: acknowledged entries are gone, and flowctl refuses to go on as if nothing had been."""
    with disk() as made:
        (outcome,) = asyncio.run(campaign(made, seed=SEED, numbers=range(1), lazy=True))
    assert outcome.lost
    assert outcome.noticed, outcome
