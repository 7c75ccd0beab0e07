"""Which instance gets which event: every downstream group gets all of them, its instances share them.

One instance takes everything; with ``partition_by`` the key decides, by a stable hash; otherwise whole batches go to the
instance with the least outstanding. Membership may change while events are under way.

A group that drops (``when_full: drop``) never holds anybody up: what finds its instance's outbox full is counted and forgotten,
and no input waits for what the outbox keeps. That must be so from the first event on: the inputs that may be under way are
bounded too, so that waiting for a few of their outputs is enough to hold everything back.
"""

from collections.abc import Callable, Sequence
from itertools import count as counting

import msgspec

from flowctl.partition import partitions
from flowctl_sdk.acks import Held
from flowctl_sdk.batching import BATCH_BYTES, GATHER_EVENTS
from flowctl_sdk.columns import Columns
from flowctl_sdk.faults import EventTooLargeError
from flowctl_sdk.keys import KeysOf, keys_of
from flowctl_sdk.outbox import Entry, Outbox
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
    """The instances of one downstream component.

    ``offered_total`` counts the events given to it, ``skipped_total`` is what had been dispatched before there was this group.
    """

    def __init__(
        self, spec: GroupSpec, new_outbox: Callable[[], Outbox], dropped: Callable[[str, int], None], skipped_total: int = 0
    ) -> None:
        self.spec: GroupSpec = spec
        self._new_outbox = new_outbox
        self._dropped = dropped
        self.skipped_total = skipped_total
        self.offered_total = 0
        # Of instances that have left, and of events that no instance was asked to take.
        self._acked_before = 0
        self._dropped_before = 0
        self.members: dict[int, Outbox] = {}
        # Of instances that are no members any more, and still acknowledge what they were given.
        self._leaving: dict[int, Outbox] = {}
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
        return sum(outbox.events for _, outbox in self.outboxes()) + sum(entry.count for entry in self._homeless)

    @property
    def acked_total(self) -> int:
        """Events that were acknowledged, by instances that have left too."""
        return self._acked_before + sum(outbox.acked_total for _, outbox in self.outboxes())

    @property
    def dropped_total(self) -> int:
        """Events that were dropped."""
        return self._dropped_before + sum(outbox.dropped_total for _, outbox in self.outboxes())

    @property
    def ready(self) -> bool:
        """Whether a batch may be routed now; a group that drops is always ready."""
        return self.spec.drops or self._takes

    @property
    def _takes(self) -> bool:
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

    def outboxes(self) -> list[tuple[int, Outbox]]:
        """Of all instances by index, those too that leave."""
        return [*self.members.items(), *self._leaving.items()]

    def apply(self, spec: GroupSpec) -> None:
        """Take a new membership.

        An instance that leaves while it is connected may work off what it was given: see ``retire``. What one that is away has
        not acknowledged goes to those that stay.
        """
        gone = [index for index in self.members if index not in spec.members]
        changed = bool(gone) or any(index not in self.members for index in spec.members)
        orphans, self._homeless = self._homeless, []
        for index in [index for index in self._leaving if index in spec.members]:
            orphans += self._forget(self._leaving.pop(index))
        for index in gone:
            outbox = self.members.pop(index)
            outbox.leaving = outbox.connected and outbox.events > 0
            if outbox.leaving:
                self._leaving[index] = outbox
            else:
                orphans += self._forget(outbox)
        if self._keys is None or spec.partition_by != self.spec.partition_by:
            self._keys = keys_of(spec.partition_by) if spec.partition_by else None
        self.spec = spec
        for index in spec.members:
            if index not in self.members:
                self.members[index] = self._new_outbox()
        self._order = [self.members[index] for index in sorted(self.members)]
        for outbox in self._order:
            outbox.divided = self.divides
        self._reroute(orphans)
        if spec.drops:
            for _, outbox in self.outboxes():
                outbox.let_go()
        self._held = self._keys is not None and (self._held or changed) and self.outstanding > 0

    def retire(self, index: int) -> None:
        """An instance that leaves has acknowledged everything, or its stream is over: the rest goes to those that stay."""
        if (outbox := self._leaving.pop(index, None)) is not None:
            self._reroute(self._forget(outbox))

    def _forget(self, outbox: Outbox) -> list[Entry]:
        """What has to go elsewhere; the outbox's totals are kept."""
        outbox.leaving = False
        self._acked_before += outbox.acked_total
        self._dropped_before += outbox.dropped_total
        return outbox.clear()

    @property
    def divides(self) -> bool:
        """Whether its instances get parts of each batch."""
        return self._keys is not None and len(self._order) > 1

    def route(self, columns: Columns, pendings: Sequence[Held]) -> None:
        """Give a batch, not larger than a message, to the group's instances. Needs ``ready``."""
        count = len(columns)
        self.offered_total += count
        if self.spec.drops and not self._takes:
            self._dropped_before += count
            self._dropped(self.spec.component, self.dropped_total)
            return
        if self.spec.drops:
            pendings = ()
        if self._keys is None or len(self._order) == 1:
            self._give(self._least(), Entry(columns, pendings))
            return
        for outbox, events in self._shares(columns, self._keys):
            part = columns if len(events) == count else columns.select(events)
            self._give(outbox, Entry(part, pendings))

    def abandon(self) -> list[Entry]:
        """The group is gone: what it has not acknowledged, oldest first in each instance. Whoever takes that lets go of it."""
        entries = [*self._homeless, *(entry for _, outbox in self.outboxes() for entry in self._forget(outbox))]
        self.members.clear()
        self._leaving.clear()
        self._order = []
        self._homeless = []
        return entries

    def adopt(self, entries: Sequence[Entry]) -> None:
        """Take what groups that are gone have not acknowledged: this one has come in their place."""
        copies = [Entry(entry.columns(), entry.pendings) for entry in entries]
        count = sum(entry.count for entry in copies)
        self.offered_total += count
        self.skipped_total = max(0, self.skipped_total - count)
        self._reroute(copies)
        if self.spec.drops:
            for outbox in self._order:
                outbox.let_go()
        self._held = self._keys is not None and count > 0

    def _give(self, outbox: Outbox, entry: Entry) -> None:
        if self.spec.drops and outbox.full:
            outbox.dropped_total += entry.count
            entry.release()
            self._dropped(self.spec.component, self.dropped_total)
        else:
            outbox.add(entry)

    def _least(self) -> Outbox:
        if len(self._order) == 1:
            return self._order[0]
        return min(self._order, key=lambda outbox: (outbox.full, not outbox.connected, outbox.events, outbox.events_total))

    def _shares(self, columns: Columns, keys: KeysOf) -> list[tuple[Outbox, list[int]]]:
        shares: list[list[int]] = [[] for _ in self._order]
        put = [share.append for share in shares]
        for event, place in enumerate(partitions(keys(columns), len(shares))):
            put[place](event)
        return [(outbox, share) for outbox, share in zip(self._order, shares, strict=True) if share]

    def _reroute(self, entries: list[Entry]) -> None:
        if not self._order:
            self._homeless = entries
            return
        for entry in entries:
            if self._keys is None or len(self._order) == 1:
                self._least().add(entry)
                continue
            columns = entry.columns()
            for outbox, events in self._shares(columns, self._keys):
                outbox.add(Entry(columns.select(events), entry.pendings))
            entry.release()


