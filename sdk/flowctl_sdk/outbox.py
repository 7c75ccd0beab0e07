"""What one downstream instance has not acknowledged yet: kept, sent in order, sent again after a reconnect."""

from collections import deque
from collections.abc import Callable, Sequence

from flowctl.latency import BUCKETS, bucket
from flowctl_sdk.acks import Held
from flowctl_sdk.batching import BATCH_BYTES, GATHER_EVENTS
from flowctl_sdk.columns import Columns
from flowctl_sdk.credit import OUTBOX_BYTES, OUTBOX_EVENTS, Allowance
from flowctl_sdk.faults import ProtocolError


class Entry:
    """A batch on its way to one downstream instance: encoded columns, and the inputs that it holds open.

    ``since_ns`` is when it was first given to an edge, on the monotonic clock. ``parts`` joined are the encoded columns.
    """

    __slots__ = ("_names", "_rows", "count", "first", "pendings", "since_ns", "size")

    def __init__(self, columns: Columns, pendings: Sequence[Held]) -> None:
        self.first = 0
        self.since_ns = 0
        self.count = len(columns)
        self.size = columns.size_bytes
        rows, self._names = columns.encoding()
        self._rows = [rows]
        self.pendings = pendings
        for pending in pendings:
            pending.hold()

    @property
    def end(self) -> int:
        """One past the last offset."""
        return self.first + self.count

    @property
    def parts(self) -> Sequence[bytes]:
        """The encoded columns, in pieces."""
        return (*self._rows, self._names) if self._names else self._rows

    def columns(self) -> Columns:
        """The events."""
        return Columns.decoded(b"".join(self.parts))

    def absorb(self, entry: "Entry") -> bool:
        """Take over the events of the entry behind this one, if they go well together; nothing has to be encoded again."""
        if self._names is None or self._names != entry._names:
            return False
        if self.count + entry.count > GATHER_EVENTS or self.size + entry.size > BATCH_BYTES:
            return False
        self._rows += entry._rows
        self.count += entry.count
        self.size += entry.size
        self.pendings = (*self.pendings, *entry.pendings)
        return True

    def release(self) -> None:
        """Let go of the inputs: the entry is acknowledged, or nobody is left to do so."""
        for pending in self.pendings:
            pending.release()

    def let_go(self) -> None:
        """Let go of the inputs now; the entry itself stays on its way."""
        self.release()
        self.pendings = ()

    def split(self, count: int) -> "tuple[Entry, Entry]":
        """The first ``count`` events and the rest, in place of this entry."""
        columns = self.columns()
        halves = [Entry(columns.select(part), self.pendings) for part in (range(count), range(count, self.count))]
        halves[0].first = self.first
        halves[1].first = self.first + count
        halves[0].since_ns = halves[1].since_ns = self.since_ns
        self.release()
        return halves[0], halves[1]


