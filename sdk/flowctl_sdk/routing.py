"""Which instance gets which event: every downstream group gets all of them, its instances share them.

One instance takes everything; with ``partition_by`` the key decides, by a stable hash; otherwise whole batches go to the
instance with the least outstanding. Membership may change while events are under way.
"""

from collections.abc import Iterator, Sequence
from itertools import count

import msgspec

from flowctl.partition import partition
from flowctl_sdk.acks import Held
from flowctl_sdk.batching import BATCH_BYTES, GATHER_EVENTS
from flowctl_sdk.columns import Columns
from flowctl_sdk.faults import EventTooLargeError
from flowctl_sdk.keys import KeysOf, keys_of
from flowctl_sdk.outbox import Entry, Outbox, entry_of
from flowctl_sdk.tap import Tap
from flowctl_sdk.wire import FRAME_BYTES, MAX_MESSAGE_BYTES

MemberName = tuple[str, int]


class GroupSpec(msgspec.Struct, frozen=True):
    """One downstream component as the topology says it: the indexes of its instances, how they share, what a full edge does."""

    component: str
    members: tuple[int, ...]
    partition_by: str = ""
    drops: bool = False


class Group:
    """The instances of one downstream component."""

    def __init__(self, spec: GroupSpec, epochs: Iterator[int]) -> None:
        self.spec: GroupSpec = spec
        self._epochs = epochs
        self.members: dict[int, Outbox] = {}
        self._order: list[Outbox] = []
        self._keys: KeysOf | None = None
        # Entries that had to leave their instance while no other was there.
        self._homeless: list[Entry] = []
        # New events wait until those that were routed under an older membership are done: order per key.
        self._held = False
        self.apply(spec)

    @property
    def outstanding(self) -> int:
        """Events that are not acknowledged."""
        return sum(outbox.events for outbox in self._order) + sum(entry.count for entry in self._homeless)

    @property
    def ready(self) -> bool:
        """Whether a batch may be routed now; a group that drops is always ready once it has an instance."""
        if self._held and self.outstanding:
            return False
        self._held = False
        if not self._order:
            return False
        if self.spec.drops:
            return True
        if self._keys is not None:
            return not any(outbox.full for outbox in self._order)
        return not all(outbox.full for outbox in self._order)

    def apply(self, spec: GroupSpec) -> None:
        """Take a new membership: what an instance that left has not acknowledged goes to those that stay."""
        leaving = [index for index in self.members if index not in spec.members]
        orphans = [*self._homeless, *(entry for index in leaving for entry in self.members.pop(index).clear())]
        changed = bool(leaving) or any(index not in self.members for index in spec.members)
        self._homeless = []
        if self._keys is None or spec.partition_by != self.spec.partition_by:
            self._keys = keys_of(spec.partition_by) if spec.partition_by else None
        self.spec = spec
        for index in spec.members:
            if index not in self.members:
                self.members[index] = Outbox(next(self._epochs))
        self._order = [self.members[index] for index in sorted(self.members)]
        self._reroute(orphans)
        self._held = self._keys is not None and (self._held or changed) and self.outstanding > 0

    def route(self, columns: Columns, encoded: bytes, pendings: Sequence[Held]) -> None:
        """Give a batch, not larger than a message, to the group's instances. Needs ``ready``."""
        size = columns.size_bytes
        if self._keys is None or len(self._order) == 1:
            self._give(self._least(), Entry(len(columns), size, encoded, pendings))
            return
        for outbox, events in self._shares(columns, self._keys):
            part = columns if len(events) == len(columns) else columns.select(events)
            self._give(outbox, entry_of(part, pendings))

    def abandon(self) -> None:
        """The group is gone: whatever it has not acknowledged counts as done."""
        entries = [*self._homeless, *(entry for outbox in self._order for entry in outbox.clear())]
        self.members.clear()
        self._order = []
        self._homeless = []
        for entry in entries:
            entry.release()

    def _give(self, outbox: Outbox, entry: Entry) -> None:
        if self.spec.drops and outbox.full:
            outbox.dropped_total += entry.count
            entry.release()
        else:
            outbox.add(entry)

    def _least(self) -> Outbox:
        if len(self._order) == 1:
            return self._order[0]
        return min(self._order, key=lambda outbox: (outbox.full, not outbox.connected, outbox.events, outbox.events_total))

    def _shares(self, columns: Columns, keys: KeysOf) -> list[tuple[Outbox, list[int]]]:
        shares: list[list[int]] = [[] for _ in self._order]
        for event, key in enumerate(keys(columns)):
            shares[partition(key, len(shares))].append(event)
        return [(outbox, share) for outbox, share in zip(self._order, shares, strict=True) if share]

    def _reroute(self, entries: list[Entry]) -> None:
        if not self._order:
            self._homeless = entries
            return
        for entry in entries:
            if self._keys is None or len(self._order) == 1:
                self._least().add(entry)
                continue
            columns = Columns.decoded(entry.encoded)
            for outbox, events in self._shares(columns, self._keys):
                outbox.add(entry_of(columns.select(events), entry.pendings))
            entry.release()


