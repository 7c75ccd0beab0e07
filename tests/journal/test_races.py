"""A decision that is as old as a pause writes nothing where others have acted since, and does no harm where nobody has.

flowctl has no leader (docs/decisions/009-no-leader.md): each decision names the heads that it stands on, and the server refuses
it when one of them has moved.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any, Final, cast

import pytest

from flowctl.decision import Decision
from flowctl.errors import ConflictError
from flowctl.fleet import Fleet
from flowctl.journal.events import Aggregate, ComponentStarted, ComponentStarting, HostJoined, HostLost
from flowctl.journal.log import Draft, Entry, Journal
from flowctl.projection import Projection
from flowctl_orchestrator.decide import decide_restart, decide_scale, decide_stop, decide_submit
from flowctl_orchestrator.drain import decide_drain
from flowctl_orchestrator.lifecycle import is_live
from flowctl_orchestrator.plan import plan, plan_pipeline
from support.journals import collected
from support.nats import connect, nats_server
from support.scene import Scene
from support.stories import spec_of

SEED: Final = 11
RACES: Final = 1_000
PIPELINES: Final = 40
STALE: Final = 300
HOSTS: Final = ("h1", "h2")


class Paused:
    """A journal whose appends are held up until ``awake``; ``refused`` counts those that the server did not take."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.decided = asyncio.Event()
        self.awake = asyncio.Event()
        self.refused = 0
        self.written: list[Entry] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    async def append(self, drafts: Any, **words: Any) -> list[Entry]:
        """See ``Journal``."""
        self.decided.set()
        await self.awake.wait()
        before = await self._journal.last_sequence()
        try:
            entries = await self._journal.append(drafts, **words)
        except ConflictError:
            self.refused += 1
            assert await self._journal.last_sequence() == before, "a refused decision left something in the journal"
            raise
        self.written += entries
        return entries


def _something_happens(fleet: Fleet, name: str, chance: random.Random) -> list[Draft]:
    """What a user may want of a pipeline; never a refusal."""
    state = fleet.pipelines.get(name)
    if state is None or not is_live(state) or chance.random() < 0.1:
        decision = decide_submit(fleet, spec_of(name), source="", fresh=False)
    else:
        other = 1 + state.replicas.get("double", 2) % 4
        decision = chance.choice(
            [
                lambda: decide_scale(fleet, name, "double", other),
                lambda: decide_restart(fleet, name),
                lambda: decide_stop(fleet, name, reason="asked"),
            ]
        )()
    return list(cast("list[Draft]", decision)) if isinstance(decision, list | tuple) else []


def _agents_act(fleet: Fleet, name: str, chance: random.Random) -> list[Draft]:
    """Some of what is assigned is started."""
    drafts: list[Draft] = []
    for instance in fleet.members.get(name, []):
        given = instance.assignment
        if given is not None and not instance.active and chance.random() < 0.7:
            aggregate, number = Aggregate.of_instance(instance.id), instance.incarnation + 1
            drafts.append(Draft(aggregate, ComponentStarting(host=given.host, incarnation=number, assignment=given.seq)))
            drafts.append(Draft(aggregate, ComponentStarted(host=given.host, incarnation=number, handle=str(number))))
    return drafts


async def test_a_paused_orchestrator_that_wakes_writes_nothing_of_what_it_had_decided():
    """1,000 times two orchestrators decide on one state and one sleeps before its append, while the other and the world go on."""
    chance, races = random.Random(SEED), 0
    async with nats_server() as server:
        stores = [await connect(server, name=name) for name in ("paused", "other")]
        journal = stores[1].journal
        for host in HOSTS:
            joined = HostJoined(agent=host, address="127.0.0.1", drivers=["process"])
            await journal.append([Draft(Aggregate.of_host(host), joined)], actor="agent")
        paused, other = (Projection(store.journal) for store in stores)
        following = [await each.start() for each in (paused, other)]
        stale_entries = 0
        while races < RACES:
            name = f"p{chance.randrange(PIPELINES)}"
            await other.decide(lambda fleet, name=name: _something_happens(fleet, name, chance), actor="user")
            await paused.sync()
            now_ns, held = journal.now_ns(), Paused(stores[0].journal)
            if not plan_pipeline(paused.fleet, name, now_ns).drafts:
                await other.decide(lambda fleet, name=name: _agents_act(fleet, name, chance), actor="agent")
                continue
            paused.journal = cast("Journal", held)
            stale = asyncio.create_task(
                paused.decide(lambda fleet, name=name, at=now_ns: plan_pipeline(fleet, name, at).drafts, actor="paused")
            )
            await held.decided.wait()
            part = chance.choice([1, 2, 500])  # the other does all of it, or is itself in the middle
            await other.decide(
                lambda fleet, name=name, at=now_ns, part=part: plan_pipeline(fleet, name, at).drafts[:part], actor="other"
            )
            if chance.random() < 0.5:
                await other.decide(lambda fleet, name=name: _agents_act(fleet, name, chance), actor="agent")
            if chance.random() < 0.3:
                await other.decide(lambda fleet, name=name: _something_happens(fleet, name, chance), actor="user")
            acted_upto = other.fleet.seq
            held.awake.set()
            await stale
            assert held.refused == 1, f"race {races} of seed {SEED}: a stale decision was written: {held.written}"
            assert all(entry.seq > acted_upto for entry in held.written)  # only what it decided anew, on what it then knew
            stale_entries += len(held.written)
            paused.journal = stores[0].journal
            await other.sync()
            races += 1
        entries = await collected(journal.read())
        assert sum(entry.actor == "paused" for entry in entries) == stale_entries
        await paused.sync()
        assert paused.fleet.digest() == other.fleet.digest()
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        for store in stores:
            await store.close()


