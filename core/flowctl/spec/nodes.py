"""A YAML text as a tree of nodes that know where they stand, read strictly and within bounds.

PyYAML (its C parser where it is there) delivers syntax events; everything else is decided here. Accepted: one UTF-8 document of
mappings, lists and scalars, with anchors and aliases. Refused: duplicate keys, tags, directives, merge keys (``<<``, which
YAML 1.2 does not have), keys that are no scalars, further documents, control characters, and whatever passes the bounds: depth
and, with every alias written out, nodes and characters.
"""

import bisect
import re
from collections.abc import Iterator
from typing import Any, Final, Literal, cast

import msgspec

from flowctl.spec.problems import Path, Problem, quoted

MAX_DEPTH: Final = 64
MAX_NODES: Final = 100_000
MAX_CHARACTERS: Final = 4 * 1024 * 1024

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_DIRECTIVE = re.compile(r"(?m)\A(?:[ \t]*(?:#.*)?\r?\n)*%")

# what the parser says -> what a person can act on
_SYNTAX: Final = (
    ("cannot start any token", "'\\t'", "a tab cannot indent YAML", "indent with spaces"),
    ("cannot start any token", "", "an unquoted value cannot start with this character", "quote the value"),
    (
        "mapping values are not allowed",
        "",
        "a ':' is not possible here",
        "indent this line like its neighbours, or quote the value",
    ),
    ("unexpected end of stream", "", "a quote is opened and never closed", None),
    ("could not find expected ':'", "", "expected a ':' after the key", "indent this line like its neighbours"),
    ("did not find expected key", "", "the indentation does not fit the lines above", "indent this line like its neighbours"),
    ("expected <block end>", "", "the indentation does not fit the lines above", "indent this line like its neighbours"),
    ("did not find expected '-' indicator", "", "a list item must start with '- '", "indent this line like its neighbours"),
    ("did not find expected ',' or", "", "a bracket is opened and not closed, or a ',' is missing", None),
    ("did not find expected node content", "", "a bracket is opened and not closed, or a ',' is too much", None),
    ("expected the node content", "", "a bracket is opened and not closed, or a ',' is too much", None),
    ("expected ',' or", "", "a bracket is opened and not closed, or a ',' is missing", None),
    ("undefined alias", "", "an alias names an anchor that does not exist", None),
    ("invalid Unicode", "", "an escape names half of a character or none at all", "write the character itself"),
    ("unknown escape character", "", "a double-quoted text has an unknown escape", "use single quotes, or write \\\\"),
    ("expected <document start>", "", "the text goes on where it should end", "indent this line like its neighbours"),
)


class Node(msgspec.Struct, frozen=True):
    """One scalar, list or mapping.

    ``index`` is the character at which it starts. ``plain`` tells an unquoted scalar. ``nodes``, ``characters`` and ``height``
    measure what lies below, aliases written out.
    """

    kind: Literal["scalar", "list", "mapping"]
    index: int
    text: str = ""
    plain: bool = False
    items: list["Node"] = msgspec.field(default_factory=list["Node"])
    entries: dict[str, tuple[int, "Node"]] = msgspec.field(default_factory=dict[str, tuple[int, "Node"]])
    nodes: int = 1
    characters: int = 0
    height: int = 1


class Unreadable(Exception):  # noqa: N818 - it carries a problem to the loader and is never shown itself
    """The text is no YAML document within the bounds; ``problem`` says why."""

    def __init__(self, message: str, *, index: int | None = None, hint: str | None = None, path: Path = ()) -> None:
        super().__init__(message)
        self.problem = Problem(path=path, message=message, hint=hint, index=index)


class Lines:
    """Where the lines of a text begin: turns a character's index into line and column, both counted from 1."""

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in _LINE_BREAK.finditer(text))]

    def place(self, index: int) -> tuple[int, int]:
        """Line and column of a character."""
        line = bisect.bisect_right(self._starts, index)
        return line, index - self._starts[line - 1] + 1


