"""Batches: what goes into columns comes out again, through the wire and any cutting and joining."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl.data.v1.data_pb2 import Batch, EventMetadata, FromUpstream
from flowctl_sdk.columns import Columns, Names
from flowctl_sdk.event import Event
from flowctl_sdk.faults import ProtocolError
from flowctl_sdk.wire import batch_frame

names = st.sampled_from(["", "a", "b", "größe"])
events = st.builds(
    Event,
    payload=st.binary(max_size=20),
    time_ns=st.integers(0, 2**63),
    position=st.integers(0, 2**63 - 1),
    origin=names,
    path=names,
    type=names,
    metadata=st.none() | st.dictionaries(names, names, min_size=1, max_size=2),
)
batches = st.lists(events, min_size=1, max_size=12)


def columns_of(batch: list[Event]) -> Columns:
    return Columns(
        [event.payload for event in batch],
        [event.time_ns for event in batch],
        [event.position for event in batch],
        Names.of(event.origin for event in batch),
        Names.of(event.path for event in batch),
        Names.of(event.type for event in batch),
        {number: event.metadata for number, event in enumerate(batch) if event.metadata},
    )


@given(batches)
def test_round_trip(batch: list[Event]):
    """Events survive the columns and the wire."""
    assert columns_of(batch).events() == batch
    assert Columns.decoded(columns_of(batch).encoded()).events() == batch


@given(batches, st.data())
def test_select(batch: list[Event], data: st.DataObject):
    """Selecting columns selects events, also of a received batch."""
    chosen = sorted(data.draw(st.sets(st.integers(0, len(batch) - 1))))
    expected = [batch[event] for event in chosen]
    assert columns_of(batch).select(chosen).events() == expected
    if expected:
        selected = Columns.decoded(columns_of(batch).encoded()).select(chosen)
        assert Columns.decoded(selected.encoded()).events() == expected


@given(st.lists(st.lists(st.binary(max_size=20), min_size=1, max_size=5), min_size=1, max_size=5))
def test_encodings_of_one_kind_join(parts: list[list[bytes]]):
    """The rows of batches with the same names, one after the other with the names behind, are all their events."""
    batches = [
        Columns(payloads, range(len(payloads)), range(7, 7 + len(payloads)), Names(["a.0"]), Names(["/b.0"]), Names(["t"]), {})
        for payloads in parts
    ]
    encodings = [batch.encoding() for batch in batches]
    assert len({names for _, names in encodings}) == 1
    joined = b"".join(rows for rows, _ in encodings) + (encodings[0][1] or b"")
    assert Columns.decoded(joined).events() == [event for batch in batches for event in batch.events()]


@given(st.lists(batches, min_size=1, max_size=4))
def test_merged(parts: list[list[Event]]):
    """Joining columns joins events."""
    merged = Columns.merged([columns_of(part) for part in parts])
    assert Columns.decoded(merged.encoded()).events() == [event for part in parts for event in part]


@given(batches, st.integers(0, 2**63))
def test_frame(batch: list[Event], offset: int):
    """A frame put together from bytes is what the protobuf library makes."""
    columns = columns_of(batch)
    message = FromUpstream.FromString(batch_frame(offset, [columns.encoded()]))
    assert message.batch.first_offset == offset
    assert Columns.read(message.batch).events() == batch


@given(batches)
def test_sizes(batch: list[Event]):
    """The size of a batch is the sum of its events' sizes, on both ends of the wire."""
    columns = columns_of(batch)
    assert columns.size_bytes == sum(columns.event_bytes(event) for event in range(len(batch)))
    assert Columns.decoded(columns.encoded()).size_bytes == columns.size_bytes


def test_absent_columns_mean_defaults():
    """A peer may leave out every column but the payloads."""
    assert Columns.read(Batch(payloads=[b"a", b"b"])).events() == [Event(b"a", position=0), Event(b"b", position=0)]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (Batch(), "no events"),
        (Batch(payloads=[b"a"], times=[1, 2]), "1 payloads and 2 times"),
        (Batch(payloads=[b"a"], positions=[1, 2]), "1 payloads and 2 positions"),
        (Batch(payloads=[b"a"], types=["x", "y"]), "2 types and no type index"),
        (Batch(payloads=[b"a", b"b"], types=["x", "y"], type_index=[0]), "type index does not fit"),
        (Batch(payloads=[b"a", b"b"], origins=["x", "y"], origin_index=[0, 2]), "origin index does not fit"),
        (Batch(payloads=[b"a"], path_index=[0]), "path index does not fit"),
        (Batch(payloads=[b"a"], metadata=[EventMetadata(event=1)]), "metadata for event 1"),
    ],
)
def test_columns_that_do_not_fit(batch: Batch, message: str):
    """A batch whose columns contradict each other is refused by name."""
    with pytest.raises(ProtocolError, match=message):
        Columns.read(batch)
