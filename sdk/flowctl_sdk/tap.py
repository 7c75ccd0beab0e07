"""What one onlooker gets to see of the events that leave an instance: a sample, bounded in rate and memory.

Whoever sends only offers each batch, already encoded for the edges; a batch is kept by reference or counted as skipped, and is
cut to size later, at most ten times a second. So a tap costs the sender next to nothing, and nothing at all when there is none.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from flowctl_sdk.columns import Columns

DEFAULT_EVENTS_PER_S: Final = 100
MAX_EVENTS_PER_S: Final = 10_000
RING_BYTES: Final = 1024 * 1024
# A cut means decoding a batch: the sample is taken in portions of a tenth of a second's worth.
_PORTIONS_PER_S: Final = 10
_NS: Final = 1_000_000_000


class Tap:
    """Samples of what is offered. ``now_ns`` is a monotonic clock; ``wake`` is called when there is something to take."""

    def __init__(self, events_per_s: int, now_ns: Callable[[], int], wake: Callable[[], None]) -> None:
        self._rate = max(1, min(MAX_EVENTS_PER_S, events_per_s or DEFAULT_EVENTS_PER_S))
        self._portion = max(1, self._rate // _PORTIONS_PER_S)
        self._now_ns = now_ns
        self._wake = wake
        # Events that may be sampled now; at most what a second allows. They accrue with time.
        self._budget = float(self._rate)
        self._accrued_ns = now_ns()
        self._ring: deque[tuple[bytes, int, int]] = deque()
        self._size = 0
        self._skipped = 0

    def __len__(self) -> int:
        """Batches that wait to be taken."""
        return len(self._ring)

    def offer(self, count: int, encoded: bytes) -> None:
        """A batch of so many events goes by: keep a sample of it if there is room and budget."""
        now_ns = self._now_ns()
        self._budget = min(float(self._rate), self._budget + (now_ns - self._accrued_ns) * self._rate / _NS)
        self._accrued_ns = now_ns
        wanted = min(count, self._portion) if count > self._budget else count
        if self._budget < wanted or (self._ring and self._size + len(encoded) > RING_BYTES):
            self._skipped += count
            return
        if count > wanted:
            wanted = min(count, int(self._budget))
        self._budget -= wanted
        self._skipped += count - wanted
        self._ring.append((encoded, count, wanted))
        self._size += len(encoded)
        self._wake()

    def take(self) -> tuple[list[bytes], int]:
        """Everything that is kept, oldest first, each batch cut to its sample; and how many were skipped since last time."""
        samples = [
            encoded if wanted == count else Columns.decoded(encoded).select(range(wanted)).encoded()
            for encoded, count, wanted in self._ring
        ]
        skipped, self._skipped = self._skipped, 0
        self._ring.clear()
        self._size = 0
        return samples, skipped