def decode(content: bytes) -> str:
    """The text of a file: UTF-8, with or without a byte order mark.

    Raises:
        Unreadable: if it is something else.
    """
    utf8 = "save the file as UTF-8"
    if content.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        raise Unreadable("the file is UTF-16 or UTF-32", hint=utf8)
    if b"\x00" in content[:4]:
        raise Unreadable("the file starts with NUL bytes: it is binary, UTF-16 or UTF-32", hint=utf8)
    text = content.removeprefix(b"\xef\xbb\xbf")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        index = len(text[: error.start].decode("utf-8"))
        raise Unreadable(f"the byte 0x{text[error.start]:02x} here is not UTF-8", index=index, hint=utf8) from None


def parse(text: str, lines: Lines) -> tuple[Node, list[Problem]]:
    """The tree of the text's one document, and the problems that do not hinder reading on (duplicate keys, tags, merge keys).

    Raises:
        Unreadable: if there is no document, more than one, a syntax error, or a bound is passed.
    """
    bad = _UNPRINTABLE.search(text)
    if bad:
        raise Unreadable(f"the character U+{ord(bad[0]):04X} is not allowed in YAML", index=bad.start(), hint="remove it")
    directive = _DIRECTIVE.match(text)
    if directive:
        raise Unreadable("YAML directives are not accepted", index=directive.end() - 1, hint="remove the line")
    return _Composer(text, lines).document()


class _Event(msgspec.Struct, frozen=True, gc=False):
    """One syntax event: PyYAML's, typed."""

    kind: str
    index: int
    text: str = ""
    style: str | None = None
    tag: str | None = None
    anchor: str = ""


class _Composer:
    """Builds the tree from syntax events."""

    def __init__(self, text: str, lines: Lines) -> None:
        self._events = _events(text)
        self._lines = lines
        self._anchors: dict[str, Node | None] = {}
        self._nodes = 0
        self._copied = 0
        self._problems: list[Problem] = []

    def document(self) -> tuple[Node, list[Problem]]:
        next(self._events)  # the stream's start
        event = next(self._events)
        if event.kind != "DocumentStart":
            raise Unreadable("the file is empty", hint="flowctl init writes a pipeline to start from")
        root = self._node(next(self._events), (), 1)
        next(self._events)  # the document's end
        event = next(self._events)
        if event.kind == "DocumentStart":
            raise Unreadable("a second document starts here", index=event.index, hint="write one pipeline per file")
        return root, self._problems

    def _node(self, event: _Event, path: Path, depth: int) -> Node:
        kind = event.kind
        if kind == "Alias":
            return self._alias(event, path, depth)
        self._count(1, event.index, path)
        if depth > MAX_DEPTH:
            raise Unreadable(f"lists and mappings are nested deeper than {MAX_DEPTH}", index=event.index)
        if event.tag is not None:
            message = f"tags are not accepted, found {quoted(event.tag)}"
            self._report(path, message, event.index, "the pipeline's schema decides the types")
        if event.anchor:
            self._anchors[event.anchor] = None
        if kind == "Scalar":
            node = self._scalar(event, path)
        elif kind == "SequenceStart":
            node = self._list(event, path, depth)
        else:
            node = self._mapping(event, path, depth)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _alias(self, event: _Event, path: Path, depth: int) -> Node:
        name = quoted(f"*{event.anchor}")
        if event.anchor not in self._anchors:
            raise Unreadable(f"the alias {name} names an anchor that does not exist", index=event.index, path=path)
        node = self._anchors[event.anchor]
        if node is None:
            raise Unreadable(f"the alias {name} stands inside its own anchor", index=event.index, path=path)
        self._count(node.nodes, event.index, path, node.characters)
        if depth + node.height - 1 > MAX_DEPTH:
            raise Unreadable(f"lists and mappings are nested deeper than {MAX_DEPTH}", index=event.index)
        return node

    def _scalar(self, event: _Event, path: Path) -> Node:
        text = event.text
        bad = _SURROGATE.search(text)
        if bad:
            self._report(path, f"U+{ord(bad[0]):04X} is half of a character", event.index)
            text = _SURROGATE.sub("?", text)
        return Node("scalar", event.index, text, plain=not event.style, characters=len(text))

    def _list(self, event: _Event, path: Path, depth: int) -> Node:
        items: list[Node] = []
        while (following := next(self._events)).kind != "SequenceEnd":
            items.append(self._node(following, (*path, len(items)), depth + 1))
        return _branch("list", event.index, items, items=items)

    def _mapping(self, event: _Event, path: Path, depth: int) -> Node:
        entries: dict[str, tuple[int, Node]] = {}
        while (key := next(self._events)).kind != "MappingEnd":
            word = self._key(key, path)
            value = self._node(next(self._events), (*path, word), depth + 1)
            first = entries.get(word)
            if first is not None:
                line, column = self._lines.place(first[0])
                message = f"the key stands twice in this mapping, first at line {line}, column {column}"
                self._report((*path, word), message, key.index, "keep one of them")
            elif word == "<<" and not key.style:
                hint = 'write the keys out, or share one value with an alias; quote "<<" if it is a name'
                self._report(path, "merge keys (<<) are not accepted", key.index, hint)
            else:
                entries[word] = (key.index, value)
        return _branch("mapping", event.index, [value for _, value in entries.values()], entries=entries)

    def _key(self, event: _Event, path: Path) -> str:
        if event.kind != "Scalar" or event.tag is not None or event.anchor:
            raise Unreadable("a key must be a plain word or text", index=event.index, path=path)
        self._count(1, event.index, path)
        word = event.text
        if not word:
            raise Unreadable("a key is empty", index=event.index, path=path)
        if _SURROGATE.search(word):
            raise Unreadable("a key holds half of a character", index=event.index, path=path)
        return word

    def _count(self, nodes: int, index: int, path: Path, copied: int = 0) -> None:
        self._nodes += nodes
        self._copied += copied
        if self._nodes > MAX_NODES:
            message = f"the file is too large: with its aliases written out it has more than {MAX_NODES:,} values"
            raise Unreadable(message, index=index, path=path)
        if self._copied > MAX_CHARACTERS:
            message = f"the file is too large: its aliases stand for more than {MAX_CHARACTERS:,} characters"
            raise Unreadable(message, index=index, path=path)

    def _report(self, path: Path, message: str, index: int, hint: str | None = None) -> None:
        self._problems.append(Problem(path=path, message=message, hint=hint, index=index))


