"""References: parsed strictly, filled in where the component starts, never shown."""

from pathlib import Path

import pytest

from flowctl.errors import InvalidSpecError
from flowctl.spec.files import read_bounded
from flowctl.spec.references import MAX_FILE_CHARACTERS, Malformed, Reference, check, find, has_reference, resolve

ENV = {"NAME": "ada", "EMPTY": "", "TRICK": "${env:NAME}"}
FILES = {"/run/token": "s3cret\r\n", "two": "a\n\n", "nul": "a\0b", "long": "x" * (MAX_FILE_CHARACTERS + 1)}


def read(path: str) -> str:
    """A file, from memory."""
    if path not in FILES:
        raise FileNotFoundError(2, "No such file or directory", path)
    return FILES[path]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain $5 {x}", "plain $5 {x}"),
        ("${env:NAME}", "ada"),
        ("a-${env:NAME}-${env:NAME}", "a-ada-ada"),
        ("${env:EMPTY}", ""),
        ("${env:GONE:-x y}", "x y"),
        ("${env:EMPTY:-x}", "x"),
        ("${env:GONE:-}", ""),
        ("${env:NAME:-x}", "ada"),
        ("$${env:NAME}", "${env:NAME}"),
        ("$$${env:NAME}", "$${env:NAME}"),
        ("${env:TRICK}", "${env:NAME}"),
        ("${file:/run/token}", "s3cret"),
        ("${file:two}", "a\n"),
    ],
)
def test_a_reference_is_filled_in(text: str, expected: str):
    """Once, with a shell's rule for defaults, and not looked at again."""
    assert resolve(text, ENV, read) == expected


def test_every_missing_value_is_named_and_no_content_is_shown():
    """At any depth, all at once; the structure and other values are kept."""
    config = {"a": [{"b": "${env:NAME}"}], "n": 1, "t": True, "z": None}
    assert resolve(config, ENV, read) == {"a": [{"b": "ada"}], "n": 1, "t": True, "z": None}
    wrong = {
        "a": ["${env:GONE}"],
        "b": "${file:gone}",
        "c": "${file:nul}",
        "d": "${file:long}",
        "e": "${HOME}",
        "ok": "${file:/run/token}",
    }
    with pytest.raises(InvalidSpecError) as caught:
        resolve(wrong, ENV, read, ("spec", "sources", 0, "config"))
    assert [problem.message for problem in caught.value.problems] == [
        "spec.sources[0].config.a[0]: the environment variable GONE is not set on this host",
        'spec.sources[0].config.b: the file "gone" cannot be read on this host: No such file or directory',
        'spec.sources[0].config.c: the file "nul" holds a NUL character',
        'spec.sources[0].config.d: the file "long" is longer than 262,144 characters',
        'spec.sources[0].config.e: "${HOME}" is not a reference',
    ]
    assert "s3cret" not in str(caught.value)


def test_files_are_read_through_the_same_bounds_as_pipelines(tmp_path: Path):
    """A reference to a device or directory is refused, not waited for."""
    with pytest.raises(InvalidSpecError, match="expected a file, found a device"):
        resolve("${file:/dev/zero}", {}, lambda path: read_bounded(Path(path), 10).decode())
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(InvalidSpecError, match="is not UTF-8"):
        resolve(f"${{file:{tmp_path}/binary}}", {}, lambda path: read_bounded(Path(path), 10).decode())


def test_find_and_check_are_pure_and_strict():
    """The pieces of a text, and what looks like a reference and is none."""
    assert find("a${env:B:-c}d") == ["a", Reference("env", "B", "c"), "d"]
    assert find("${file:x}") == [Reference("file", "x")]
    for text in ("${", "${env:}", "${env:1}", "${file:}", "${ENV:A}", "${env:A:x}", "${a\n}"):
        assert any(isinstance(piece, Malformed) for piece in find(text)), text
        assert check({"k": [text]}, ("config",))[0].path == ("config", "k", 0)
    assert has_reference("x${env:A}")
    assert not has_reference("$${env:A} ${HOME}")
