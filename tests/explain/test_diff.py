"""`flowctl diff`: what differs between two instants, and the entries that made the difference."""

import asyncio
import json

import msgspec
import pytest

from flowctl import past
from flowctl.differences import Change, Comparison
from flowctl.journal.events import Aggregate, HostLost, PipelineScaled
from flowctl_cli.__main__ import run
from support.fake_plane import FakePlane, install
from support.stories import spec_of
from support.telling import Tale


async def changes(tale: Tale, before: int, after: int, pipeline: str | None = None) -> list[Change]:
    comparison = Comparison(await past.fleet_at(tale.store, before), pipeline)
    async for entry in tale.store.journal.read(after=before, upto=after):
        comparison.apply(entry)
    assert comparison.fleet.digest() == (await past.fleet_at(tale.store, after)).digest()
    return comparison.changes()


def told(found: list[Change]) -> list[str]:
    lines: list[str] = []
    for each in found:
        what = f" {each.field}: {each.before} -> {each.after}" if each.field else ""
        lines.append(f"{each.kind} {each.subject} {each.change}{what} by {each.entries}")
    return lines


async def crashed() -> tuple[Tale, int]:
    """A kill and a restart; the sequence before."""
    tale = Tale()
    assignment = (await tale.running())["double.1"]
    before = tale.seq
    exit_ = await tale.kill("double.1", assignment)
    await tale.status("degraded", exit_, previous="running", reason="double.1 is restarting")
    last = await tale.start("double.1", assignment, incarnation=2, cause=exit_)
    await tale.status("running", last, previous="degraded")
    return tale, before


async def test_a_crash_leaves_its_marks_and_nothing_else():
    """It runs as before, once more: what changed and changed back is not told."""
    tale, before = await crashed()
    assert told(await changes(tale, before, tale.seq)) == [
        "instance orders.double.1 changed incarnation: 1 -> 2 by [22]",
        "instance orders.double.1 changed restarts: 0 -> 1 by [22]",
    ]
    assert told(await changes(tale, before, 21)) == [
        "pipeline orders changed status: running -> degraded by [21]",
        "instance orders.double.1 changed phase: running -> restarting by [20]",
        "instance orders.double.1 changed health: healthy -> unknown by [20]",
    ]


async def test_nothing_differs_from_itself():
    """Whatever the instant."""
    tale, _ = await crashed()
    for seq in range(tale.seq + 1):
        assert await changes(tale, seq, seq) == []


async def test_a_new_revision_is_told_field_by_field():
    """A component that came, one that went, one whose environment changed, and the scale."""
    tale = Tale()
    await tale.running()
    before = tale.seq
    pipeline = spec_of(
        sources=[{"id": "numbers", "command": ["numbers"], "env": {"RATE": "9"}}],
        processors=[{"id": "double", "command": ["double"], "inputs": ["numbers"], "replicas": 2, "partition_by": "id"}],
        sinks=[{"id": "store", "command": ["keep"], "inputs": ["double"]}],
    )
    submitted = await tale.submit(pipeline, revision=2)
    scaled = await tale.tell(Aggregate.of_pipeline("orders"), PipelineScaled(component="double", replicas=3), by="cli/bob")
    lost = await tale.tell(Aggregate.of_host("h1"), HostLost(silence_s=31), by="health/h")
    assert told(await changes(tale, before, tale.seq)) == [
        f"pipeline orders changed status: running -> deploying by [{submitted}]",
        f"pipeline orders changed revision: 1 -> 2 by [{submitted}]",
        f"component orders.double changed replicas: 2 -> 3 by [{scaled}]",
        f"component orders.keep removed by [{submitted}]",
        f"component orders.numbers changed env.RATE: None -> 9 by [{submitted}]",
        f"component orders.store added by [{submitted}]",
        f"host h1 changed status: up -> lost by [{lost}]",
    ]
    assert not any(each.kind == "host" for each in await changes(tale, before, tale.seq, "orders"))


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Sentences, JSON, exit codes; FROM after TO, the future and unknown names are refused in one sentence."""
    tale, before = asyncio.run(crashed())
    control = FakePlane({})
    control.store = tale.store
    install(monkeypatch, control)
    assert run(["diff", str(before), "now"]) == 0
    text = capsys.readouterr().out
    assert "restarts     0 → 1" in text
    assert "claimed incarnation 2 of orders.double.1" in text
    assert run(["diff", str(before), "now", "orders", "--json", "--exit-code"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [each["field"] for each in found["changes"]] == ["incarnation", "restarts"]
    assert [each["seq"] for each in found["entries"]] == [22]
    assert run(["diff", "5", "5", "--exit-code"]) == 0
    assert "no differences" in capsys.readouterr().out
    for words in (["9", "3"], ["1", "999"], ["soon", "now"], ["1", "2999-01-01"], ["1", "now", "orderz"], ["1", "now", "Orders"]):
        assert run(["diff", *words]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
    assert msgspec.json.encode(found)
