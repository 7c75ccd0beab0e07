"""A pipeline's graph as text: for Mermaid, for Graphviz, and drawn for a terminal.

The drawing has a column for each level and boxes from left to right. Each component that feeds another row has a vertical line
of its own between the columns, so that no two edges share one; where an edge crosses another's line it goes under it. An edge
that skips a level runs straight through a row of its own. What cannot be drawn without doubt is listed instead.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from flowctl.topology import Graph, GraphNode

_TIMES: Final = "\u00d7"
_ROW_HEIGHT: Final = 3
_MAX_ROWS: Final = 40
_UP, _DOWN, _LEFT, _RIGHT = 1, 2, 4, 8

_LINES: Final = {
    _LEFT | _RIGHT: "─", _UP | _DOWN: "│", _DOWN | _RIGHT: "┌", _DOWN | _LEFT: "┐", _UP | _RIGHT: "└", _UP | _LEFT: "┘",
    _UP | _DOWN | _RIGHT: "├", _UP | _DOWN | _LEFT: "┤", _LEFT | _RIGHT | _DOWN: "┬", _LEFT | _RIGHT | _UP: "┴",
    _UP | _DOWN | _LEFT | _RIGHT: "┼", _LEFT: "─", _RIGHT: "─", _UP: "│", _DOWN: "│",
}  # fmt: skip
_ASCII: Final = str.maketrans("─│┌┐└┘├┤┬┴┼▶\u00d7", "-|+++++++++>x")


def to_mermaid(graph: Graph) -> str:
    """A Mermaid flowchart, sources rounded and sinks as stores."""
    names = {id_: f"n{number}" for number, id_ in enumerate(graph.nodes)}
    shapes = {"source": '(["{}"])', "processor": '["{}"]', "sink": '[("{}")]'}
    lines = [f"  {names[node.id]}{shapes[node.kind].format(_label(node))}" for node in graph.nodes.values()]
    edges = [f"  {names[edge.upstream]} --> {names[edge.downstream]}" for edge in graph.edges]
    return "\n".join(["flowchart LR", *lines, *edges]) + "\n"


def to_dot(graph: Graph) -> str:
    """A directed graph for Graphviz."""
    shapes = {"source": "oval", "processor": "box", "sink": "cylinder"}
    lines = [f'  "{node.id}" [label="{_label(node)}", shape={shapes[node.kind]}];' for node in graph.nodes.values()]
    edges = [f'  "{edge.upstream}" -> "{edge.downstream}";' for edge in graph.edges]
    return "\n".join(["digraph pipeline {", "  rankdir=LR;", *lines, *edges, "}"]) + "\n"


def to_text(graph: Graph, *, ascii_only: bool = False, width: int = 120) -> str:
    """The graph drawn for a terminal of ``width`` columns, or as a list where a drawing would not fit or not be clear."""
    drawing = _Drawing(graph).text()
    if drawing is None or max(len(line) for line in drawing.splitlines()) > width:
        drawing = _listing(graph)
    return drawing.translate(_ASCII) if ascii_only else drawing


def _label(node: GraphNode) -> str:
    return node.id if node.replicas == 1 else f"{node.id} {_TIMES}{node.replicas}"


def _listing(graph: Graph) -> str:
    """Every component on a line, with its readers."""
    labels = [_label(node) for node in graph.nodes.values()]
    longest = max(len(label) for label in labels)
    lines: list[str] = []
    for label, node in zip(labels, graph.nodes.values(), strict=True):
        readers = f" ─▶ {', '.join(node.downstreams)}" if node.downstreams else ""
        lines.append(f"{label:<{longest}}{readers}".rstrip())
    return "\n".join(lines) + "\n"


class _Cell(msgspec.Struct):
    """What stands in one row of one column: a component, or an edge on its way (``node`` None)."""

    row: int
    node: GraphNode | None
    readers: list["_Cell"] = msgspec.field(default_factory=list["_Cell"])
    track: int | None = None


class _Drawing:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._columns = _cells(graph)

    def text(self) -> str | None:
        """The drawing, or None where it would be too high or lines would run into each other."""
        rows = max(len(column) for column in self._columns)
        if rows > _MAX_ROWS:
            return None
        canvas = _Canvas(rows * _ROW_HEIGHT)
        left = 0
        for number, column in enumerate(self._columns):
            last = number == len(self._columns) - 1
            right = left + max(len(_label(cell.node)) + 4 if cell.node else 1 for cell in column)
            for cell in column:
                canvas.cell(cell, left, right, feeds=bool(cell.readers))
            if last:
                break
            tracks = _tracks(column)
            if tracks is None:
                return None
            end = right + 2 * tracks + 2
            for cell in column:
                if cell.readers:
                    canvas.edge(cell, right, end)
            for cell in self._columns[number + 1]:
                if cell.node is not None:
                    canvas.put(end, _middle(cell.row), "▶")
                else:
                    canvas.line(end, _middle(cell.row), _LEFT | _RIGHT)
            left = end + 1
        return canvas.text()


def _cells(graph: Graph) -> list[list[_Cell]]:
    """The columns: each level's components and the edges that pass through, placed near what they come from."""
    columns: list[list[_Cell]] = [[] for _ in graph.levels]
    cell_of: dict[str, _Cell] = {}
    passing: dict[str, _Cell] = {}
    for level, ids in enumerate(graph.levels):
        column = columns[level]
        entries: list[tuple[float, int, _Cell, list[_Cell]]] = []
        for id_ in ids:
            node = graph.nodes[id_]
            writers = [passing[name] for name in node.upstreams]
            entries.append((_mean(writers), len(entries), _Cell(0, node), writers))
        for name, writer in passing.items():
            # still to be read further on: its line goes through this column too
            if any(graph.nodes[reader].level > level for reader in graph.nodes[name].downstreams):
                entries.append((float(writer.row), len(entries), _Cell(0, None), [writer]))
        entries.sort(key=lambda entry: entry[:2])
        for row, (_, _, cell, writers) in enumerate(entries):
            cell.row = row
            column.append(cell)
            for writer in writers:
                writer.readers.append(cell)
            if cell.node is not None:
                cell_of[cell.node.id] = cell
        through = {id(writer): cell for _, _, cell, writers in entries if cell.node is None for writer in writers}
        passing = {name: through[id(writer)] for name, writer in passing.items() if id(writer) in through}
        passing |= {id_: cell_of[id_] for id_ in ids}
    return columns


