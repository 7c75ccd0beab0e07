"""What a sink of a bench counts: ``<monotonic ns> <events> <bytes>`` lines, a few a second, in one file per instance."""

import time
from pathlib import Path

INTERVAL_NS = 50_000_000


class Tally:
    """Counts what arrives in a sink and appends the totals to a file, at most every 50 ms and at the first arrival."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._events = 0
        self._bytes = 0
        self._next_ns = 0

    def add(self, events: int, size: int) -> None:
        """So many events of so many bytes together have just arrived."""
        self._events += events
        self._bytes += size
        now = time.monotonic_ns()
        if now >= self._next_ns:
            self._next_ns = now + INTERVAL_NS
            self._file.write(b"%d %d %d\n" % (now, self._events, self._bytes))

    def close(self) -> None:
        """Write the last totals."""
        self._next_ns = 0
        self.add(0, 0)
        self._file.close()
