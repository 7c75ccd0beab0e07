"""Names for control planes: what was named comes first, then the environment, then the context that was chosen."""

import json
import stat
from pathlib import Path

import pytest

from flowctl_cli import contexts, plane
from flowctl_cli.__main__ import run
from support.fake_plane import FakePlane


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "flowctl" / "contexts.json"


@pytest.fixture
def meant(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which NATS servers each command that asks something means."""
    seen: list[str] = []

    def opened(session: object, **_: object) -> object:
        seen.append(session.nats)  # type: ignore[attr-defined]
        return _opened()

    monkeypatch.setattr(plane, "opened", opened)
    return seen


class _opened:  # noqa: N801 - stands for a function
    async def __aenter__(self) -> FakePlane:
        return FakePlane({})

    async def __aexit__(self, *_: object) -> None:
        return


def test_the_order_of_what_is_meant(meant: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """--nats, --context, FLOWCTL_NATS_URL, FLOWCTL_CONTEXT, the chosen context, the state directory."""
    run(["context", "add", "prod", "--nats", "nats://p:4222"])
    run(["context", "add", "test", "--nats", "nats://t:4222"])
    run(["status"])
    run(["context", "use", "prod"])
    run(["status"])
    run(["--context", "test", "status"])
    run(["status", "--context", "local"])
    monkeypatch.setenv("FLOWCTL_CONTEXT", "test")
    run(["status"])
    monkeypatch.setenv("FLOWCTL_NATS_URL", "nats://e:4222")
    run(["status"])
    run(["status", "--context", "prod"])
    run(["status", "--context", "prod", "--nats", "nats://n:4222"])
    names = ["", "nats://p:4222", "nats://t:4222", "", "nats://t:4222", "nats://e:4222", "nats://p:4222", "nats://n:4222"]
    assert meant == names
    assert "Traceback" not in capsys.readouterr().err


def test_add_use_list_remove(config: Path, capsys: pytest.CaptureFixture[str]):
    """Credentials are kept for the owner alone and never shown; forgetting the chosen one goes back to the local one."""
    assert run(["context", "add", "prod", "--nats", "nats://u:secret@p:4222", "--use"]) == 0
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert run(["context", "list", "--json"]) == 0
    out = capsys.readouterr().out
    assert "secret" not in out
    listed = json.loads(out[out.index("[") :])
    assert [(each["name"], each["current"]) for each in listed] == [("local", False), ("prod", True)]
    assert run(["context", "remove", "prod"]) == 0
    assert contexts.read().current == "local"


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["context", "use", "nowhere"], 1, "there is no context 'nowhere'"),
        (["context", "remove", "local"], 1, "the context local is always there"),
        (["context", "add", "local", "--nats", "nats://p"], 1, "the context local is always there"),
        (["context", "add", "prod"], 2, "which NATS servers?"),
        (["context", "add", "*", "--nats", "nats://p"], 2, "context"),
        (["context"], 2, "say what to do with contexts"),
        (["status", "--context", "nowhere"], 1, "there is no context 'nowhere'"),
    ],
)
def test_mistakes(words: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]):
    """One sentence each."""
    assert run(words) == code
    assert sentence in capsys.readouterr().err


def test_a_damaged_file_is_named(config: Path, capsys: pytest.CaptureFixture[str]):
    """Nothing is guessed, nothing is overwritten."""
    config.parent.mkdir(parents=True)
    config.write_text("{")
    assert run(["status"]) == 2
    assert str(config) in capsys.readouterr().err
    assert config.read_text() == "{"
