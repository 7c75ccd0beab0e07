"""What people see: lines, tables, JSON, errors. Quiet when piped: no colour, no redrawing, nothing cut off."""

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, Literal, TextIO

import msgspec
import typer

from flowctl.errors import FlowctlError, InvalidSpecError

Style = Literal["", "good", "busy", "bad", "faint", "strong"]

_CODES: Final[dict[Style, str]] = {"": "", "good": "32", "busy": "33", "bad": "31", "faint": "2", "strong": "1"}

STYLES: Final[dict[str, Style]] = {
    "running": "good",
    "healthy": "good",
    "completed": "good",
    "up": "good",
    "ok": "good",
    "deploying": "busy",
    "assigned": "busy",
    "starting": "busy",
    "started": "busy",
    "restarting": "bad",
    "replacing": "busy",
    "stopping": "busy",
    "unknown": "faint",
    "stopped": "faint",
    "left": "faint",
    "degraded": "bad",
    "unhealthy": "bad",
    "failed": "bad",
    "lost": "bad",
}
"""How the words for states look."""


class Cell(msgspec.Struct, frozen=True):
    """A piece of text with its looks."""

    text: str
    style: Style = ""


Row = Sequence[Cell | str]


def state(word: str) -> Cell:
    """A state with the looks that belong to it."""
    return Cell(word, STYLES.get(word, ""))


def coloured(stream: TextIO) -> bool:
    """Whether colour codes may be written there (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def columns(head: Sequence[str], rows: Iterable[Row], *, colour: bool, width: int | None = None) -> list[str]:
    """A table as lines: columns are as wide as they need to be, the last one is cut off at ``width`` if that is given."""
    table = [[Cell(title, "faint") for title in head], *([_cell(each) for each in row] for row in rows)]
    widths = [max(len(row[at].text) for row in table) for at in range(len(head))]
    return [_line(row, widths, colour=colour, width=width) for row in table]


def _cell(value: Cell | str) -> Cell:
    return Cell(one_line(value)) if isinstance(value, str) else Cell(one_line(value.text), value.style)


def _line(row: Sequence[Cell], widths: Sequence[int], *, colour: bool, width: int | None) -> str:
    parts: list[str] = []
    used = 0
    for at, cell in enumerate(row):
        last = at == len(row) - 1
        text = cell.text if last else cell.text.ljust(widths[at])
        if width is not None and used + len(text) > width:
            text = text[: max(0, width - used - 1)] + "…" if width > used else ""
        used += len(text) + 2
        parts.append(paint(text, cell.style) if colour else text)
    return "  ".join(parts).rstrip()


def paint(text: str, style: Style) -> str:
    """The text with the colour codes of a style."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if _CODES[style] and text else text


def one_line(text: str) -> str:
    """The text without line breaks and other control characters, so that what programs say cannot command the terminal."""
    return "".join(letter if letter.isprintable() else " " if letter in "\r\n\t" else "�" for letter in text)


def print_table(head: Sequence[str], rows: Iterable[Row]) -> None:
    """Print a table to stdout."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in columns(head, rows, colour=coloured(sys.stdout), width=width):
        say(line)


class RowPrinter:
    """Prints rows to stdout one by one, before the last is known; columns widen as needed and never shrink."""

    def __init__(self, widths: Sequence[int]) -> None:
        self._widths = list(widths)
        self._colour = coloured(sys.stdout)
        self._terminal = sys.stdout.isatty()

    def print(self, row: Row) -> None:
        """Print one row."""
        cells = [_cell(each) for each in row]
        self._widths = [max(width, len(cell.text)) for width, cell in zip(self._widths, cells, strict=True)]
        width = shutil.get_terminal_size().columns if self._terminal else None
        say(_line(cells, self._widths, colour=self._colour, width=width))


def is_interactive() -> bool:
    """Whether somebody is there to be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def say(text: str = "") -> None:
    """Print one line to stdout, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def write(text: str) -> None:
    """Write to stdout as it is."""
    sys.stdout.write(text)


def note(text: str) -> None:
    """Print one line to stderr: what happens meanwhile, not part of the answer."""
    sys.stderr.write(f"{paint(text, 'faint') if coloured(sys.stderr) else text}\n")
    sys.stderr.flush()


def print_json(value: object, *, indent: bool | None = None) -> None:
    """Print a value as JSON: indented for people, on one line when piped; ``indent`` decides otherwise."""
    data = msgspec.json.encode(value)
    if sys.stdout.isatty() if indent is None else indent:
        data = msgspec.json.format(data, indent=2)
    say(data.decode())


def print_error(error: FlowctlError) -> None:
    """Print what went wrong to stderr: the place, one clear sentence, and the way out."""
    problems = error.problems if isinstance(error, InvalidSpecError) else [error]
    for problem in problems:
        place = f"{problem.place}: " if problem.place else ""
        hint = f"\n  {problem.hint}" if problem.hint else ""
        label = paint("error:", "bad") if coloured(sys.stderr) else "error:"
        sys.stderr.write(f"{label} {place}{problem.message}{hint}\n")
    sys.stderr.flush()


def age(milliseconds: float) -> str:
    """A span of time in at most two units: ``950ms``, ``12s``, ``3m20s``, ``2h05m``, ``4d3h``."""
    seconds = max(0.0, milliseconds / 1000)
    if seconds < 1:
        return f"{int(seconds * 1000)}ms"
    whole = int(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if minutes == 0:
        return f"{whole}s"
    if hours == 0:
        return f"{minutes}m{whole % 60:02d}s"
    if days == 0:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{days}d{hours % 24}h"


def clock_time(unix_ns: int) -> str:
    """A moment in this host's time zone, to the millisecond."""
    return datetime.fromtimestamp(unix_ns / 1e9).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def quantity(value: float) -> str:
    """A number short enough for a table: ``0``, ``999``, ``12.3k``, ``1.2M``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}" if value % 1 else f"{value:.0f}"


def exit_with(code: int) -> typer.Exit:
    """What to raise to end the command with this exit code."""
    return typer.Exit(code)
