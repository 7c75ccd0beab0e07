"""The file as YAML: what is accepted, what is refused, with which sentence and place."""

import os
import time
from pathlib import Path

import pytest

from flowctl.errors import EXIT_USER, InvalidSpecError
from flowctl.spec.load import MAX_FILE_BYTES, load, load_text
from support.spec_texts import VALID, pipeline_text, problems_of

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
LONG_ALIAS = f"a: &a {'x' * 20_000}\nb: [{','.join(['*a'] * 5_000)}]\n"

UNREADABLE: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "p.yaml: the file is empty (flowctl init writes a pipeline to start from)"),
    "only comments": ("# nothing\n\n", "p.yaml: the file is empty (flowctl init writes a pipeline to start from)"),
    "a text": ("hello", 'p.yaml:1:1: found "hello", expected a mapping with apiVersion, kind, metadata or spec'),
    "two documents": (VALID + "---\na: 1\n", "p.yaml:30:1: a second document starts here (write one pipeline per file)"),
    "UTF-16": (VALID.encode("utf-16"), "p.yaml: the file is UTF-16 or UTF-32 (save the file as UTF-8)"),
    "UTF-16 without mark": (VALID.encode("utf-16-le"), "p.yaml: the file starts with NUL bytes: it is binary, UTF-16 or UTF-32"),
    "NUL": (VALID.replace("shop", "sh\0p"), "p.yaml:5:20: the character U+0000 is not allowed in YAML (remove it)"),
    "invalid UTF-8": (b"a: 1\nb: \xff\n", "p.yaml:2:4: the byte 0xff here is not UTF-8 (save the file as UTF-8)"),
    "mark in the middle": ("a: \ufeffb", "p.yaml:1:4: the character U+FEFF is not allowed in YAML (remove it)"),
    "lone surrogate": ("a: \ud800", "p.yaml:1:4: the byte 0xed here is not UTF-8 (save the file as UTF-8)"),
    "2,000 brackets": ("[" * 2_000, "p.yaml:1:65: lists and mappings are nested deeper than 64"),
    "2,000 dashes": ("- " * 2_000, "p.yaml:1:129: lists and mappings are nested deeper than 64"),
    "alias bomb": (
        BOMB,
        "p.yaml:5:29: e[7]: the file is too large: with its aliases written out it has more than 100,000 values",
    ),
    "long alias": (
        LONG_ALIAS,
        "p.yaml:2:632: b[209]: the file is too large: its aliases stand for more than 4,194,304 characters",
    ),
    "alias in itself": ("a: &a [*a]", 'p.yaml:1:8: a[0]: the alias "*a" stands inside its own anchor'),
    "unknown alias": ("a: *b", 'p.yaml:1:4: a: the alias "*b" names an anchor that does not exist'),
    "directive": ("%TAG ! x:\n--- a", "p.yaml:1:1: YAML directives are not accepted (remove the line)"),
    "list as key": ("[a]: b", "p.yaml:1:1: a key must be a plain word or text"),
    "empty key": ('"": b', "p.yaml:1:1: a key is empty"),
    "tab": ("a:\n\tb: 1", "p.yaml:2:1: a tab cannot indent YAML (indent with spaces)"),
    "open quote": ("a: 'b\n", "p.yaml:2:1: a quote is opened and never closed"),
    "open bracket": ("a: [b\n", "p.yaml:2:1: a bracket is opened and not closed, or a ',' is missing"),
    "two colons": ("a: b: c\n", "p.yaml:1:5: a ':' is not possible here"),
    "bad indent": ("a: 1\n  b: 2\n", "p.yaml:2:4: a ':' is not possible here"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_yaml_of_ours_is_refused_in_one_sentence(name: str):
    """One problem, with the place where there is one."""
    text, expected = UNREADABLE[name]
    (found,) = problems_of(text)
    assert found.startswith(expected)


def test_duplicate_keys_tags_and_merge_keys_are_problems_with_places():
    """PyYAML keeps the last of two keys silently; here both places are named, and reading goes on."""
    text = pipeline_text(
        sources="[{id: a, id: b, type: generator, env: {<<: {A: b}}, config: {p: !!python/object:os.system x}}]",
        sinks="[{id: z, type: console, inputs: [a], config: {q: !y z}}]",
    )
    found = problems_of(text)
    assert found[0] == (
        "p.yaml:5:21: spec.sources[0].id: the key stands twice in this mapping, first at line 5, column 14 (keep one of them)"
    )
    assert found[1].startswith("p.yaml:5:51: spec.sources[0].env: merge keys (<<) are not accepted (write the keys out")
    assert any('config.p: tags are not accepted, found "tag:yaml.org,2002:python/object:os.system"' in line for line in found)
    assert any('sinks[0].config.q: tags are not accepted, found "!y"' in line for line in found)


def test_a_byte_order_mark_crlf_and_json_are_fine():
    """What editors on other systems write changes nothing, places included."""
    plain = load_text(VALID).pipeline
    assert load_text(b"\xef\xbb\xbf" + VALID.encode()).pipeline == plain
    crlf = VALID.replace("\n", "\r\n")
    assert load_text(crlf).pipeline == plain
    assert problems_of(crlf.replace("kind: Pipeline", "kind: Pipe"))[0].startswith("p.yaml:2:7: kind:")
    assert problems_of("\u00e9: \U0001f600\nkind: \u2028 1\nfoo: 1")[-1].startswith("p.yaml:3:1: foo: unknown field")


def test_an_alias_stands_for_its_value():
    """Aliases of whole values are the way to share; they may be used at will within the bounds."""
    text = pipeline_text(
        sources="[{id: a, type: generator, restart: &r {max_attempts: 2}}, {id: b, type: generator, restart: *r}]",
        sinks="[{id: z, type: console, inputs: [a, b]}]",
    )
    first, second = load_text(text).pipeline.spec.sources
    assert first.restart == second.restart
    assert first.restart.max_attempts == 2


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        ("1e3", 1000.0),
        ("1.", 1.0),
        ("0x1F", 31),
        ("0o17", 15),
        ("-5", -5),
        ("+.5", 0.5),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("'true'", "true"),
        ('"010"', "010"),
        ("|\n          a", "a\n"),
        ("-", "-"),
        (".", "."),
        ("0", 0),
    ],
)
def test_in_config_words_are_what_yaml_1_2_says(word: str, value: object):
    """No surprise booleans, no sexagesimal, no dates, no octal without its mark."""
    text = VALID.replace(
        'config: {count: 3, rate: 1.5, nested: [{deep: "${env:HOME:-x}"}, null, true]}', f"config:\n        v: {word}"
    )
    if word == "-":
        text = text.replace("v: -", 'v: "-"')
    found = load_text(text).pipeline.spec.sources[0].config["v"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("word", ["010", "-007", ".inf", "-.INF", ".nan", "1e999", "18446744073709551616", "9" * 5_000])
def test_numbers_that_readers_disagree_on_are_refused(word: str):
    """A leading zero, infinity, NaN and what does not fit in 64 bits."""
    (found,) = problems_of(pipeline_text(sources=f"[{{id: a, type: generator, config: {{v: {word}}}}}]"))
    assert found.startswith("p.yaml:5:50: spec.sources[0].config.v: found")


def test_old_booleans_in_config_are_warned_of():
    """``yes`` is obeyed as a text; who expected a boolean is told."""
    loaded = load_text(pipeline_text(sources="[{id: a, type: generator, config: {on: yes, off: 'no'}}]"), "p.yaml")
    assert [str(warning) for warning in loaded.warnings] == [
        (
            "p.yaml:5:51: spec.sources[0].config.on: yes is a text here, not a boolean "
            '(write true or false for a boolean, "yes" for the text)'
        )
    ]


def test_where_a_string_is_expected_words_are_strings_and_numbers_must_be_quoted():
    """The schema decides, as in an editor that knows it."""
    ok = pipeline_text(sources="[{id: a, type: generator, env: {A: no, B: 12:30, C: x, D: '8080'}}]")
    assert load_text(ok).pipeline.spec.sources[0].env == {"A": "no", "B": "12:30", "C": "x", "D": "8080"}
    found = problems_of(pipeline_text(sources="[{id: a, type: generator, env: {A: 8080, B: true, C: 010, D: 1e3, E: ~}}]"))
    assert [line.partition("env.")[2] for line in found] == [
        'A: found the number 8080, expected a string (quote it: "8080")',
        'B: found the boolean true, expected a string (quote it: "true")',
        'C: found the number 010, expected a string (quote it: "010")',
        'D: found the number 1e3, expected a string (quote it: "1e3")',
        "E: found nothing, expected a string",
    ]


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path):
    """A device, a pipe, a directory, a socketless path: refused at once, never waited for."""
    fifo, large, secret = tmp_path / "fifo", tmp_path / "large.yaml", tmp_path / "pipeline.yaml"
    os.mkfifo(fifo)
    large.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    secret.write_text(VALID)
    cases = {
        Path("/dev/zero"): "expected a file, found a device",
        tmp_path: "expected a file, found a directory",
        fifo: "expected a file, found a pipe (use - to read standard input)",
        large: "the file is larger than 1,048,576 bytes",
        tmp_path / "pipline.yaml": f"there is no such file (did you mean {secret}?)",
        secret / "x": "the file cannot be read: Not a directory",
        tmp_path / "a\0b": "the file cannot be read: ",
    }
    for path, expected in cases.items():
        with pytest.raises(InvalidSpecError) as caught:
            load(path)
        assert expected in str(caught.value)
        assert caught.value.exit_code == EXIT_USER
    assert load(secret).pipeline.name == "orders"


