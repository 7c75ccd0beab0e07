"""What is promised of the help, the reference pages and the start-up time."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from flowctl import settings_reference
from flowctl_cli import reference
from flowctl_cli.__main__ import run
from flowctl_cli.app import SUMMARIES, app

ROOT = Path(__file__).parents[2]
HEAVY = ("nats", "grpc", "pydantic_settings", "rich", "rich.table", "yaml", "structlog", "aiohttp", "docker", "kubernetes")
SERVICES = ("flowctl_registry", "flowctl_agent", "flowctl_orchestrator", "flowctl_health", "flowctl_notify")
PROGRAM = """\
import sys
from flowctl_cli.__main__ import run
code = run(sys.argv[1:])
sys.stderr.write(" ".join(sys.modules))
sys.exit(code)
"""


def commands() -> list[list[str]]:
    """Every command and sub-command."""
    root: Any = typer.main.get_command(app)
    found: list[list[str]] = []
    for name in SUMMARIES:
        command = root.get_command(None, name)
        found += [[name], *([name, sub] for sub in getattr(command, "commands", {}))]
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_explains_itself(words: list[str], capsys: pytest.CaptureFixture[str]):
    """`--help` exits 0, shows examples that begin with the command, and takes the common options."""
    assert run([*words, "--help"]) == 0
    text = capsys.readouterr().out
    examples = text.partition("Examples:")[2]
    assert f"flowctl {' '.join(words)}" in examples
    assert "--state-dir" in text
    assert "--log-level" in text


@pytest.mark.parametrize("name", SUMMARIES)
def test_the_list_of_commands_tells_what_each_does(name: str, capsys: pytest.CaptureFixture[str]):
    """Summaries are written without importing the command; each command exists and has help of its own."""
    run(["--help"])
    assert SUMMARIES[name] in " ".join(capsys.readouterr().out.split())


def test_exit_codes_stand_in_the_help(capsys: pytest.CaptureFixture[str]):
    """Scripts rely on them."""
    run(["--help"])
    text = capsys.readouterr().out
    for code in ("0 ", "1 ", "2 ", "3 ", "4 ", "130"):
        assert f"\n    {code}" in text


def test_the_reference_page_is_what_the_help_says():
    """docs/cli.md is generated: `python -m flowctl_cli.reference > docs/cli.md`."""
    assert (ROOT / "docs" / "cli.md").read_text() == reference.reference()


def test_the_settings_page_is_what_the_settings_say():
    """docs/settings.md is generated: `python -m flowctl.settings_reference > docs/settings.md`."""
    assert (ROOT / "docs" / "settings.md").read_text() == settings_reference.reference()


@pytest.mark.parametrize("words", [["--help"], ["version"], ["up", "--help"], ["status", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]):
    """`flowctl --help` must answer at once: no service, no network library, no table drawing."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True, timeout=30)
    loaded = set(done.stderr.split())
    assert not loaded & set(HEAVY)
    assert not [name for name in loaded if name.startswith(SERVICES)]
    if words == ["--help"]:
        assert "pydantic" not in loaded, "Typer itself needs it, and only to read a command's options"


def test_usage_errors_exit_with_2(capsys: pytest.CaptureFixture[str]):
    """An unknown command, an unknown option, a missing argument, a bad value."""
    for words in (
        ["nope"],
        ["status", "--nope"],
        ["logs"],
        ["up"],
        ["status", "--timeout", "soon"],
        ["--log-level", "loud", "version"],
    ):
        assert run(words) == 2, words
    assert "Traceback" not in capsys.readouterr().err
