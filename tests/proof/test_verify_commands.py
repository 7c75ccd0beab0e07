"""`flowctl verify` and `flowctl journal export`: what they print, and that each kind of difference is found and exits with 1."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from flowctl import api
from flowctl.ids import InstanceId
from flowctl.journal.events import Aggregate, ComponentStarted, ComponentStarting
from flowctl.journal.log import Draft
from flowctl.projection import Projection
from flowctl_cli.__main__ import run
from support.fake_plane import FakePlane, install
from support.journals import stop

INSTANCE = InstanceId("orders", "reader", 0)


async def _life(fake: FakePlane) -> Projection:
    aggregate = Aggregate.of_instance(INSTANCE)
    await fake.store.journal.append([stop()], actor="test")
    await fake.store.journal.append(
        [
            Draft(aggregate, ComponentStarting(host="h1", incarnation=1, assignment=1)),
            Draft(aggregate, ComponentStarted(host="h1", incarnation=1, handle="77")),
        ],
        actor="test",
    )
    projection = Projection(fake.store.journal)
    following = await projection.start()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    return projection


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> FakePlane:
    """A control plane whose services know what the journal says, and whose one host runs what it should."""
    fake = FakePlane({})
    fleet = asyncio.run(_life(fake)).fleet
    for service in ("registry", "health"):
        fake.answers[f"{service}.digest"] = api.DigestAnswer(
            service=service, name="a", seq=fleet.seq, digest=fleet.digest(), journal_digest=fleet.journal_digest
        )
    run_view = api.RunView(instance=str(INSTANCE), incarnation=1, handle="77")
    fake.answers["agent.runs"] = api.RunsAnswer(host="h1", seq=fleet.seq, runs=[run_view])
    install(monkeypatch, fake)
    return fake


def verified(capsys: pytest.CaptureFixture[str], *words: str, expect: int = 0) -> Any:
    """What the command says with ``--json``."""
    assert run(["verify", *words, "--json"]) == expect
    return json.loads(capsys.readouterr().out)


def test_everything_agrees(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """Every service and driver is named; the anchor that is printed holds."""
    report = verified(capsys)
    assert [each["what"] for each in report["compared"]] == ["registry a", "health a", "the driver of host h1"]
    assert (report["last_seq"], report["differences_total"]) == (control.answers["health.digest"].seq, 0)
    assert verified(capsys, "--anchor", report["anchor"])["anchors_checked"] == 1
    assert run(["verify"]) == 0
    assert "everything is as the journal says" in capsys.readouterr().out


def test_a_service_that_knows_otherwise_is_named(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """Its state, or the entries that it has read."""
    right = control.answers["health.digest"]
    control.answers["health.digest"] = api.DigestAnswer(
        service="health", name="a", seq=right.seq, digest="0" * 64, journal_digest=right.journal_digest
    )
    [difference] = verified(capsys, expect=1)["differences"]
    assert "the live state of health a after entry 3" in difference["detail"]
    control.answers["health.digest"] = api.DigestAnswer(
        service="health", name="a", seq=right.seq, digest=right.digest, journal_digest="0" * 64
    )
    assert "health a has read other entries" in verified(capsys, expect=1)["differences"][0]["detail"]


def test_what_runs_and_is_not_known_is_found_and_the_reverse(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """Asked again a few times, because things start and end."""
    stranger = api.RunView(instance="orders.stranger.0", incarnation=4, handle="99")
    control.answers["agent.runs"] = api.RunsAnswer(host="h1", seq=3, runs=[stranger])
    details = [each["detail"] for each in verified(capsys, expect=1)["differences"]]
    assert any("orders.reader.0 (incarnation 1) is started on host h1, and its driver runs no" in each for each in details)
    assert any("h1 runs orders.stranger.0 (incarnation 4, 99), and the journal" in each for each in details)


def test_bad_words_are_bad_input(control: FakePlane, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """One sentence, exit code 2."""
    assert control.store is not None
    assert run(["verify", "--anchor", "nonsense"]) == 2
    assert run(["verify", str(tmp_path / "none.zip")]) == 2
    (tmp_path / "x.zip").write_text("nonsense")
    assert run(["verify", str(tmp_path / "x.zip")]) == 2
    assert "no whole ZIP archive" in capsys.readouterr().err


def test_an_exported_file_is_verified(control: FakePlane, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """The same anchor as the live journal; an anchor of another journal does not hold."""
    file = tmp_path / "j.zip"
    assert run(["journal", "export", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 3
    assert verified(capsys, str(file))["anchor"] == verified(capsys)["anchor"]
    assert verified(capsys, str(file), "--anchor", f"2:{'0' * 64}", expect=1)["differences"][0]["check"] == "anchor"
    assert run(["journal", "export", str(file)]) == 2
    assert control.store is not None