def test_nothing_that_a_terminal_obeys_is_shown(tmp_path: Path):
    """Escape sequences in a name, a key or a value come out as text."""
    path = tmp_path / "a\x1b[2J.yaml"
    path.write_text('"k\\e[2J": 1\nkind: "\\e]0;x\\a"\nspec: {sources: "\ud7fc x"}\n')
    with pytest.raises(InvalidSpecError) as caught:
        load(path)
    shown = [str(problem) for problem in caught.value.problems]
    assert all(line.isprintable() for line in shown)
    assert r"a\u001b[2J.yaml:1:1: [\"k\u001b[2J\"]: unknown field".replace(r"\"", '"') in shown[0]


def test_standard_input_is_read_for_a_dash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """``-`` is standard input, bounded alike."""
    path = tmp_path / "in"
    path.write_text(VALID)
    with path.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert load(Path("-")).name == "<stdin>"


SLOW = {
    "list": "[" + "1," * 520_000,
    "keys": "a: b\n" * 200_000,
    "different keys": "".join(f"k{n}: v\n" for n in range(90_000)),
    "text": "a: " + "x" * 1_000_000,
    "block": "a: |\n" + "  x\n" * 250_000,
    "tags": "".join(f"%TAG !{n}! x:\n" for n in range(60_000)) + "--- a",
    "quotes": "'" * 1_000_000,
    "questions": "?" * 1_000_000,
    "brackets": "[]" * 500_000,
    "env": pipeline_text(sources="[{id: a, type: generator, env: {" + ",".join(f"'{n} ': 1" for n in range(45_000)) + "}}]"),
    "references": pipeline_text(sources="[{id: a, type: generator, config: {x: '" + "${" * 500_000 + "'}}]"),
    "open reference": pipeline_text(sources="[{id: a, type: generator, config: {x: '" + "${env:A" * 140_000 + "'}}]"),
    "components": pipeline_text(sources="[" + ",".join(f"{{id: a{n}}}" for n in range(30_000)) + "]"),
}


@pytest.mark.parametrize("name", SLOW)
def test_any_file_is_answered_in_bounded_time(name: str):
    """A megabyte of anything has its answer within ten seconds."""
    start = time.process_time()
    assert problems_of(SLOW[name])
    assert time.process_time() - start < 10
