"""Outputs of any number are passed on within the bounds of the outboxes, and an edge that drops loses none of them needlessly."""

import asyncio
import random

from hypothesis import given
from hypothesis import strategies as st

from flowctl_sdk.acks import AckLog
from flowctl_sdk.columns import Columns, Names
from flowctl_sdk.credit import OUTBOX_BYTES, OUTBOX_EVENTS, Allowance
from flowctl_sdk.outbox import Outbox
from flowctl_sdk.passing import pass_on
from flowctl_sdk.routing import GroupSpec, Router
from flowctl_sdk.signals import Bell

PART_EVENTS = 1_024
PART_BYTES = 1024 * 1024


def batch(count: int, size: int) -> Columns:
    payloads = [b"%0*d" % (size, n) for n in range(count)]
    return Columns(payloads, [1] * count, list(range(count)), Names(["source.0"]), Names(), Names(), {})


class Taker:
    """One downstream instance: at each turn of the loop it takes some messages and acknowledges them."""

    def __init__(self, outbox: Outbox, room: Bell, chance: random.Random) -> None:
        outbox.rewind(1)
        self.outbox = outbox
        self.arrived: list[int] = []
        self.most = (0, 0)
        self._room = room
        self._chance = chance

    async def run(self) -> None:
        """Take until cancelled."""
        allowance = Allowance(10**9, 10**9)
        while True:
            self.most = max(self.most[0], self.outbox.events), max(self.most[1], self.outbox.size)
            for _ in range(self._chance.randint(2, 4)):
                if (entry := self.outbox.take(allowance)) is not None:
                    self.arrived += entry.columns().positions
                    self.outbox.acknowledge(entry.end - 1)
                    self._room.ring()
            await asyncio.sleep(0)


async def passed(columns: Columns, specs: list[GroupSpec], seed: int) -> tuple[dict[tuple[str, int], Taker], list[int]]:
    """Pass a batch on to takers; who took what, and what was done."""
    done: list[int] = []
    acks: AckLog[int] = AckLog(done.append)
    room, router = Bell(), Router()
    router.apply(specs)
    takers = {key: Taker(outbox, room, random.Random(seed)) for key, outbox in router.outboxes()}
    tasks = [asyncio.create_task(taker.run()) for taker in takers.values()]
    pending = acks.open(7)
    async with asyncio.timeout(20):
        await pass_on(router, room, columns, [pending])
        assert not done
        pending.release()
        while router.outstanding:
            await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert router.dispatched_total == len(columns)
    return takers, done


@given(st.integers(1, 30_000), st.integers(1, 3_000), st.booleans(), st.integers(0, 2**32))
def test_however_much_comes_of_one_batch_it_stays_within_bounds(count: int, size: int, keyed: bool, seed: int):
    """Each outbox holds at most its bound and the part that fills it; all of it arrives, and only then is the input done."""
    count = min(count, 20_000_000 // size)
    specs = [GroupSpec("a", (0, 1), "payload" if keyed else ""), GroupSpec("b", (0,))]
    takers, done = asyncio.run(passed(batch(count, size), specs, seed))
    for taker in takers.values():
        assert taker.most[0] < OUTBOX_EVENTS + PART_EVENTS
        assert taker.most[1] < OUTBOX_BYTES + PART_BYTES + 64 * 1_024
    assert takers["b", 0].arrived == list(range(count))
    assert sorted(takers["a", 0].arrived + takers["a", 1].arrived) == list(range(count))
    assert done == [7]


async def test_a_downstream_that_keeps_up_loses_nothing_where_its_edge_drops():
    """It is given a part at a time, and has its turn after each."""
    takers, done = await passed(batch(100_000, 10), [GroupSpec("a", (0,), "", drops=True)], 1)
    assert takers["a", 0].outbox.dropped_total == 0
    assert takers["a", 0].arrived == list(range(100_000))
    assert done == [7]