class Router:
    """All downstream groups of one instance. ``known`` is False until the first topology has come."""

    def __init__(self) -> None:
        self.groups: dict[str, Group] = {}
        self.known = False
        self.finished = False
        self.taps: list[Tap] = []
        self._epochs = count(1)

    @property
    def ready(self) -> bool:
        """Whether a batch may be dispatched now."""
        return self.known and all(group.ready for group in self.groups.values())

    @property
    def outstanding(self) -> int:
        """Events that some instance has not acknowledged."""
        return sum(group.outstanding for group in self.groups.values())

    def waiting_for(self) -> list[str]:
        """The components that keep ``ready`` False."""
        return [name for name, group in self.groups.items() if not group.ready]

    def apply(self, specs: Sequence[GroupSpec]) -> None:
        """Take a new topology."""
        self.known = True
        named = {spec.component for spec in specs}
        for component in [component for component in self.groups if component not in named]:
            self.groups.pop(component).abandon()
        for spec in specs:
            group = self.groups.get(spec.component)
            if group is None:
                self.groups[spec.component] = Group(spec, self._epochs)
            elif group.spec != spec:
                group.apply(spec)

    def outbox(self, component: str, index: int) -> Outbox | None:
        """Of one downstream instance."""
        group = self.groups.get(component)
        return None if group is None else group.members.get(index)

    def outboxes(self) -> list[tuple[MemberName, Outbox]]:
        """Of all downstream instances, by component and index."""
        return [((name, index), outbox) for name, group in self.groups.items() for index, outbox in group.members.items()]

    def dispatch(self, columns: Columns, pendings: Sequence[Held]) -> None:
        """Give a batch to every group; ``pendings`` stay open until all of it is acknowledged. Needs ``ready``.

        Raises:
            EventTooLargeError: if an event does not fit into a message.
        """
        self.finished = False
        for part in chunks(columns):
            encoded = part.encoded()
            if len(encoded) + FRAME_BYTES > MAX_MESSAGE_BYTES:
                self._dispatch_halves(part, len(encoded), pendings)
                continue
            if self.taps:
                for tap in self.taps:
                    tap.offer(len(part), encoded)
            for group in self.groups.values():
                group.route(part, encoded, pendings)

    def _dispatch_halves(self, columns: Columns, size: int, pendings: Sequence[Held]) -> None:
        if len(columns) == 1:
            event = columns.events()[0]
            raise EventTooLargeError(
                f"event {event.id} is too large: {size + FRAME_BYTES:,} bytes in its frame, at most {MAX_MESSAGE_BYTES:,}",
                hint="split the payload, or pass a reference to where it is stored",
            )
        middle = len(columns) // 2
        self.dispatch(columns.select(range(middle)), pendings)
        self.dispatch(columns.select(range(middle, len(columns))), pendings)

    def finish(self) -> None:
        """Nothing more will be dispatched, unless an upstream is restarted: downstreams need not wait for more."""
        self.finished = True
        for _, outbox in self.outboxes():
            outbox.changed()


def chunks(columns: Columns) -> list[Columns]:
    """The batch in parts of a sensible size: at most twice 512 events and, unless one event is larger, 1 MiB."""
    if len(columns) <= 2 * GATHER_EVENTS and columns.size_bytes <= BATCH_BYTES:
        return [columns]
    parts: list[Columns] = []
    start = size = 0
    for event in range(len(columns)):
        length = columns.event_bytes(event)
        if event > start and (size + length > BATCH_BYTES or event - start >= GATHER_EVENTS):
            parts.append(columns.select(range(start, event)))
            start, size = event, 0
        size += length
    parts.append(columns.select(range(start, len(columns))))
    return parts
