"""When to send: at once if nothing was sent lately, otherwise after gathering for at most a millisecond."""

from typing import Final

GATHER_NS: Final = 1_000_000
GATHER_EVENTS: Final = 512
# What a batch was divided into is gathered for this long, if that makes at least half a batch.
PARTS_NS: Final = 4_000_000
# A message may hold this much, so that a batch neither nears the message limit nor holds up what is behind it.
BATCH_BYTES: Final = 1024 * 1024


class Pace:
    """Decides the moment of the next message from the moment of the last one; all times are monotonic nanoseconds."""

    __slots__ = ("_last_ns",)

    def __init__(self) -> None:
        self._last_ns = -GATHER_NS

    def wait_ns(self, now_ns: int, gathered: int) -> int:
        """How long to go on gathering with so many events in hand; 0 is send now."""
        if gathered >= GATHER_EVENTS:
            return 0
        return max(0, self._last_ns + GATHER_NS - now_ns)

    def sent(self, now_ns: int) -> None:
        """A message was sent."""
        self._last_ns = now_ns


class PartsPace:
    """Decides when to send what batches were divided into: at once unless so much follows that waiting makes messages larger.

    Divided by four, batches of 512 are messages of 128, and a message costs what it costs.
    """

    __slots__ = ("_last_ns",)

    def __init__(self) -> None:
        self._last_ns = -PARTS_NS

    def wait_ns(self, now_ns: int, gathered: int) -> int:
        """How long to go on gathering with so many events in hand; 0 is send now."""
        elapsed_ns = now_ns - self._last_ns
        if gathered >= GATHER_EVENTS or elapsed_ns >= PARTS_NS:
            return 0
        if gathered * PARTS_NS < elapsed_ns * GATHER_EVENTS // 2:
            return 0
        return PARTS_NS - elapsed_ns

    def sent(self, now_ns: int) -> None:
        """A message was sent."""
        self._last_ns = now_ns
