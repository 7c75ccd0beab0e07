"""`flowctl replay` as a user types it."""

import json
from pathlib import Path

import pytest

from support.flowctl import Flowctl

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


def test_without_a_control_plane_the_journal_cannot_be_reached(flowctl: Flowctl):
    """Exit code 3."""
    assert "no flowctl server runs" in flowctl.run("replay", expect=3).stderr
