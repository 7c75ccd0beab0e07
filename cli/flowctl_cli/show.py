"""How a command shows a pipeline on its way: redrawn in place on a terminal, a line for each change otherwise."""

import sys
import time
from types import TracebackType
from typing import Final, Protocol, Self

from flowctl.api import PipelineView
from flowctl.journal.logs import LogLine
from flowctl_cli import board
from flowctl_cli.board import Board
from flowctl_cli.commands.logs import LinePrinter
from flowctl_cli.session import give_up_stdout
from flowctl_cli.terminal import note, say

RATES_EVERY_S: Final = 10.0


class Show(Protocol):
    """Something that can be shown a pipeline again and again. A context manager."""

    def look(self, found: Board) -> None:
        """This is how it is now; the board holds one pipeline."""
        ...

    def log(self, line: LogLine) -> None:
        """An instance has printed this."""
        ...

    def tell(self, text: str) -> None:
        """Something that the user should know."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Silent:
    """Shows nothing: the answer is JSON at the end."""

    def look(self, found: Board) -> None:
        """See ``Show``."""

    def log(self, line: LogLine) -> None:
        """See ``Show``."""

    def tell(self, text: str) -> None:
        """See ``Show``."""
        note(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


class Lines(Silent):
    """A line for each change, and the rates now and then."""

    def __init__(self) -> None:
        self._before: PipelineView | None = None
        self._rates_at = time.monotonic() + RATES_EVERY_S
        self._printer = LinePrinter()

    def look(self, found: Board) -> None:
        """See ``Show``."""
        for pipeline in found.status.pipelines:
            for line in board.differences(self._before, pipeline):
                _print(line)
            self._before = pipeline
            if time.monotonic() >= self._rates_at:
                self._rates_at = time.monotonic() + RATES_EVERY_S
                if rates := _rates(pipeline, found):
                    _print(rates)

    def log(self, line: LogLine) -> None:
        """See ``Show``."""
        _print(self._printer.render(line))


def _print(line: str) -> None:
    """Print a line; when nobody reads any more the pipeline is followed all the same, for it must be ended in order."""
    try:
        say(line)
    except BrokenPipeError:
        give_up_stdout()


def _rates(pipeline: PipelineView, found: Board) -> str:
    shown: list[str] = []
    for instance in pipeline.instances:
        into, out = board.rates(found.live.get(instance.instance))
        if rate := out or into:
            shown.append(f"{instance.component}.{instance.index} {rate}/s")
    return f"events: {', '.join(shown)}" if shown else ""


class Drawn:
    """The pipeline's table, redrawn in place."""

    def __init__(self) -> None:
        from flowctl_cli.screen import Screen

        self._screen = Screen()
        self._printer = LinePrinter()

    def __enter__(self) -> Self:
        self._screen.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._screen.__exit__(kind, error, trace)

    def look(self, found: Board) -> None:
        """See ``Show``."""
        self._screen.show(board.text(found, edges=False, colour=self._screen.colour, width=self._screen.width))

    def log(self, line: LogLine) -> None:
        """See ``Show``."""
        self._screen.say(self._printer.render(line))

    def tell(self, text: str) -> None:
        """See ``Show``."""
        self._screen.say(text)


def chosen(*, json: bool, plain: bool) -> Show:
    """What suits the user's terminal."""
    if json:
        return Silent()
    return Lines() if plain or not sys.stdout.isatty() else Drawn()