class Router:
    """All downstream groups of one instance. ``known`` is False until the first topology has come.

    ``dispatched_total`` counts events; ``taps`` look on. ``clock`` is a monotonic one, in nanoseconds; ``dropped`` is called
    with a component and its total whenever a batch for it was dropped.
    """

    def __init__(self, clock: Callable[[], int] = lambda: 0, dropped: Callable[[str, int], None] | None = None) -> None:
        self.groups: dict[str, Group] = {}
        self.known = False
        self.finished = False
        self.dispatched_total = 0
        self.taps: list[Tap] = []
        self._clock = clock
        self._dropped = dropped or _unheard
        self._epochs = counting(1)
        # What groups that are gone have not acknowledged, while there is none in their place: its inputs stay open.
        self._left_over: list[Entry] = []

    @property
    def ready(self) -> bool:
        """Whether a batch may be dispatched now; never while there is no group: nothing may pass for done that nobody got."""
        return bool(self.groups) and all(group.ready for group in self.groups.values())

    @property
    def cut_off(self) -> bool:
        """Whether the topology has nobody downstream: nothing can be passed on, and nothing comes of what is under way."""
        return self.known and not self.groups

    @property
    def outstanding(self) -> int:
        """Events that some instance has not acknowledged."""
        return sum(group.outstanding for group in self.groups.values())

    @property
    def awaited(self) -> int:
        """Events that some instance has not acknowledged and may yet."""
        return self.outstanding - sum(outbox.events for _, outbox in self.outboxes() if outbox.left)

    def waiting_for(self) -> list[str]:
        """The components that keep ``ready`` False."""
        return [name for name, group in self.groups.items() if not group.ready]

    def apply(self, specs: Sequence[GroupSpec]) -> None:
        """Take a new topology.

        What a component that is gone has not acknowledged goes to those that are new in this topology: they are what the file has
        in its place. If there are none, nobody wants it, and it counts as done. Unless nobody at all is left: then the file has
        this component no longer, and the events are its upstreams' to pass on. So its inputs must not be acknowledged; what it
        has of them waits here, should the file have it back.
        """
        self.known = True
        named = {spec.component for spec in specs}
        orphans, self._left_over = self._left_over, []
        orphans += [entry for name in list(self.groups) if name not in named for entry in self.groups.pop(name).abandon()]
        if not specs:
            self._left_over = orphans
            return
        for spec in specs:
            group = self.groups.get(spec.component)
            if group is None:
                self.groups[spec.component] = group = Group(spec, self._new_outbox, self._dropped, self.dispatched_total)
                group.adopt(orphans)
            elif group.spec != spec:
                group.apply(spec)
        for entry in orphans:
            entry.release()

    def _new_outbox(self) -> Outbox:
        return Outbox(next(self._epochs), self._clock)

    def outbox(self, component: str, index: int) -> Outbox | None:
        """Of one downstream instance."""
        group = self.groups.get(component)
        return None if group is None else group.members.get(index)

    def outboxes(self) -> list[tuple[MemberName, Outbox]]:
        """Of all downstream instances, by component and index; of those too that leave."""
        return [((name, index), outbox) for name, group in self.groups.items() for index, outbox in group.outboxes()]

    def retire(self, component: str, index: int) -> None:
        """See ``Group.retire``."""
        if (group := self.groups.get(component)) is not None:
            group.retire(index)

    def dispatch(self, columns: Columns, pendings: Sequence[Held]) -> None:
        """Give a batch to every group; ``pendings`` stay open until all of it is acknowledged. Needs ``ready``.

        Raises:
            EventTooLargeError: if an event does not fit into a message.
        """
        self.finished = False
        divided = all(group.divides for group in self.groups.values()) and bool(self.groups)
        for part in chunks(columns):
            if not (divided and part.plain and part.size_bytes <= BATCH_BYTES):
                # Not if only its parts are sent, and these surely are small enough.
                size = len(part.encoded())
                if size + FRAME_BYTES > MAX_MESSAGE_BYTES:
                    self._dispatch_halves(part, size, pendings)
                    continue
            if self.taps:
                for tap in self.taps:
                    tap.offer(len(part), part.encoded())
            self.dispatched_total += len(part)
            for group in self.groups.values():
                group.route(part, pendings)

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


def _unheard(component: str, total: int) -> None:
    """Nobody wants to hear of drops."""
    del component, total


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
