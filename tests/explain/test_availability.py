"""`flowctl report availability`: every figure against a story whose times are known."""

import asyncio
import itertools
import json
from pathlib import Path

import pytest

from flowctl import past
from flowctl.availability import Figures, Record
from flowctl.journal.events import (
    Aggregate,
    ComponentStatusChanged,
    HostLeft,
    HostReconnected,
    PipelineStopRequested,
)
from flowctl_cli.__main__ import run
from support.fake_plane import FakePlane, install
from support.telling import Tale, orders

S = 1_000_000_000
DOUBLE_1 = Aggregate.of_instance(orders("double.1"))


async def recorded(tale: Tale, before: int = 0, pipeline: str | None = None) -> tuple[Record, int, int]:
    """The record from an entry to the end, and its times."""
    begin_ns = (await tale.store.journal.entry(max(before, 1))).time_ns
    record = Record(await past.fleet_at(tale.store, before), begin_ns, pipeline)
    async for entry in tale.store.journal.read(after=before):
        record.apply(entry)
    return record, begin_ns, tale.clock.wall_ns()


async def figures(tale: Tale, before: int = 0) -> dict[str, Figures]:
    record, begin_ns, end_ns = await recorded(tale, before)
    return {subject: record.figures(subject, ids, begin_ns, end_ns) for subject, ids in record.subjects()}


async def test_a_kill_is_down_from_the_exit_itself_to_the_registration():
    """Detection from the exit to the entry, repair from the entry to the registration; down is the sum of the two."""
    tale = Tale()
    assignment = (await tale.running())["double.1"]
    before = tale.seq
    exit_ = await tale.kill("double.1", assignment, seconds=60, ago_s=0.5)
    await tale.start("double.1", assignment, incarnation=2, cause=exit_)
    await tale.clock.advance(39.7)
    found = await figures(tale, before)
    double, whole = found["orders.double"], found["orders"]
    assert (double.failures, double.restarts, double.open) == (1, 1, 0)
    assert (double.detect_mean_s, double.detect_max_s) == (0.5, 0.5)
    assert double.repair_mean_s == pytest.approx(0.3)
    assert (double.down_s, double.up_s) == pytest.approx((0.8, 199.2))  # two instances
    assert double.availability == pytest.approx(199.2 / 200)
    assert (whole.down_s, whole.up_s) == pytest.approx((0.8, 99.2))  # up while every instance is
    assert found["orders.keep"].availability == 1.0
    assert (found["orders.keep"].failures, found["orders.keep"].repair_mean_s) == (0, None)


async def test_the_state_at_the_begin_is_what_the_journal_said_then():
    """A period that begins while something is down begins down, and the repair of a fall before it is no figure of it."""
    tale = Tale()
    assignment = (await tale.running())["double.1"]
    exit_ = await tale.kill("double.1", assignment)
    await tale.clock.advance(10)
    await tale.start("double.1", assignment, incarnation=2, cause=exit_)
    found = (await figures(tale, exit_))["orders.double"]
    assert found.failures == 0
    assert found.down_s == pytest.approx(10.3)


async def test_silence_is_detected_from_the_last_heartbeat():
    """Down from then on, too."""
    tale = Tale()
    await tale.running()
    last_ms = tale.clock.wall_ns() // 1_000_000
    silent = ComponentStatusChanged(
        incarnation=1, status="unhealthy", previous="healthy", reason="no heartbeat", silence_s=30.5, last_heartbeat_ms=last_ms
    )
    await tale.tell(DOUBLE_1, silent, by="health/h", seconds=30.5)
    back = ComponentStatusChanged(incarnation=1, status="healthy", previous="unhealthy", reason="heartbeats are back")
    await tale.tell(DOUBLE_1, back, by="health/h", seconds=9.5)
    found = (await figures(tale))["orders.double"]
    assert (found.detect_median_s, found.repair_median_s) == pytest.approx((30.5, 9.5))
    assert found.down_s == pytest.approx(40 + 1.3, abs=1.0)  # with the start of both