class Outbox:
    """The unacknowledged entries for one downstream instance, at contiguous offsets from 0.

    ``changed`` is called when there is something new to send. ``events`` and ``size`` count what is kept. ``epoch`` tells this
    sequence of offsets from any other that the instance had for the same downstream. ``allowance`` is that of the open stream.
    ``left`` says that the downstream ended its last stream itself, in good order, and has not come back; ``leaving`` that it gets
    nothing more and works off what it was given. ``divided`` says that it gets parts of batches, which are gathered before they
    are sent.
    ``delivery`` counts acknowledged events by the time since they were given to the edge, in the buckets of ``flowctl.latency``;
    ``clock`` is a monotonic one, in nanoseconds, asked once a batch.
    """

    def __init__(self, epoch: int = 1, clock: Callable[[], int] = lambda: 0) -> None:
        self.epoch = epoch
        self.clock = clock
        self.allowance: Allowance | None = None
        self.changed: Callable[[], None] = _nothing
        self.connected = False
        self.left = False
        self.leaving = False
        self.divided = False
        self.events = 0
        self.size = 0
        self.next_offset = 0
        self.events_total = 0
        self.bytes_total = 0
        self.resent_total = 0
        self.dropped_total = 0
        self.acked_total = 0
        self.delivery = [0] * BUCKETS
        self.delivery_ns_total = 0
        self._unsent: deque[Entry] = deque()
        self._sent: deque[Entry] = deque()
        # One past the highest offset that was ever sent, and that this incarnation of the downstream was sent.
        self._sent_end = 0
        self._shown_end = 0
        self._incarnation = -1

    @property
    def full(self) -> bool:
        """Whether nothing may be added for now."""
        return self.events >= OUTBOX_EVENTS or self.size >= OUTBOX_BYTES

    @property
    def lowest(self) -> int:
        """The lowest offset that is not acknowledged."""
        if self._sent:
            return self._sent[0].first
        return self._unsent[0].first if self._unsent else self.next_offset

    @property
    def drained(self) -> bool:
        """Whether everything was sent."""
        return not self._unsent

    @property
    def waiting(self) -> int:
        """Events that were not sent."""
        return self.next_offset - self._unsent[0].first if self._unsent else 0

    @property
    def oldest_ns(self) -> int:
        """How long the oldest unacknowledged entry has been waiting; 0 if there is none."""
        entries = self._sent or self._unsent
        return self.clock() - entries[0].since_ns if entries else 0

    def add(self, entry: Entry) -> None:
        """Keep an entry and send it when its turn comes."""
        entry.first = self.next_offset
        entry.since_ns = entry.since_ns or self.clock()
        self.next_offset += entry.count
        self.events += entry.count
        self.size += entry.size
        self.events_total += entry.count
        self.bytes_total += entry.size
        # Small batches that have piled up become larger ones.
        tail = self._unsent[-1] if self._unsent else None
        if tail is None or tail.first < self._sent_end or not tail.absorb(entry):
            self._unsent.append(entry)
        self.changed()

    def take(self, allowance: Allowance) -> Entry | None:
        """The next entry to send, cut to what the allowance lets through; None if nothing may be sent.

        A single event that is larger than all the bytes allowed goes when nothing else is under way: it would never otherwise.
        """
        if not self._unsent or allowance.events < 1:
            return None
        entry = self._unsent[0]
        if entry.count > allowance.events or entry.size > allowance.size:
            fitting = self._fitting(entry, allowance)
            if not fitting:
                return None
            if fitting < entry.count:
                self._unsent.popleft()
                entry, rest = entry.split(fitting)
                self._unsent.extendleft((rest, entry))
        self._unsent.popleft()
        self._sent.append(entry)
        allowance.spend(entry.count, entry.size)
        if entry.first < self._sent_end:
            self.resent_total += entry.count
        self._sent_end = max(self._sent_end, entry.end)
        self._shown_end = max(self._shown_end, entry.end)
        return entry

    def _fitting(self, entry: Entry, allowance: Allowance) -> int:
        columns = entry.columns()
        size = 0
        for event in range(min(entry.count, allowance.events)):
            size += columns.event_bytes(event)
            if size > allowance.size:
                return event if event or self._sent else 1
        return min(entry.count, allowance.events)

    def acknowledge(self, up_to: int) -> None:
        """Let go of everything up to and including this offset.

        Raises:
            ProtocolError: if it was never sent, or was acknowledged before.
        """
        if up_to >= self._shown_end:
            raise ProtocolError(f"acknowledged offset {up_to}, but only offsets below {self._shown_end} were sent")
        if up_to < self.lowest:
            raise ProtocolError(f"acknowledged offset {up_to}, but everything below {self.lowest} was acknowledged before")
        done: list[Entry] = []
        for entries in (self._sent, self._unsent):
            while entries and entries[0].first <= up_to:
                entry = entries.popleft()
                if entry.end - 1 > up_to:
                    entry, rest = entry.split(up_to + 1 - entry.first)
                    entries.appendleft(rest)
                self.events -= entry.count
                self.size -= entry.size
                done.append(entry)
        now_ns = self.clock()
        for entry in done:
            elapsed_ns = now_ns - entry.since_ns
            self.acked_total += entry.count
            self.delivery[bucket(elapsed_ns / 1e9)] += entry.count
            self.delivery_ns_total += elapsed_ns * entry.count
            entry.release()

    def let_go(self) -> None:
        """Have nobody wait any longer for what is kept; it is still sent, and sent again after a reconnect."""
        for entry in (*self._sent, *self._unsent):
            entry.let_go()

    def rewind(self, incarnation: int) -> int:
        """Start over with a new stream of this incarnation of the downstream; returns the first offset that it will carry."""
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()
        if incarnation != self._incarnation:
            # What an earlier incarnation was sent, this one cannot have.
            self._incarnation = incarnation
            self._shown_end = self.lowest
        return self.lowest

    def clear(self) -> list[Entry]:
        """Take out everything that is not acknowledged, oldest first."""
        entries = [*self._sent, *self._unsent]
        self._sent.clear()
        self._unsent.clear()
        self.events = self.size = 0
        return entries


def _nothing() -> None:
    """Nobody listens yet."""