def _mean(writers: list[_Cell]) -> float:
    return sum(writer.row for writer in writers) / len(writers) if writers else 0.0


def _tracks(column: list[_Cell]) -> int | None:
    """Give each cell that feeds another row a vertical line; the count of lines, or None if they cannot be put in order.

    A cell's own stretch of its row ends at its line: what others send into that row must begin after it. And where two feed one
    reader, the second to join its row must not seem to give the first's events to readers of its own.
    """
    bent = [cell for cell in column if any(reader.row != cell.row for reader in cell.readers)]
    before: dict[int, set[int]] = {cell.row: set() for cell in bent}
    for cell in column:
        reads = {reader.row for reader in cell.readers}
        for other in bent:
            others = {reader.row for reader in other.readers}
            if other is cell:
                continue
            if cell.row in others and cell.row not in reads and cell.row in before:
                before[other.row].add(cell.row)
            shared = reads & others
            if shared and not others <= reads:
                if cell.row in shared or cell.row not in before:
                    return None
                before[cell.row].add(other.row)
    placed: dict[int, int] = {}
    while len(placed) < len(bent):
        free = [cell for cell in bent if cell.row not in placed and before[cell.row] <= placed.keys()]
        if not free:
            return None
        placed[free[0].row] = len(placed)
        free[0].track = placed[free[0].row]
    return len(placed)


def _middle(row: int) -> int:
    return row * _ROW_HEIGHT + 1


class _Canvas:
    """Characters, and lines that know in which directions they go on."""

    def __init__(self, height: int) -> None:
        self._height = height
        self._characters: dict[tuple[int, int], str] = {}
        self._lines: dict[tuple[int, int], int] = {}
        self._uprights: set[tuple[int, int]] = set()
        self._joints: set[tuple[int, int]] = set()

    def put(self, x: int, y: int, text: str) -> None:
        for offset, character in enumerate(text):
            self._characters[x + offset, y] = character

    def line(self, x: int, y: int, directions: int) -> None:
        self._lines[x, y] = self._lines.get((x, y), 0) | directions

    def cell(self, cell: _Cell, left: int, right: int, *, feeds: bool) -> None:
        """A box as wide as the column, or a line through it."""
        y = _middle(cell.row)
        if cell.node is None:
            for x in range(left, right):
                self.line(x, y, _LEFT | _RIGHT)
            return
        inner = right - left - 2
        self.put(left, y - 1, f"┌{'─' * inner}┐")
        self.put(left, y, f"│ {_label(cell.node):<{inner - 2}} {'├' if feeds else '│'}")
        self.put(left, y + 1, f"└{'─' * inner}┘")

    def edge(self, cell: _Cell, start: int, end: int) -> None:
        """From a cell's right side to all its readers."""
        y = _middle(cell.row)
        if cell.track is None:
            self._across(start, end, y)
            return
        x = start + 1 + 2 * cell.track
        rows = [_middle(reader.row) for reader in cell.readers]
        self._across(start, x, y)
        self.line(x, y, _LEFT)
        self._joints.add((x, y))
        for reader in rows:
            self.line(x, reader, _RIGHT)
            self._joints.add((x, reader))
            self._across(x + 1, end, reader)
        top, bottom = min(y, *rows), max(y, *rows)
        for step in range(top, bottom + 1):
            self._uprights.add((x, step))
            self.line(x, step, (_UP if step > top else 0) | (_DOWN if step < bottom else 0))

    def _across(self, start: int, end: int, y: int) -> None:
        for x in range(start, end):
            self.line(x, y, _LEFT | _RIGHT)

    def text(self) -> str:
        lines = ("".join(self._row(y)).rstrip() for y in range(self._height))
        return "\n".join(lines).rstrip("\n") + "\n"

    def _row(self, y: int) -> Iterator[str]:
        width = 1 + max(x for x, _ in (*self._characters, *self._lines))
        for x in range(width):
            if (x, y) in self._characters:
                yield self._characters[x, y]
            elif (x, y) in self._uprights - self._joints:
                yield "│"  # the edge across goes under it
            else:
                yield _LINES.get(self._lines.get((x, y), 0), " ")
