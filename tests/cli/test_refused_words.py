"""What a command is given and cannot use is the user's: exit code 2, one sentence, no file with details of a crash."""

import asyncio
import ctypes
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from flowctl_cli.__main__ import run
from support.fake_plane import FakePlane, install
from support.flowctl import COMMAND, Flowctl
from support.journals import stop

PR_CAPBSET_DROP: Final = 24
CAP_DAC_OVERRIDE: Final = 1
CAP_DAC_READ_SEARCH: Final = 2


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> FakePlane:
    """A control plane with an empty journal."""
    fake = FakePlane({})
    install(monkeypatch, fake)
    return fake


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A directory that nobody may look into."""
    directory = tmp_path / "closed"
    (directory / "state").mkdir(parents=True)
    directory.chmod(0)
    yield directory
    directory.chmod(0o700)


def _as_anybody() -> Callable[[], None] | None:
    """What takes the right from a child to look into any directory; the superuser has it, and nobody else.

    The interpreter may be in the superuser's own directory, so the child stays the superuser.
    """
    if os.geteuid() != 0:
        return None
    libc = ctypes.CDLL(None, use_errno=True)

    def drop() -> None:
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "a capability cannot be dropped")

    return drop


def refused(flowctl: Flowctl, state_dir: Path, *words: str, expect: int = 2) -> str:
    """What a command without the right to look everywhere says."""
    try:
        done = subprocess.run(
            [*COMMAND, *words],
            cwd=flowctl.directory,
            env={**flowctl.environment, "FLOWCTL_STATE_DIR": str(state_dir)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            preexec_fn=_as_anybody(),
        )
    except subprocess.SubprocessError as error:
        pytest.skip(f"this superuser cannot give up its rights: {error}")
    assert done.returncode == expect, done.stderr
    assert "crash-" not in done.stderr
    return done.stdout + done.stderr


def test_a_state_directory_that_may_not_be_read(tmp_path: Path, closed: Path):
    """Named, with the system's reason; also if only what is in it may not be read. doctor goes on to its other findings."""
    flowctl = Flowctl(tmp_path)
    for state_dir in (closed / "state", closed):
        for words in (["status"], ["history"], ["down", "orders"], ["server", "status"], ["server", "stop"]):
            said = refused(flowctl, state_dir, *words)
            assert f"the state directory {state_dir} cannot be read: Permission denied" in said
    assert f"{closed} cannot be written" in refused(flowctl, closed, "doctor", expect=1)


@pytest.mark.parametrize("file", ["server.json", "server.lock"])
def test_a_server_of_somebody_else(tmp_path: Path, file: str):
    """Who may look into the directory and not into what a server left there is not told that none runs."""
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    (state_dir / file).write_text("{}")
    (state_dir / file).chmod(0)
    flowctl = Flowctl(tmp_path)
    said = refused(flowctl, state_dir, "server", "stop")
    assert f"the state directory {state_dir} cannot be read: Permission denied" in said
    assert "cannot be read: Permission denied" in refused(flowctl, state_dir, "doctor", expect=1)


def test_an_export_to_where_nobody_may_look(tmp_path: Path, closed: Path):
    """Before anything else is done; the same for a range of a replay that is no file's name."""
    flowctl = Flowctl(tmp_path)
    assert "closed: it cannot be written: Permission denied" in refused(
        flowctl, tmp_path / "state", "journal", "export", str(closed / "a.zip")
    )
    assert "closed/a.zip: it cannot be read" in refused(flowctl, tmp_path / "state", "replay", str(closed / "a.zip"))


@pytest.mark.usefixtures("control")
@pytest.mark.parametrize("name", ["x" * 256, "ü" * 128 + ".zip"])
def test_an_export_with_a_name_that_is_too_long(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    """255 bytes is what file systems take."""
    assert run(["journal", "export", str(tmp_path / name)]) == 2
    assert "it cannot be written: File name too long" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.zip"))


async def test_the_longest_name_is_good(tmp_path: Path, control: FakePlane):
    """What an export is called while it is written is no longer than that."""
    await control.store.journal.append([stop()], actor="test")
    name = "x" * 251 + ".zip"
    assert await asyncio.to_thread(run, ["journal", "export", str(tmp_path / name)]) == 0
    assert [each.name for each in tmp_path.iterdir()] == [name]


async def test_an_export_for_which_there_is_no_room(tmp_path: Path, control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """Nothing is left of it."""
    await control.store.journal.append([stop()], actor="test")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    try:
        assert await asyncio.to_thread(run, ["journal", "export", str(tmp_path / "a.zip")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert f"{tmp_path}: it cannot be written: File too large" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["test", "dead-letters", "redrive", "forget"])
@pytest.mark.parametrize("route", ["my.route", "my route", "Alerts", "*", ">"])
def test_what_cannot_be_a_routes_name(control: FakePlane, verb: str, route: str, capsys: pytest.CaptureFixture[str]):
    """Nobody is asked."""
    assert run(["notify", verb, route]) == 2
    assert "is not a valid route id" in capsys.readouterr().err
    assert not control.asked


def test_a_route_to_forget_has_a_name(control: FakePlane):
    """Elsewhere none means all."""
    assert run(["notify", "forget", ""]) == 2
    assert not control.asked


@pytest.mark.usefixtures("control")
@pytest.mark.parametrize("span", ["inf", "nan", "-inf"])
@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["replay"], "--tolerance"),
        (["status"], "--timeout"),
        (["status", "--watch"], "--every"),
        (["watch"], "--exec-timeout"),
        (["down", "orders"], "--timeout"),
        (["server", "stop"], "--timeout"),
        (["notify", "test"], "--timeout"),
    ],
)
def test_a_length_of_time_has_an_end(words: list[str], option: str, span: str, capsys: pytest.CaptureFixture[str]):
    """NaN lies between all bounds; with an endless tolerance everything would be the same."""
    assert run([*words, f"{option}={span}"]) == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize("at", ["900000 days ago", "9" * 400 + " days ago", "9" * 400 + "s", "400000 days ago"])
async def test_an_instant_before_all_dates(control: FakePlane, at: str, capsys: pytest.CaptureFixture[str]):
    """One sentence, whether it is refused as written or lies before the journal's first entry."""
    await control.store.journal.append([stop()], actor="test")
    assert await asyncio.to_thread(run, ["status", "--at", at]) == 2
    assert capsys.readouterr().err.startswith("error: ")