@pytest.mark.parametrize("what", ["stopped", "scaled", "drained", "lost"])
async def test_a_decision_that_does_not_know_what_has_been_said_since_means_nothing(what: str):
    """Of what a decision has only read, the server knows nothing and takes it; no reader of the journal makes anything of it."""
    async with nats_server() as server:
        stores = [await connect(server, name=name) for name in ("paused", "other")]
        journal = stores[1].journal
        joined = HostJoined(agent="h1", address="127.0.0.1", drivers=["process"])
        await journal.append([Draft(Aggregate.of_host("h1"), joined)], actor="agent")
        paused, other = (Projection(store.journal) for store in stores)
        following = [await each.start() for each in (paused, other)]
        await other.decide(lambda fleet: decide_submit(fleet, spec_of("orders"), source="", fresh=False), actor="user")
        await paused.sync()
        now_ns, held = journal.now_ns(), Paused(stores[0].journal)
        paused.journal = cast("Journal", held)
        first = plan_pipeline(paused.fleet, "orders", now_ns).drafts
        stale = asyncio.create_task(paused.decide(lambda _: first, actor="paused"))
        await held.decided.wait()
        since: dict[str, Callable[[Fleet], Decision]] = {
            "stopped": lambda fleet: decide_stop(fleet, "orders", reason="asked"),
            "scaled": lambda fleet: decide_scale(fleet, "orders", "double", 1),
            "drained": lambda fleet: decide_drain(fleet, "h1", reason="asked"),
            "lost": lambda _: [Draft(Aggregate.of_host("h1"), HostLost(silence_s=31.0))],
        }
        await other.decide(since[what], actor="user")
        held.awake.set()
        assert len(await stale) == len(first), "the server refused it: then this proves nothing"
        await other.sync()
        for each in (paused, other):
            assert not [found.id for found in each.fleet.instances.values() if found.assignment is not None or found.wanted]
        if what == "scaled":  # what follows now is decided on what is known now, and counts
            drafts = plan_pipeline(other.fleet, "orders", now_ns).drafts
            assert len(await other.decide(lambda _: drafts, actor="other")) == len(drafts)
            assert len([found for found in other.fleet.instances.values() if found.wanted]) == 3
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        for store in stores:
            await store.close()


@pytest.mark.parametrize("seed", range(SEED, SEED + 3))
def test_a_stale_decision_on_what_nobody_has_touched_is_undone(seed: int):
    """The server takes it, because no head that it stands on moved. Plans lead where they would without it."""
    chance, taken = random.Random(seed), 0
    for _ in range(STALE // 3):
        scene = Scene(*HOSTS)
        scene.submit(spec_of())
        if chance.random() < 0.7:
            scene.settle(end=False)
            _shake(scene, chance)
        drafts = plan(scene.fleet, scene.ledger.now_ns).drafts
        expect = {draft.aggregate: scene.fleet.head(draft.aggregate) for draft in drafts}
        _shake(scene, chance)  # commands and hosts only: no orchestrator acts
        with contextlib.suppress(ConflictError):
            taken += len(scene.ledger.append(drafts, expect=expect, actor="stale")) if drafts else 0
        for host in HOSTS:
            if not scene.world.hosts[host].connected:
                scene.world.recover(host)
            scene.undrain(host)
        scene.settle(end=False)
        _check_as_wanted(scene)
    assert taken > STALE // 10, "no stale decision came through: this proves nothing"


def _shake(scene: Scene, chance: random.Random) -> None:
    """A user or a host changes what should be."""
    live = is_live(scene.fleet.pipelines["orders"])
    choice = chance.choice(["stop", "scale", "submit", "drain", "lose", "crash"])
    if choice == "submit" or not live:
        scene.submit(spec_of())
    elif choice == "stop":
        scene.stop("orders")
    elif choice == "scale":
        scene.scale("orders", "double", chance.choice([1, 3, 4]))
    elif choice == "drain":
        scene.drain(chance.choice(HOSTS))
    elif choice == "lose":
        host = chance.choice(HOSTS)
        if scene.world.hosts[host].connected:
            scene.world.lose(host)
    elif programs := scene.world.programs():
        scene.world.crash(chance.choice(programs)[1])


def _check_as_wanted(scene: Scene) -> None:
    """Exactly the wanted instances run, once each; of a pipeline that was stopped none."""
    state = scene.fleet.pipelines["orders"]
    running = sorted(str(program.instance) for _, program in scene.world.programs())
    wanted: list[str] = []
    if is_live(state):
        replicas = {"numbers": 1, "double": state.replicas.get("double", 2), "keep": 1}
        wanted = sorted(f"orders.{name}.{index}" for name, count in replicas.items() for index in range(count))
    assert running == wanted, (state.status, scene.story()[-20:])
