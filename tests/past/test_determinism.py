"""The state of a journal is a function of its entries: not of the way there, the batches, the process or its hash seed."""

import ast
import importlib
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from flowctl import image
from flowctl.fleet import Fleet
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.log import Draft, Poison, Unknown
from flowctl.snapshotting import FOLD_MODULES, nearest, taken
from support.ledger import linear
from support.nats import connect, nats_server
from support.scene import Scene

DISTANCE = 25
PROGRAM = """
import asyncio, sys
from flowctl.journal.jetstream import JetStreamStore
from flowctl.projection import Projection

async def main(url):
    store = await JetStreamStore.connect(url, name="test", assume_synced=True, create=False)
    projection = Projection(store.journal)
    task = await projection.start()
    print(projection.fleet.digest())
    task.cancel()
    await store.close()

asyncio.run(main(sys.argv[1]))
"""


def _story() -> Scene:
    """Pipelines on three hosts: submitted, scaled, restarted, moved when a host is lost, stopped, run again."""
    scene = Scene("h1", "h2", "h3")
    for name in ("orders", "clicks"):
        scene.submit(linear(name, replicas=3))
    scene.settle(end=False)
    scene.scale("orders", "numbers", 5)
    scene.settle(end=False)
    scene.restart("clicks")
    scene.settle(end=False)
    scene.world.lose("h2")
    scene.settle(end=False)
    scene.stop("orders")
    scene.settle(end=False)
    scene.submit(linear("orders", replicas=2), fresh=True)
    scene.settle(end=False)
    return scene


@pytest.fixture
async def written() -> AsyncIterator[tuple[JetStreamStore, str]]:
    """A journal with that story on a real server, and the server's address."""
    async with nats_server() as server:
        store = await connect(server)
        for entry in _story().ledger.entries:
            assert entry.aggregate is not None
            assert not isinstance(entry.event, Unknown | Poison)
            await store.journal.append([Draft(entry.aggregate, entry.event, entry.causation)], actor=entry.actor)
        try:
            yield store, server.url
        finally:
            await store.close()


async def test_every_way_leads_to_the_same_state(written: tuple[JetStreamStore, str], monkeypatch: pytest.MonkeyPatch):
    """Three runs with shuffled batch sizes, from zero and from every snapshot, and ten processes with hash seeds of their own."""
    store, url = written
    last = await store.journal.last_sequence()
    chance = random.Random(7)
    digests: set[str] = set()
    for _ in range(3):
        monkeypatch.setattr("flowctl.journal.jetstream.reader.BATCH", chance.choice([1, 3, 17, 64, 2_000]))
        fleet = Fleet()
        async for entry in store.journal.read():
            fleet.fold(entry)
            if entry.seq % DISTANCE == 0:
                await store.snapshots.put(taken(fleet, entry.hash, b"".join(image.pieces(image.frozen(fleet)))))
        digests.add(fleet.digest())
    for upto in range(DISTANCE, last + 1, DISTANCE):
        fleet = await nearest(store.journal, store.snapshots, upto=upto)
        assert fleet is not None
        assert fleet.seq == upto
        async for entry in store.journal.read(after=upto):
            fleet.fold(entry)
        digests.add(fleet.digest())
    seeds = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, url],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(10)
    ]
    digests |= {process.communicate(timeout=60)[0].strip() for process in seeds}
    assert last > 4 * DISTANCE
    assert len(digests) == 1, digests


def test_a_copy_that_was_frozen_stays_as_it_was():
    """However much the fold goes on: whatever it changes in place must have been copied."""
    fleet = Fleet()
    copies: list[tuple[Fleet, str, bytes]] = []
    for entry in _story().ledger.entries:
        fleet.fold(entry)
        copies.append((image.frozen(fleet), fleet.digest(), b"".join(image.pieces(fleet))))
    for copy, digest, state in copies:
        assert (copy.digest(), b"".join(image.pieces(copy))) == (digest, state)
        assert b"".join(image.pieces(image.restored(state))) == state


STATELESS = {"flowctl.errors", "flowctl.journal.heartbeats"}
"""What the fold's modules import for its errors and its subjects only; nothing of it decides on a state."""


def test_a_snapshot_is_known_by_all_code_that_decides_on_it():
    """A change to any module that the fold stands on makes older snapshots another schema's."""
    used: set[str] = set()
    for name in FOLD_MODULES:
        tree = ast.parse(Path(importlib.import_module(name).__file__ or "").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("flowctl"):
                package = node.module in ("flowctl", "flowctl.journal")
                used |= {f"{node.module}.{alias.name}" for alias in node.names} if package else {node.module}
    assert used - STATELESS <= set(FOLD_MODULES)
