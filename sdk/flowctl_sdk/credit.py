"""How much may be under way on an edge: the sender's allowance and the receiver's grants, in events and bytes."""

from collections import deque
from typing import Final

from flowctl_sdk.faults import ProtocolError

WINDOW_EVENTS: Final = 16_384
WINDOW_BYTES: Final = 16 * 1024 * 1024
# Uncommitted events that an instance keeps for one downstream instance; below the window, so that credit only ever binds against
# a peer that grants less than we do.
OUTBOX_EVENTS: Final = 8_192
OUTBOX_BYTES: Final = 8 * 1024 * 1024

_MAX: Final = 2**63 - 1


class Allowance:
    """What a sender may still send on one stream."""

    __slots__ = ("events", "size")

    def __init__(self, events: int, size: int) -> None:
        self.events = 0
        self.size = 0
        self.add(events, size)

    def add(self, events: int, size: int) -> None:
        """Take a grant.

        Raises:
            ProtocolError: if it is for no events or more than a signed 64-bit number holds.
        """
        if events < 1:
            raise ProtocolError("a credit must be for at least 1 event")
        if self.events + events > _MAX or self.size + size > _MAX:
            raise ProtocolError("the credit overflows: more than 2^63-1 events or bytes")
        self.events += events
        self.size += size

    def spend(self, events: int, size: int) -> None:
        """Record what was sent. The size may go below zero by one event: see ``Outbox.take``."""
        self.events -= events
        self.size -= size


class Window:
    """What a receiver has let its sender send on one stream, and what it can give back.

    A batch's share is due when the batch is acknowledged, and granted once a quarter of the window is due or nothing is
    outstanding: a grant is a message, and a message costs as much as a batch.
    """

    __slots__ = ("_due_events", "_due_size", "_events", "_received", "_size", "outstanding", "outstanding_size")

    def __init__(self, events: int = WINDOW_EVENTS, size: int = WINDOW_BYTES) -> None:
        self._events = events
        self._size = size
        self._received: deque[tuple[int, int, int]] = deque()
        self.outstanding = 0
        self.outstanding_size = 0
        self._due_events = 0
        self._due_size = 0

    def receive(self, last_offset: int, events: int, size: int) -> None:
        """Record a batch.

        Raises:
            ProtocolError: if it exceeds what was granted.
        """
        fits = (
            self.outstanding + self._due_events + events <= self._events
            and self.outstanding_size + self._due_size + size <= self._size
        )
        if not fits and not (events == 1 and self.outstanding == 0):
            raise ProtocolError(f"{events} events of {size} bytes exceed the credit that was granted")
        self._received.append((last_offset, events, size))
        self.outstanding += events
        self.outstanding_size += size

    def acknowledge(self, up_to: int) -> None:
        """Record that everything up to this offset is done."""
        received = self._received
        while received and received[0][0] <= up_to:
            _, events, size = received.popleft()
            self.outstanding -= events
            self.outstanding_size -= size
            self._due_events += events
            self._due_size += size

    @property
    def available(self) -> tuple[int, int]:
        """The events and bytes that the sender may still send."""
        events = self._events - self.outstanding - self._due_events
        return max(0, events), max(0, self._size - self.outstanding_size - self._due_size)

    def grant(self) -> tuple[int, int] | None:
        """The events and bytes to grant now, if it is time to."""
        if not self._due_events:
            return None
        worthwhile = self._due_events * 4 >= self._events or self._due_size * 4 >= self._size
        if self.outstanding and not worthwhile:
            return None
        granted = (self._due_events, self._due_size)
        self._due_events = self._due_size = 0
        return granted
