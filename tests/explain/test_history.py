"""`flowctl history`: filters, pages, formats, and refusals in one sentence."""

import asyncio
import csv
import io
import json

import pytest

from flowctl.ids import InstanceId
from flowctl.journal.events import Aggregate, ComponentExited, HostJoined, PipelineStopRequested
from flowctl.journal.heartbeats import HostBeat
from flowctl.journal.log import Draft
from flowctl_cli.__main__ import run
from flowctl_cli.entries import CSV_HEAD
from support.fake_plane import FakePlane, install


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> FakePlane:
    """Twenty entries: ten exits of two instances, a request to stop after each of the first nine, a host that joins."""
    control = FakePlane({})
    install(monkeypatch, control)

    async def fill() -> None:
        journal = control.store.journal
        for number in range(10):
            who = Aggregate.of_instance(InstanceId("orders", "enrich", number % 2))
            exited = ComponentExited(host="a", incarnation=number + 1, assignment=1, code=3, detail="broken, badly")
            await journal.append([Draft(who, exited)], actor="agent/a", correlation="c-1")
            if number < 9:
                stop = Draft(Aggregate.of_pipeline("orders"), PipelineStopRequested(reason="x"))
                await journal.append([stop], actor="cli/alice", correlation=f"c-{number}")
        joined = HostJoined(agent="x", address="127.0.0.1", drivers=["process"])
        await journal.append([Draft(Aggregate.of_host("a"), joined)], actor="agent/a")
        await control.store.heartbeats.publish([HostBeat("a", "x", 3)])

    asyncio.run(fill())
    return control


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> list[int]:
    """The sequences that ``history`` prints as JSON."""
    assert run(["history", *words, "--json"]) == 0
    return [view["seq"] for view in json.loads(capsys.readouterr().out)]


@pytest.mark.parametrize(
    ("words", "sequences"),
    [
        (["orders.enrich.1"], [3, 7, 11, 15, 19]),
        (["orders", "--index", "0", "--limit", "2"], [13, 17]),
        (["orders", "--component", "enrich", "--after", "15"], [17, 19]),
        (["--type", "stop_requested", "--limit", "2"], [16, 18]),
        (["--host", "a"], [20]),
        (["--actor", "cli", "--before", "7"], [2, 4, 6]),
        (["--actor", "cli/alice", "--actor", "nobody", "--limit", "1"], [18]),
        (["--actor", "cli/al"], []),
        (["--correlation", "c-3"], [8]),
        (["--after", "4", "--limit", "3"], [5, 6, 7]),
        (["--before", "18", "--limit", "3"], [15, 16, 17]),
        (["--before", "18", "--limit", "3", "--reverse"], [17, 16, 15]),
        (["--after", "17", "--reverse"], [20, 19, 18]),
        (["--since", "18"], [18, 19, 20]),
        (["--since", "3", "--until", "5"], [3, 4, 5]),
        (["--since", "1 hour ago", "--limit", "1"], [20]),
        (["--until", "1 hour ago"], []),
        (["--since", "now"], []),
    ],
)
def test_what_is_asked_for_is_shown(
    words: list[str], sequences: list[int], control: FakePlane, capsys: pytest.CaptureFixture[str]
):
    """Filters and pages, oldest first unless reversed."""
    del control
    assert shown(capsys, *words) == sequences


def test_pages_lead_to_each_other(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """Following the hint shows every entry once."""
    del control
    pages = [shown(capsys, "--limit", "7")]
    while pages[0][0] > 1:
        pages.insert(0, shown(capsys, "--before", str(pages[0][0]), "--limit", "7"))
    assert [seq for page in pages for seq in page] == list(range(1, 21))
    assert run(["history", "--limit", "7"]) == 0
    assert "older: --before 14 --limit 7" in capsys.readouterr().err


def test_csv_has_a_header_and_quotes(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """Read back by any CSV reader; the data is JSON."""
    del control
    assert run(["history", "orders.enrich", "--csv", "--limit", "1"]) == 0
    head, row = csv.reader(io.StringIO(capsys.readouterr().out))
    assert tuple(head) == CSV_HEAD
    found = dict(zip(head, row, strict=True))
    assert (found["seq"], found["actor"], json.loads(found["data"])["detail"]) == ("19", "agent/a", "broken, badly")


def test_heartbeats_stand_among_the_entries(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """In order of time; only those of whom it is asked for."""
    del control
    assert run(["history", "--heartbeats", "--json"]) == 0
    views = json.loads(capsys.readouterr().out)
    assert [view["type"] for view in views][-2:] == ["HostJoined", "HostBeat"]
    assert run(["history", "orders", "--heartbeats", "--json"]) == 0
    assert "HostBeat" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["--since", "soon"],
        ["--since", "99"],
        ["--since", "2999-01-01"],
        ["--since", "10", "--until", "5"],
        ["--host", "a", "--index", "1"],
        ["orders.enrich.1", "--index", "2"],
        ["--csv", "--json"],
        ["--heartbeats", "--limit", "3"],
        ["--type", "Exploded"],
        ["--host", "*"],
    ],
)
def test_bad_input_is_one_sentence(words: list[str], control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """Exit 2, nothing on stdout."""
    del control
    assert run(["history", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
