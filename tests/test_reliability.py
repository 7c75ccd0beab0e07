"""RELIABILITY.md is written by several harnesses, and none of them touches what another has written."""

from pathlib import Path

import pytest

from support.reliability import RELIABILITY, sections, with_section, write_section


def test_the_document_round_trips(tmp_path: Path):
    """Writing every section again as it is changes no byte; writing one changes that one alone."""
    document = RELIABILITY.read_text()
    found = sections(document)
    assert found
    copy = tmp_path / "RELIABILITY.md"
    copy.write_text(document)
    for name, markdown in reversed(found.items()):
        write_section(name, markdown, copy)
    assert copy.read_text() == document
    for name in found:
        changed = with_section(document, name, "Another text.")
        assert sections(changed) == {**found, name: "Another text."}
        assert with_section(changed, name, found[name]) == document


def test_each_section_is_in_the_head():
    """The table at the top says of every section how it is made again."""
    document = RELIABILITY.read_text()
    head = document.partition("<!-- begin ")[0]
    assert [name for name in sections(document) if f"| {name} |" not in head] == []


def test_a_new_section_comes_last():
    """After what was there, in the form in which it is found again."""
    document = with_section(with_section("# Title\n\nWords.\n", "One", "first\n"), "Two", "### Part\n\nsecond")
    assert document.startswith(
        "# Title\n\nWords.\n\n<!-- begin One -->\n## One\n\nfirst\n\n<!-- end One -->\n\n<!-- begin Two -->"
    )
    assert sections(document) == {"One": "first", "Two": "### Part\n\nsecond"}


@pytest.mark.parametrize("markdown", ["## Mine", "a\n# Mine", "<!-- begin Other -->", "text\n<!-- end One -->"])
def test_a_section_stays_inside_its_markers(markdown: str):
    """Nothing is written that would be taken for another section."""
    with pytest.raises(ValueError, match="One"):
        with_section("# Title\n", "One", markdown)


@pytest.mark.parametrize(
    "document",
    [
        "# Title\n\n## Loose\n",
        "<!-- begin One -->\n## One\n\ntext\n",
        "<!-- begin One -->\n## Two\n\ntext\n\n<!-- end One -->\n",
        "<!-- begin One -->\n## One\n\na\n\n<!-- end One -->\n" * 2,
    ],
)
def test_broken_markers_are_refused(document: str):
    """A document that somebody has edited wrongly is not made worse."""
    with pytest.raises(ValueError, match="section"):
        with_section(document, "Any", "text")
