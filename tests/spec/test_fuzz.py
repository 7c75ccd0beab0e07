"""Whatever stands in the file: a pipeline or ``InvalidSpecError``, and nothing else."""

import re
import time
from typing import Any, cast

import msgspec
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flowctl.errors import InvalidSpecError, UserError
from flowctl.spec.load import load_text
from flowctl.spec.model import Pipeline
from flowctl.spec.templates import TEMPLATES
from support.spec_texts import VALID

WORDS = st.sampled_from(
    ["id", "a", "numbers", "010", "no", "~", "1e3", "*x", "&x", "<<", "!!str", "${env:", "\0", "-", "? ", "...", "---"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | WORDS, inner, max_size=4),
    max_leaves=8,
)


def loads(text: str | bytes) -> Pipeline | None:
    """The pipeline, or None after a proper refusal: in time, with sentences on one line, each with a place."""
    start = time.process_time()
    pipeline: Pipeline | None = None
    problems: list[UserError] = []
    try:
        pipeline = load_text(text, "p.yaml").pipeline
    except InvalidSpecError as refusal:
        problems = refusal.problems
    assert time.process_time() - start < 5
    assert bool(problems) == (pipeline is None)
    for problem in problems:
        assert problem.message
        assert (problem.place or "").startswith("p.yaml")
        assert str(problem).isprintable()
    return pipeline


@given(st.binary(max_size=300))
@example(b"\xff\xfe")
@example(b"%")
@example(b"\xef\xbb\xbf0\xff")
@example(b'a: "\\ud800"')
def test_random_bytes(content: bytes):
    """Bytes of no meaning."""
    assert loads(content) is None


@given(st.text(alphabet="abc:-?[]{}&*!|>'\"%@`#, \n\t019~<.$\u00e9\ud800\ufeff\u2028\U0001f600", max_size=120))
def test_random_yaml_like_text(text: str):
    """Text of YAML's own characters."""
    assert loads(text) is None


@settings(max_examples=300)
@given(st.data())
def test_a_valid_file_with_cuts_and_insertions(data: st.DataObject):
    """A file that was torn, or into which something was typed."""
    start = data.draw(st.integers(0, len(VALID)))
    end = data.draw(st.integers(start, min(len(VALID), start + 20)))
    loads(VALID[:start] + data.draw(st.text(max_size=5) | WORDS) + VALID[end:])


@settings(max_examples=300)
@given(st.data())
def test_a_valid_structure_with_a_part_replaced(data: st.DataObject):
    """Anything at all in the place of one part, at any depth; what loads survives being written and read again."""
    tree: Any = yaml.safe_load(VALID)
    part: Any = tree

    def steps() -> list[Any]:
        return list(part) if isinstance(part, dict) else list(range(len(part)))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]

    for _ in range(data.draw(st.integers(0, 6))):
        inner: Any = part[data.draw(st.sampled_from(steps()))]
        if not isinstance(inner, dict | list) or not inner:
            break
        part = cast("Any", inner)
    part[data.draw(st.sampled_from(steps()))] = data.draw(VALUES)
    pipeline = loads(yaml.safe_dump(tree, allow_unicode=True))
    if pipeline is not None:
        assert_round_trip(pipeline)


def assert_round_trip(pipeline: Pipeline) -> None:
    """Written as JSON, which is YAML, and read again it is the same; msgspec's own strict conversion agrees."""
    content = msgspec.json.encode(pipeline)
    # what JSON may hold as it is and YAML may not: DEL, C1 controls and the like
    escaped = re.sub("[\x7f-\x9f\ufeff\ufffe\uffff]", lambda match: f"\\u{ord(match[0]):04x}", content.decode())
    assert load_text(escaped).pipeline == pipeline
    assert msgspec.json.decode(content, type=Pipeline) == pipeline


def test_valid_files_survive_being_written_and_read_again():
    """dump(load(x)) loads as the same value."""
    for text in (VALID, *(template.pipeline for template in TEMPLATES.values())):
        assert_round_trip(load_text(text).pipeline)
