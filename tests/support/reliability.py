"""RELIABILITY.md: a head written by hand, then one ``## …`` section for each harness, which that harness alone writes.

A section stands between ``<!-- begin <name> -->`` and ``<!-- end <name> -->``. Its name is its heading; headings inside begin
with ``###``. Writing one leaves every other byte of the document as it is, so two harnesses never undo each other's record.
"""

import re
from pathlib import Path
from typing import Final

RELIABILITY: Final = Path(__file__).parents[2] / "RELIABILITY.md"

_SECTION: Final = re.compile(
    r"<!-- begin (?P<name>[^\n]+) -->\n## (?P=name)\n\n(?P<body>.*?)\n<!-- end (?P=name) -->\n", re.DOTALL
)
_FORBIDDEN: Final = re.compile(r"^(#{1,2} |<!-- (begin|end) )", re.MULTILINE)


def write_section(name: str, markdown: str, path: Path = RELIABILITY) -> None:
    """Put ``markdown`` (without the section's own heading) into the section ``name``; a new one goes to the end.

    Raises:
        ValueError: the text holds a marker or a heading above ``###``, or the document's markers do not match.
    """
    path.write_text(with_section(path.read_text(), name, markdown))


def with_section(document: str, name: str, markdown: str) -> str:
    """What the document is with this section. Raises as ``write_section`` does."""
    if _FORBIDDEN.search(markdown):
        raise ValueError(f"the section {name} holds a marker or a heading above ###")
    check(document)
    text = f"<!-- begin {name} -->\n## {name}\n\n{markdown.strip()}\n\n<!-- end {name} -->\n"
    for found in _SECTION.finditer(document):
        if found["name"] == name:
            return document[: found.start()] + text + document[found.end() :]
    return document.rstrip("\n") + "\n\n" + text


def sections(document: str) -> dict[str, str]:
    """The sections by name, in their order, each as it was given to ``write_section``."""
    check(document)
    return {found["name"]: found["body"].strip() for found in _SECTION.finditer(document)}


def check(document: str) -> None:
    """Whether the markers are pairs with the section's heading, no name twice, and no ``##`` outside.

    Raises:
        ValueError: they are not.
    """
    names = [found["name"] for found in _SECTION.finditer(document)]
    if len(names) != len(set(names)):
        raise ValueError(f"a section stands twice among {', '.join(names)}")
    for text in (_SECTION.sub("", document), *(found["body"] for found in _SECTION.finditer(document))):
        stray = re.search(r"^(## |<!-- (begin|end) ).*", text, re.MULTILINE)
        if stray:
            raise ValueError(f"not in a section of its own: {stray[0]}")
