"""A batch in memory: columns, not rows, so that what Python does per event is one constructor and one call of the author's.

A column of names (origins, types, paths) is a dictionary of its distinct values and, only if there is more than one, an index
per event. Columns that came off the wire stay the wire library's own sequences until somebody needs them changed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, cast

from flowctl.data.v1.data_pb2 import Batch, EventMetadata
from flowctl_sdk.event import Event
from flowctl_sdk.faults import ProtocolError

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedScalarFieldContainer

_ONE_EMPTY: Final = ("",)


class Names:
    """A column of strings: its distinct ``values`` and which one each event has (``index`` is None if all have the first)."""

    __slots__ = ("index", "values")

    def __init__(self, values: Sequence[str] = _ONE_EMPTY, index: Sequence[int] | None = None) -> None:
        self.values = values
        self.index = index

    def __iter__(self) -> Iterator[str]:
        """The value of each event; endless if all are the same."""
        return repeat(self.values[0]) if self.index is None else map(self.values.__getitem__, self.index)

    def __getitem__(self, event: int) -> str:
        return self.values[0] if self.index is None else self.values[self.index[event]]

    def select(self, events: Sequence[int]) -> "Names":
        """The column of these events only."""
        return self if self.index is None else Names(self.values, [self.index[event] for event in events])

    def with_suffix(self, suffix: str) -> "Names":
        """Every value with the suffix behind it."""
        return Names([value + suffix for value in self.values], self.index)

    @staticmethod
    def of(column: Iterable[str]) -> "Names":
        """The column of these values, at least one, one for each event."""
        known: dict[str, int] = {}
        index = [known.setdefault(value, len(known)) for value in column]
        return Names(list(known), index if len(known) > 1 else None)

    @staticmethod
    def read(values: Sequence[str], index: Sequence[int], count: int, what: str) -> "Names":
        """The column as received for ``count`` events.

        Raises:
            ProtocolError: if the index is of another length or points nowhere.
        """
        if not index:
            if len(values) > 1:
                raise ProtocolError(f"the batch has {len(values)} {what}s and no {what} index")
            return Names(values) if values else Names()
        if len(index) != count or max(index) >= len(values):
            raise ProtocolError(f"the batch's {what} index does not fit its {count} events and {len(values)} {what}s")
        return Names(values, index if len(values) > 1 else None)


class Columns:
    """Events in columns, all as long as ``payloads``; ``metadata`` holds only the events that have any."""

    __slots__ = ("_encoding", "_size", "metadata", "origins", "paths", "payloads", "positions", "times", "types")

    def __init__(  # noqa: PLR0917 - one argument a column, in the order of the hot path
        self,
        payloads: Sequence[bytes],
        times: Sequence[int],
        positions: Sequence[int],
        origins: Names,
        paths: Names,
        types: Names,
        metadata: dict[int, dict[str, str]],
    ) -> None:
        self.payloads = payloads
        self.times = times
        self.positions = positions
        self.origins = origins
        self.paths = paths
        self.types = types
        self.metadata = metadata
        self._encoding: tuple[bytes, bytes | None] | None = None
        self._size = -1

    def __len__(self) -> int:
        return len(self.payloads)

    def events(self) -> list[Event]:
        """One ``Event`` for each, in order."""
        # A slice of the wire library's sequences is a list, and twice as quick to go through.
        columns = (self.payloads, self.times[:], self.positions[:], self.origins, self.paths, self.types)
        if not self.metadata:
            return list(map(Event, *columns))
        return list(map(Event, *columns, map(self.metadata.get, range(len(self.payloads)))))

    @property
    def size_bytes(self) -> int:
        """What the events cost of a byte credit: their payloads and their metadata's keys and values."""
        if self._size < 0:
            size = sum(map(len, self.payloads))
            if self.metadata:
                size += sum(metadata_bytes(values) for values in self.metadata.values())
            self._size = size
        return self._size

    def event_bytes(self, event: int) -> int:
        """What one event costs of a byte credit."""
        metadata = self.metadata.get(event)
        return len(self.payloads[event]) + (metadata_bytes(metadata) if metadata else 0)

    def select(self, events: Sequence[int]) -> "Columns":
        """These events only, given by ascending index."""
        metadata = {new: self.metadata[old] for new, old in enumerate(events) if old in self.metadata} if self.metadata else {}
        picked: Callable[[Sequence[Any]], tuple[Any, ...]] = cast("Any", itemgetter(*events)) if len(events) > 1 else _at(events)
        # Slices: the wire library's sequences are slow to be asked for one value after the other.
        return Columns(
            list(picked(self.payloads)),
            picked(self.times[:]),
            picked(self.positions[:]),
            self.origins.select(events),
            self.paths.select(events),
            self.types.select(events),
            metadata,
        )

    def with_payloads(self, payloads: Sequence[bytes], suffix: str) -> "Columns":
        """The same events after a processor: other payloads, one for each, and ``suffix`` behind the path."""
        return Columns(
            payloads, self.times, self.positions, self.origins, self.paths.with_suffix(suffix), self.types, self.metadata
        )

    @property
    def plain(self) -> bool:
        """Whether all events have the same origin, path and type, and none has metadata."""
        return self.origins.index is None and self.paths.index is None and self.types.index is None and not self.metadata

    def encoded(self) -> bytes:
        """The batch as protobuf, without its offset."""
        rows, names = self.encoding()
        return rows + names if names else rows

    def encoding(self) -> tuple[bytes, bytes | None]:
        """The batch as protobuf in two parts, made once: what there is for each event, and the names that they have in common.

        The rows of batches with equal names, one after the other and the names behind, are the encoding of all their events. No
        names (None): this batch cannot be joined with others in that way, and the rows are all of it.
        """
        if self._encoding is None:
            rows = Batch(payloads=self.payloads)
            _fill(rows.times, self.times)
            _fill(rows.positions, self.positions)
            names = Batch() if self.plain else rows
            _write(names, "origins", "origin_index", self.origins)
            _write(names, "types", "type_index", self.types)
            _write(names, "paths", "path_index", self.paths)
            if self.metadata:
                rows.metadata.extend(EventMetadata(event=event, values=values) for event, values in self.metadata.items())
            self._encoding = rows.SerializeToString(), None if names is rows else names.SerializeToString()
        return self._encoding

    @staticmethod
    def decoded(body: bytes) -> "Columns":
        """The inverse of ``encoded``."""
        return Columns.read(Batch.FromString(body))

    @staticmethod
    def read(batch: Batch) -> "Columns":
        """The columns of a received batch.

        Raises:
            ProtocolError: if it is empty or a column does not fit the payloads.
        """
        payloads = list(batch.payloads)
        count = len(payloads)
        if not count:
            raise ProtocolError("the batch has no events")
        times: Sequence[int] = batch.times
        positions: Sequence[int] = batch.positions
        if len(times) != count:
            if times:
                raise ProtocolError(f"the batch has {count} payloads and {len(times)} times")
            times = [0] * count
        if len(positions) != count:
            if positions:
                raise ProtocolError(f"the batch has {count} payloads and {len(positions)} positions")
            positions = [0] * count
        metadata: dict[int, dict[str, str]] = {}
        if batch.metadata:
            metadata = {entry.event: dict(entry.values) for entry in batch.metadata}
            if max(metadata) >= count:
                raise ProtocolError(f"the batch has {count} events and metadata for event {max(metadata)}")
        return Columns(
            payloads,
            times,
            positions,
            Names.read(batch.origins, batch.origin_index, count, "origin"),
            Names.read(batch.paths, batch.path_index, count, "path"),
            Names.read(batch.types, batch.type_index, count, "type"),
            metadata,
        )

    @staticmethod
    def merged(parts: Sequence["Columns"]) -> "Columns":
        """All events of the parts, at least one, one after the other."""
        if len(parts) == 1:
            return parts[0]
        metadata: dict[int, dict[str, str]] = {}
        start = 0
        for part in parts:
            for event, values in part.metadata.items():
                metadata[start + event] = values
            start += len(part)
        return Columns(
            [payload for part in parts for payload in part.payloads],
            [time for part in parts for time in part.times],
            [position for part in parts for position in part.positions],
            _merged_names([(part.origins, len(part)) for part in parts]),
            _merged_names([(part.paths, len(part)) for part in parts]),
            _merged_names([(part.types, len(part)) for part in parts]),
            metadata,
        )


def _at(events: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """Picks the values at these places; ``itemgetter`` gives no tuple of one, and there is none of nothing."""
    return lambda column: tuple(column[event] for event in events)


def metadata_bytes(values: dict[str, str]) -> int:
    """The length of the keys and values in UTF-8."""
    return sum(len(key.encode()) + len(value.encode()) for key, value in values.items())


def _merged_names(parts: Sequence[tuple[Names, int]]) -> Names:
    first = parts[0][0]
    if all(names.index is None and names.values[0] == first.values[0] for names, _ in parts):
        return first
    return Names.of(value for names, count in parts for value, _ in zip(names, range(count), strict=False))


def _fill(column: "RepeatedScalarFieldContainer[int]", values: Sequence[int]) -> None:
    """Copy numbers into a message: as a block if they came out of one."""
    if isinstance(values, type(column)):
        column.MergeFrom(values)
    else:
        column.extend(values)


def _write(message: Batch, values: str, index: str, names: Names) -> None:
    if names.index is not None:
        getattr(message, index).extend(names.index)
    elif not names.values[0]:
        return
    getattr(message, values).extend(names.values if names.index is not None else names.values[:1])
