"""The rules of the house that no linter knows."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CODE = ("core", "sdk", "components", "services", "cli")
MAX_LINES = 400
LONG_MODULES: dict[str, str] = {}
"""Modules that may be longer than ``MAX_LINES``, each with the reason."""


def tracked_files() -> list[Path]:
    """Every file that git tracks or would track."""
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [ROOT / name for name in listing.splitlines() if (ROOT / name).is_file()]


def modules() -> Iterator[Path]:
    """Every module that people wrote."""
    for path in tracked_files():
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in CODE and not re.search(r"_pb2(_grpc)?\.py$", path.name):
            yield path


def test_modules_are_short():
    """A module of more than 400 lines has a second noun in it, or a reason written down."""
    long = {str(path.relative_to(ROOT)): count for path in modules() if (count := len(path.read_text().splitlines())) > MAX_LINES}
    assert not {name: count for name, count in long.items() if name not in LONG_MODULES}
    assert not set(LONG_MODULES) - set(long), "no longer long: delete the exception"


def test_packages_have_a_charter():
    """A package says in its docstring what it is for."""
    for path in modules():
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text())), f"{path.relative_to(ROOT)} has no docstring"


def test_generated_code_is_up_to_date(tmp_path: Path):
    """The committed protobuf output is what the protos give."""
    protos = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto").rglob("*.proto"))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            "-I",
            "proto",
            f"--python_out={tmp_path}",
            f"--grpc_python_out={tmp_path}",
            *protos,
        ],
        cwd=ROOT,
        check=True,
    )
    for path in tmp_path.rglob("*.py"):
        committed = ROOT / "core" / path.relative_to(tmp_path)
        assert committed.read_text() == path.read_text(), f"{committed.relative_to(ROOT)} is stale: run `make proto`"


def test_no_unfinished_marks():
    """What is not done is not in the code."""
    mark = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")
    for path in tracked_files():
        if path.suffix in {".py", ".sh", ".yaml", ".md", ".js", ".proto"}:
            assert not mark.search(path.read_text()), f"{path.relative_to(ROOT)} has an unfinished mark"


def test_no_path_of_one_machine():
    """Nothing in the repository knows where a developer keeps it."""
    place = re.compile(r"(?<![A-Za-z0-9_.$}])/(work|root|home)/[a-z]")
    for path in tracked_files():
        if path.suffix in {".py", ".sh", ".yaml", ".md", ".toml", ".js", ".json", ".txt", ""}:
            text = path.read_text(errors="replace")
            found = place.search(text)
            assert not found, f"{path.relative_to(ROOT)} names {found[0] if found else ''}…"


def test_constraints_record_no_addresses():
    """The lock file holds versions and hashes only, and every requirement has a hash."""
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    requirements = [block for block in re.split(r"\n(?=\S)", text) if "==" in block]
    assert requirements
    assert all("--hash=sha256:" in block for block in requirements)


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE"])
def test_the_house_has_a_front_door(name: str):
    """A newcomer finds what they look for."""
    assert (ROOT / name).stat().st_size > 0


def test_local_links_lead_somewhere():
    """No document points at a file that is not there."""
    link = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
    for path in tracked_files():
        if path.suffix == ".md":
            for target in link.findall(path.read_text()):
                assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} links to {target}"
