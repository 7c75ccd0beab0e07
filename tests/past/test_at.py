"""``--at``: what the orchestrator said then, said again from the journal alone."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from flowctl import api
from flowctl.clock import VirtualClock
from flowctl.ids import InstanceId
from flowctl.instants import AtSequence, AtTime
from flowctl.journal.events import (
    Aggregate,
    ComponentAssigned,
    ComponentExited,
    ComponentLettersRedriven,
    ComponentRedriveRequested,
    ComponentRegistered,
    ComponentStarted,
    ComponentStarting,
    HostJoined,
    HostLost,
    JournalEvent,
)
from flowctl.journal.letters import DeadLetter
from flowctl.journal.log import Draft, Entry
from flowctl.journal.memory import MemoryStore
from flowctl.journal.store import Store
from flowctl_cli import questions
from flowctl_cli.__main__ import run
from support.fake_plane import FakePlane, install
from support.ledger import linear
from support.orchestrators import orchestrator

HOST = Aggregate.of_host("h1")
JOINED = HostJoined(agent="a", address="127.0.0.1", drivers=["process"])


async def _write(store: Store, aggregate: Aggregate, *events: JournalEvent) -> list[Entry]:
    return await store.journal.append([Draft(aggregate, event) for event in events], actor="test")


async def _act(store: Store) -> None:
    """What an agent and its programs write of every assignment that nobody has acted on: started, registered, one crash."""
    entries = [entry async for entry in store.journal.read()]
    started = {entry.event.assignment for entry in entries if isinstance(entry.event, ComponentStarting)}
    for entry in entries:
        if isinstance(entry.event, ComponentAssigned) and entry.seq not in started and entry.aggregate is not None:
            await _write(
                store,
                entry.aggregate,
                ComponentStarting(host="h1", incarnation=1, assignment=entry.seq),
                ComponentStarted(host="h1", incarnation=1, handle="17"),
                ComponentRegistered(incarnation=1, kind=entry.event.kind, boot_id="b", address="127.0.0.1:1"),
                ComponentExited(host="h1", incarnation=1, assignment=entry.seq, code=3, restart_in_s=2.0),
            )


async def test_the_status_of_then_is_what_the_orchestrator_said_then():
    """At every moment of a pipeline's life: waiting for a host, assigned, running, crashed, its host lost, stopped."""
    clock = VirtualClock()
    control = FakePlane({})
    control.store = store = MemoryStore(clock)
    said: list[tuple[api.StatusView, int]] = []
    async with orchestrator(store, clock=clock) as service:

        async def look() -> None:
            for _ in range(3):
                await clock.advance(1.0)
                said.append((await service.commands.status(api.StatusRequest()), store.journal.now_ns()))
            await clock.advance(0.001)

        await service.commands.submit(api.Submit(pipeline=msgspec.Raw(msgspec.json.encode(linear(replicas=2)))))
        await look()
        await _write(store, HOST, JOINED)
        await look()
        await _act(store)
        await look()
        await _write(store, HOST, HostLost(silence_s=30.5))
        await look()
        await service.commands.stop(api.Stop(pipeline="orders", reason="asked"))
        await look()
    assert len({view.seq for view, _ in said}) >= 5
    assert any(each.waiting_for for view, _ in said for each in view.pipelines[0].instances)
    for view, now_ns in said:
        assert await questions.status_at(control, AtTime(now_ns)) == view
        again = await questions.status_at(control, AtSequence(view.seq), "orders")
        assert [each.phase for each in again.pipelines[0].instances] == [each.phase for each in view.pipelines[0].instances]


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> FakePlane:
    """A host that joined and was lost, and nothing that runs."""
    fake = FakePlane({})

    async def fill() -> None:
        await _write(fake.store, HOST, JOINED)
        await _write(fake.store, HOST, HostLost(silence_s=30.5))

    asyncio.run(fill())
    install(monkeypatch, fake)
    return fake


@pytest.mark.usefixtures("control")
def test_hosts_of_then_need_no_service(capsys: pytest.CaptureFixture[str]):
    """Before anything, up, lost; said on stderr which moment it is."""
    for at, statuses in (("0", []), ("1", ["up"]), ("2", ["lost"]), ("now", ["lost"])):
        assert run(["hosts", "--at", at, "--json"]) == 0
        assert [host["status"] for host in json.loads(capsys.readouterr().out)] == statuses
    assert run(["hosts", "--at", "1"]) == 0
    assert "as it was after entry 1, 2" in capsys.readouterr().err
    assert run(["status", "--at", "2"]) == 0
    assert "there were no pipelines" in capsys.readouterr().err


@pytest.mark.usefixtures("control")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["status", "--at", "3"], 2, "there is no entry 3 yet: the journal ends at 2"),
        (["status", "--at", "2 days ago"], 2, "the journal begins at"),
        (["status", "--at", "2100-01-01"], 2, "in the future"),
        (["status", "--at", "soon"], 2, "neither a time nor an entry"),
        (["status", "--at", "1", "--watch"], 2, "cannot be combined with --watch"),
        (["status", "--at", "1", "--edges"], 2, "cannot be combined with --edges"),
        (["status", "orders", "--at", "1"], 1, "there was no pipeline 'orders' after entry 1"),
        (["hosts", "--at", "99"], 2, "the journal ends at 2"),
        (["graph", "orders", "--at", "99"], 2, "the journal ends at 2"),
        (["graph", "orders", "--at", "2"], 1, "there was no pipeline"),
        (["dead-letters", "list", "orders", "--at", "99"], 2, "the journal ends at 2"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]):
    """Exit code 2 for an instant outside of the journal, 1 for a pipeline that was not there."""
    assert run(words) == code
    assert said in capsys.readouterr().err


def test_a_file_has_no_past(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A pipeline that was submitted has."""
    assert run(["graph", f"{tmp_path}/pipeline.yaml", "--at", "1"]) == 2
    assert "is a file" in capsys.readouterr().err


def test_dead_letters_of_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Those that were there, in the state that they had."""
    clock = VirtualClock()
    fake = FakePlane({})
    fake.store = MemoryStore(clock)
    parse = InstanceId("orders", "parse", 0)

    async def fill() -> None:
        await _write(fake.store, HOST, JOINED)
        for position in range(2):
            await clock.advance(60.0)
            letter = DeadLetter(instance=parse, incarnation=1, origin="a.0", position=position, error="x", attempts=1)
            await fake.store.dead_letters.put(letter, b"{}")
            await _write(fake.store, Aggregate.of_instance(parse), ComponentRedriveRequested(letters=[position + 1]))
        done = ComponentLettersRedriven(incarnation=1, letters=[1], outcome="delivered")
        await _write(fake.store, Aggregate.of_instance(parse), done)

    asyncio.run(fill())
    install(monkeypatch, fake)
    expected = {
        "1": [],
        "90s ago": [],
        "2": [(1, "redriving")],
        "3": [(2, "redriving"), (1, "redriving")],
        "4": [(2, "redriving"), (1, "redriven")],
        "now": [(2, "redriving"), (1, "redriven")],
    }
    for at, states in expected.items():
        assert run(["dead-letters", "list", "orders", "--at", at, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert [(each["number"], each["state"]) for each in found["letters"]] == states, at
        assert found["total"] == len(states)
