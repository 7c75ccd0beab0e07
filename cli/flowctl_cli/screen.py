"""A part of the terminal that is redrawn in place, with lines that scroll by above it. The only module that imports rich."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from flowctl_cli.terminal import coloured


class Screen:
    """Use as a context manager; what was shown last stays."""

    def __init__(self) -> None:
        self.colour = coloured(sys.stdout)
        self._console = Console(file=sys.stdout, no_color=not self.colour, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop", redirect_stderr=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return self._console.width

    def show(self, lines: Sequence[str]) -> None:
        """Draw these lines in place of the ones before; they may carry colour codes."""
        self._live.update(Text("\n").join(Text.from_ansi(line) for line in lines), refresh=True)

    def say(self, line: str) -> None:
        """Print a line above."""
        self._console.print(Text.from_ansi(line))
