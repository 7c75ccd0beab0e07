"""What a processor returned becomes events: identity, order, inheritance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl_sdk.columns import Columns, Names
from flowctl_sdk.derive import UnderivedError, derive, derive_batch
from flowctl_sdk.event import Event, encode


def inputs(count: int) -> Columns:
    return Columns(
        [b"%d" % n for n in range(count)],
        [1_000 + n for n in range(count)],
        list(range(count)),
        Names(["numbers.0"]),
        Names(),
        Names.of(["even", "odd"][n % 2] for n in range(count)),
        {0: {"first": "yes"}},
    )


plain = st.one_of(st.none(), st.binary(max_size=3), st.text(max_size=3), st.dictionaries(st.text(max_size=2), st.integers(0, 9)))
outputs = plain | st.builds(Event.of, st.binary(max_size=3), type=st.sampled_from(["", "other"]), time_ns=st.sampled_from([0, 5]))
results = st.lists(outputs | st.lists(outputs, max_size=3), min_size=1, max_size=8)


def expected(given_inputs: Columns, returned: list[object]) -> list[Event]:
    """The rule, one event at a time."""
    made: list[Event] = []
    for event, result in zip(given_inputs.events(), returned, strict=True):
        parts: list[object] = list(result) if isinstance(result, list) else [result]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        for ordinal, part in enumerate(part for part in parts if part is not None):
            if isinstance(part, Event):
                made.append(
                    Event(
                        part.payload,
                        part.time_ns or event.time_ns,
                        event.position,
                        event.origin,
                        f"{event.path}/double.{ordinal}",
                        part.type or event.type,
                        part.metadata if part.metadata is not None else event.metadata,
                    )
                )
            else:
                made.append(
                    Event(
                        encode(part),
                        event.time_ns,
                        event.position,
                        event.origin,
                        f"{event.path}/double.{ordinal}",
                        event.type,
                        event.metadata,
                    )
                )
    return made


@given(results)
def test_derive(returned: list[object]):
    """The fast ways and the slow one say the same as the rule; inputs without output are counted."""
    columns, filtered = derive(inputs(len(returned)), returned, "/double")
    events = expected(inputs(len(returned)), returned)
    assert (columns.events() if columns else []) == events
    assert filtered == len(returned) - len({event.position for event in events})
    if columns:
        assert Columns.decoded(columns.encoded()).events() == events


def test_batch_outputs_know_their_inputs():
    """Events made from inputs derive from these, whatever their order and number."""
    given_inputs = inputs(3)
    events = given_inputs.events()
    columns, filtered = derive_batch(given_inputs, events, [events[2].replace("c"), events[0].replace("a"), events[2]], "/b")
    assert columns is not None
    assert [(event.id, event.payload) for event in columns.events()] == [
        ("numbers.0:0/b.0", b"a"),
        ("numbers.0:2/b.0", b"c"),
        ("numbers.0:2/b.1", b"2"),
    ]
    assert filtered == 1


def test_batch_outputs_by_place():
    """Plain results derive from the input at the same place, None filters, an empty list filters all."""
    given_inputs = inputs(3)
    columns, filtered = derive_batch(given_inputs, given_inputs.events(), ["a", None, {"c": 1}], "/b")
    assert columns is not None
    assert [(event.position, event.payload) for event in columns.events()] == [(0, b"a"), (2, b'{"c":1}')]
    assert filtered == 1
    assert derive_batch(given_inputs, given_inputs.events(), [], "/b") == (None, 3)


def test_batch_outputs_that_came_from_nowhere():
    """Another number of plain results than inputs cannot be matched."""
    given_inputs = inputs(3)
    with pytest.raises(UnderivedError, match="returned 2 results for 3 events"):
        derive_batch(given_inputs, given_inputs.events(), ["a", "b"], "/b")
