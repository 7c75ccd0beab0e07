"""`flowctl replay` as a user types it."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from flowctl_cli.__main__ import run
from support.fake_plane import FakePlane, install
from support.flowctl import Flowctl
from support.journals import stop

TRANSCRIPTS = Path(__file__).parents[1] / "transcripts"


@pytest.fixture
def flowctl(tmp_path: Path) -> Flowctl:
    """Commands without a control plane: a file needs none."""
    return Flowctl(tmp_path, silence_s="6", host_silence_s="8")


def test_a_file_is_replayed_anywhere(flowctl: Flowctl):
    """The same decisions: a table, and exit code 0."""
    told = flowctl.run("replay", str(TRANSCRIPTS / "crash.zip")).stdout
    assert "the same decisions follow" in told
    assert "DECIDED BY" in told


def test_what_if_shows_the_first_difference_with_both_versions(flowctl: Flowctl):
    """Exit code 1, the entry, what was decided then and now; the same as JSON."""
    bundle = str(TRANSCRIPTS / "silence.zip")
    told = flowctl.run("replay", bundle, "--set", "health.timeout=60s", expect=1).stdout
    assert "what if silence_s were 60" in told
    assert "first difference: entry " in told
    assert "health about orders.keep.0: it was decided then, and is not now" in told
    assert "then  ComponentStatusChanged" in told
    assert "now   nothing" in told
    report = json.loads(flowctl.run("replay", bundle, "--set", "health.silence_s=60", "--json", expect=1).stdout)
    assert report["settings"] == {"silence_s": 60.0}
    assert report["differences"][0]["recorded"]["status"] == "unhealthy"
    assert report["decisions"]["orchestrator"]["recorded"] == report["decisions"]["orchestrator"]["same"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-file.zip"], "no-such-file.zip: it cannot be read"),
        (["--set", "health.silence_s=soon", str(TRANSCRIPTS / "crash.zip")], "'soon' is no length of time"),
        (["--set", "agent.log_files=3", str(TRANSCRIPTS / "crash.zip")], "no recorded decision depends on that"),
        (["--set", "health.silence_s", str(TRANSCRIPTS / "crash.zip")], "no recorded decision depends on that"),
        ([str(TRANSCRIPTS) + "/"], "it cannot be read"),
    ],
)
def test_bad_words_are_one_sentence_and_exit_code_2(flowctl: Flowctl, words: list[str], said: str):
    """No traceback."""
    assert said in flowctl.run("replay", *words, expect=2).stderr


def test_a_file_that_is_no_journal_is_refused(flowctl: Flowctl, tmp_path: Path):
    """With its name and what is wrong."""
    (tmp_path / "x.zip").write_bytes(b"PK")
    told = flowctl.run("replay", str(tmp_path / "x.zip"), expect=None)
    assert told.returncode != 0
    assert "x.zip: it is no whole ZIP archive" in told.stderr


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> FakePlane:
    """A control plane whose journal has one entry, of a moment ago."""
    fake = FakePlane({})
    install(monkeypatch, fake)
    asyncio.run(fake.store.journal.append([stop()], actor="test"))
    time.sleep(0.05)
    return fake


@pytest.mark.usefixtures("control")
@pytest.mark.parametrize("span", ["10ms ago..now", "10ms ago", "now", "now..1"])
def test_a_time_in_which_nothing_was_written(span: str, capsys: pytest.CaptureFixture[str]):
    """No decision is another one: exit code 0, and a note that there was none."""
    assert run(["replay", span, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["entries"], report["differences"]) == (0, [])
    assert "nothing was recorded in that time" in report["notes"]
    assert run(["replay", span]) == 0
    assert capsys.readouterr().out.startswith("no entries, no heartbeats\n")


@pytest.mark.usefixtures("control")
@pytest.mark.parametrize("words", ["1..0", "0", "2", "1..2"])
def test_entries_that_are_not_there(words: str, capsys: pytest.CaptureFixture[str]):
    """Whoever names entries means some: exit code 2."""
    assert run(["replay", words]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_without_a_control_plane_the_journal_cannot_be_reached(flowctl: Flowctl):
    """Exit code 3."""
    assert "no flowctl server runs" in flowctl.run("replay", expect=3).stderr