async def test_while_the_journal_was_away_nobody_knows():
    """The agent says how long that was; it is unknown and not down, and no part of the availability."""
    tale = Tale()
    await tale.running()
    before = tale.seq
    await tale.tell(Aggregate.of_host("h1"), HostReconnected(away_s=20), by="agent/h1", seconds=50)
    await tale.clock.advance(50)
    found = (await figures(tale, before))["orders"]
    assert (found.up_s, found.down_s, found.unknown_s, found.availability) == pytest.approx((80, 0, 20, 1.0))


async def test_without_an_agent_nobody_knows():
    """From its leaving until it joins again; an agent that vanished was last known of at the journal's last entry."""
    tale = Tale()
    await tale.running()
    before = tale.seq
    await tale.tell(Aggregate.of_host("h1"), HostLeft(reason="stopped"), by="agent/h1", seconds=10)
    await tale.join(seconds=30, agent="b")
    await tale.join(seconds=15, agent="c")
    await tale.clock.advance(5)
    found = (await figures(tale, before))["orders"]
    assert (found.up_s, found.unknown_s) == pytest.approx((15, 45))


async def test_what_nobody_wants_to_run_is_neither():
    """From the request to stop on."""
    tale = Tale()
    await tale.running()
    before = tale.seq
    await tale.tell(Aggregate.of_pipeline("orders"), PipelineStopRequested(reason="night"), by="cli/alice", seconds=10)
    await tale.clock.advance(90)
    found = (await figures(tale, before))["orders"]
    assert (found.up_s, found.down_s, found.unknown_s) == pytest.approx((10, 0, 0))


async def test_waiting_for_a_host_is_down():
    """Submitted and wanted, and nothing runs."""
    tale = Tale()
    await tale.submit()
    await tale.clock.advance(10)
    found = (await figures(tale))["orders"]
    assert (found.availability, found.down_s) == pytest.approx((0.0, 10))


async def test_the_times_add_up_to_the_period():
    """Of every instance, whatever happened, without gaps or overlaps."""
    tale = Tale()
    assignment = (await tale.running())["double.1"]
    exit_ = await tale.kill("double.1", assignment, ago_s=100)
    await tale.start("double.1", assignment, incarnation=2, cause=exit_)
    await tale.tell(Aggregate.of_host("h1"), HostReconnected(away_s=30), by="agent/h1", seconds=1)
    record, begin_ns, end_ns = await recorded(tale)
    for _, ids in record.subjects():
        for id_ in ids:
            spans = record.spans(id_, begin_ns, end_ns)
            assert all(one.end_ns == two.begin_ns for one, two in itertools.pairwise(spans))
            assert spans[-1].end_ns == end_ns


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """A table, JSON, a row a day, a picture; bad input is one sentence and exit code 2."""
    tale = Tale()

    async def tell() -> None:
        assignment = (await tale.running())["double.1"]
        exit_ = await tale.kill("double.1", assignment, seconds=100_000)
        await tale.start("double.1", assignment, incarnation=2, cause=exit_)
        await tale.clock.advance(100_000)

    asyncio.run(tell())
    control = FakePlane({})
    control.store = tale.store
    install(monkeypatch, control)
    assert run(["report", "availability", "orders", "--chart", str(tmp_path / "a.svg")]) == 0
    assert "  orders.double" in capsys.readouterr().out
    picture = (tmp_path / "a.svg").read_text()
    assert picture.count("<title>down") >= 2
    assert run(["report", "availability", "--by", "day", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    mine = [row for row in rows if row["subject"] == "orders.double"]
    assert len(mine) in (3, 4)
    assert sum(row["failures"] for row in mine) == 1
    assert all(one["end_ms"] == two["begin_ms"] for one, two in itertools.pairwise(mine))
    for words in (["--from", "9", "--to", "3"], ["orderz"], ["--from", "999"], ["--to", "2999-01-01"], ["--chart", "a.gif"]):
        assert run(["report", "availability", *words]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
