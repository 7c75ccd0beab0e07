"""How far something long has come: one line on stderr, redrawn on a terminal, absent in a pipe."""

import sys
import time
from typing import Final

REDRAW_S: Final = 0.1
PATIENCE_S: Final = 0.5


class ProgressLine:
    """Call it with what is done, how much and of how much; ``clear`` it before anything else is printed."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._started = self._drawn = time.monotonic()
        self._shown = False

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show it, if it is time to."""
        now = time.monotonic()
        if not self._terminal or now - self._started < PATIENCE_S or now - self._drawn < REDRAW_S:
            return
        self._drawn, self._shown = now, True
        share = f" ({100 * done // total} %)" if total else ""
        sys.stderr.write(f"\r\x1b[K{what}: {done:,} of {total:,}{share}")
        sys.stderr.flush()

    def clear(self) -> None:
        """Leave an empty line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False
