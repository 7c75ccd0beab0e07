"""Says that events are being dropped: at once, and then at most every ten seconds for each component."""

import logging
from collections.abc import Callable
from typing import Final

INTERVAL_NS: Final = 10_000_000_000

_log = logging.getLogger("flowctl.stream")


class DropWarnings:
    """Called with a component and its total whenever a batch for it was dropped; ``clock`` is monotonic, in nanoseconds."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._told: dict[str, tuple[int, int]] = {}

    def __call__(self, component: str, dropped_total: int) -> None:
        """A batch was dropped."""
        now_ns = self._clock()
        last_ns, before = self._told.get(component, (now_ns - INTERVAL_NS, 0))
        if now_ns - last_ns < INTERVAL_NS:
            return
        self._told[component] = (now_ns, dropped_total)
        _log.warning(
            "%s does not keep up and its input says when_full: drop: %d events dropped, %d in all",
            component,
            dropped_total - before,
            dropped_total,
        )
