"""What is acknowledged survives a power cut, and the harness that says so can tell the difference."""

import asyncio
import os
import subprocess

import pytest

from power.disk import disk, why_not
from power.rounds import campaign

SEED = 20
WHY_NOT = why_not()
pytestmark = [
    pytest.mark.skipif(bool(WHY_NOT), reason=f"the power cannot be cut here: {WHY_NOT}"),
]


@pytest.mark.parametrize("propagation", ["slave", "private"])
def test_a_copy_of_the_mount_elsewhere_does_not_bring_the_dead_file_system_back(propagation: str):
    """A container that starts meanwhile takes a copy of the mount with it: what is mounted next is alive all the same."""
    with disk() as made:
        (made.root / "kept").write_text("kept")
        os.sync()
        words = ["unshare", "--mount", "--propagation", propagation, "sh", "-c", "echo; sleep 1"]
        with subprocess.Popen(words, stdout=subprocess.PIPE) as elsewhere:
            assert elsewhere.stdout is not None
            assert elsewhere.stdout.read(1), "it has its own namespace now"
            made.cut()
            made.unmount()
            made.mount()
            (made.root / "written").write_text("written")
            assert (made.root / "kept").read_text() == "kept"


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
