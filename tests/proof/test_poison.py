"""Entries that cannot be read harm nobody: however many, and however often a service starts on them."""

import asyncio
from pathlib import Path

from flowctl.fleet import MAX_QUARANTINE
from flowctl.journal.events import Aggregate
from flowctl.journal.memory import MemoryStore
from flowctl.projection import Projection
from flowctl_cli.checks import known
from flowctl_orchestrator.views import Circumstances, status_view
from proof.poison import KINDS, play
from support.journals import ORDERS, running, stop

POISON = 3_000
RESTARTS = 10
OTHER = Aggregate.of_pipeline("other")


async def test_poison_stops_nobody_at_any_of_many_starts():
    """Counted to the last, listed up to a bound, and the other aggregates are what they would be without."""
    store = MemoryStore()
    await store.journal.append([stop("first", OTHER)], actor="test")
    for n in range(POISON):
        store.journal.put(*KINDS[n % len(KINDS)])
    [last] = await store.journal.append([running(OTHER)], actor="test")
    digests: set[str] = set()
    for _ in range(RESTARTS):
        projection = Projection(store.journal)
        following = await projection.start()
        fleet = projection.fleet
        digests.add(fleet.digest())
        assert (fleet.poison_total, len(fleet.quarantine), projection.skipped_total) == (POISON, MAX_QUARANTINE, 0)
        assert fleet.head(OTHER).seq == last.seq
        assert fleet.quarantine[0].seq == 2
        await projection.decide(lambda _: [stop("goes on", ORDERS)], actor="test")
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert len(digests) == RESTARTS  # each start found what the one before had written


async def test_doctor_lists_what_is_quarantined():
    """The first of them, with place and reason; the number says how many there are."""
    store = MemoryStore()
    for n in range(50):
        store.journal.put(*KINDS[n % len(KINDS)])
    projection = Projection(store.journal)
    following = await projection.start()
    view = status_view(projection.fleet, store.journal.now_ns(), Circumstances({}, {}))
    found = [finding for finding in known(view) if finding.check in ("entries", "quarantine")]
    assert found[0].detail.startswith("50 journal entries cannot be read")
    assert found[1].detail.partition(":")[0] == "entry 1 (flowctl.journal.pipeline.orders.submitted)"
    assert len(found) == 11
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


def test_a_control_plane_starts_again_and_again_on_poison(tmp_path: Path):
    """The real one, with a pipeline under way; ``python -m proof.poison`` does the same with many more."""
    play(tmp_path, seed=1, entries=2_000, restarts=2)