def _branch(
    kind: Literal["list", "mapping"],
    index: int,
    children: list[Node],
    *,
    items: list[Node] | None = None,
    entries: dict[str, tuple[int, Node]] | None = None,
) -> Node:
    return Node(
        kind,
        index,
        items=items or [],
        entries=entries or {},
        nodes=1 + sum(child.nodes for child in children),
        characters=sum(child.characters for child in children),
        height=1 + max((child.height for child in children), default=0),
    )


def _events(text: str) -> Iterator[_Event]:
    """The syntax events of a text, from libyaml or, where PyYAML was built without it, from Python."""
    import yaml

    loader: Any = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
    try:
        for event in cast("Iterator[Any]", yaml.parse(text, Loader=loader)):
            yield _Event(
                type(event).__name__.removesuffix("Event"),
                event.start_mark.index,
                getattr(event, "value", ""),
                getattr(event, "style", None),
                getattr(event, "tag", None),
                getattr(event, "anchor", None) or "",
            )
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _syntax_problem(error.problem or error.context or "", text, None if mark is None else mark.index) from None
    except yaml.YAMLError as error:
        raise Unreadable(f"the file is not YAML: {str(error).splitlines()[0]}") from None
    except ValueError as error:  # the pure parser's own slip for escapes beyond Unicode
        raise Unreadable(f"the file is not YAML: {error}") from None


def _syntax_problem(said: str, text: str, index: int | None) -> Unreadable:
    at = repr(text[index]) if index is not None and index < len(text) else ""
    for phrase, character, message, hint in _SYNTAX:
        if phrase in said and (not character or character == at):
            return Unreadable(message, index=index, hint=hint)
    return Unreadable(f"the file is not YAML: {said or 'it cannot be parsed'}", index=index)
