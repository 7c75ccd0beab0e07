"""filter and map: JMESPath over payloads and envelopes."""

from typing import Any

import pytest

from flowctl.errors import InvalidSettingError
from flowctl_components.filter import Filter
from flowctl_components.map import Map
from flowctl_sdk import Event
from flowctl_sdk.faults import EventFailedError
from flowctl_sdk.testing import process


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("n > `2`", [3, 4]),
        ("n != `1` && n != `3`", [0, 2, 4]),
        ("n", [0, 1, 2, 3, 4]),
        ("missing", []),
        ("even", [0, 2, 4]),
        ("text", [1, 2, 3, 4]),
        ("list", [1, 2, 3, 4]),
        ("contains(text, 'xx')", [2, 3, 4]),
    ],
)
async def test_filter_by_the_payload(where: str, kept: list[int]):
    """Null, false and what is empty are false; everything else is true, also 0."""
    events = [{"n": n, "even": n % 2 == 0, "text": "x" * n, "list": [0] * n} for n in range(5)]
    found = await process(Filter, events, config={"where": where})
    assert [event.json() for event in found] == [events[n] for n in kept]


async def test_filter_by_the_envelope():
    """With envelope the expression sees type and metadata too; the event goes on as it came."""
    events = [Event.of({"n": n}, type=f"t{n % 2}", metadata={"region": "eu" if n < 3 else "us"}) for n in range(5)]
    config = {
        "where": "type == 't0' && metadata.region == 'eu' && payload.n < `9` && starts_with(id, 'test.0:')",
        "envelope": True,
    }
    found = await process(Filter, events, config=config)
    assert [(event.json()["n"], event.type, event.metadata) for event in found] == [
        (0, "t0", {"region": "eu"}),
        (2, "t0", {"region": "eu"}),
    ]


@pytest.mark.parametrize(
    ("config", "results"),
    [
        ({"select": "{city: place.city, total: sum(items)}"}, [{"city": "Oslo", "total": 6}]),
        ({"select": "items", "each": True}, [1, 2, 3]),
        ({"select": "place", "set": {"city": "Rome", "x": 1}}, [{"city": "Rome", "x": 1}]),
        ({"unset": ["items", "place"]}, [{"n": 5}]),
        ({"select": "nothing"}, [None]),
        ({"select": "payload.n", "envelope": True}, [5]),
        ({"event_type": "order"}, [{"n": 5, "place": {"city": "Oslo"}, "items": [1, 2, 3]}]),
    ],
)
async def test_map(config: dict[str, Any], results: list[Any]):
    """select makes the payload, set and unset change its fields, each makes several events."""
    found = await process(Map, [{"n": 5, "place": {"city": "Oslo"}, "items": [1, 2, 3]}], config=config)
    assert [event.json() for event in found] == results
    assert {event.type for event in found} == {config.get("event_type", "")}


async def test_map_keeps_metadata_and_sets_the_type():
    """What is not changed is inherited."""
    event = Event.of({"a": [{"b": 1}, {"b": 2}]}, type="old", metadata={"k": "v"})
    found = await process(Map, [event], config={"select": "a", "each": True, "event_type": "new", "set": {"c": 3}})
    assert [(event.json(), event.type, event.metadata) for event in found] == [
        ({"b": 1, "c": 3}, "new", {"k": "v"}),
        ({"b": 2, "c": 3}, "new", {"k": "v"}),
    ]
    assert [event.id for event in found] == ["test.0:0/map.0", "test.0:0/map.1"]


@pytest.mark.parametrize(
    ("config", "payload", "sentence"),
    [
        ({"select": "n"}, "no json", "payload of event test.0:0 is not JSON"),
        ({"select": "sum(n)"}, {"n": "x"}, r"'sum\(n\)' fails on event test.0:0"),
        ({"select": "n", "each": True}, {"n": 1}, "expected a list for 'each'"),
        ({"set": {"a": 1}}, [1], "expected an object for 'set'"),
    ],
)
async def test_events_that_do_not_fit(config: dict[str, Any], payload: object, sentence: str):
    """An event that the expression cannot take is that event's error, with its id."""
    with pytest.raises(EventFailedError, match=sentence):
        await process(Map, [payload], config=config)


@pytest.mark.parametrize(
    ("component", "config", "sentence"),
    [
        (Filter, {"where": "a >"}, r"config.where: 'a >' is not a JMESPath expression"),
        (Filter, {}, "'where' is missing"),
        (Filter, {"where": 5}, "config.where: expected `str`, got `int`, found 5"),
        (Map, {}, "expected at least one of"),
        (Map, {"set": {"a": 1}, "envelope": True}, "there is no 'select'"),
        (Map, {"select": "nofunction(a)"}, "x"),
    ],
)
async def test_bad_configurations(component: type[Filter] | type[Map], config: dict[str, Any], sentence: str):
    """Each is refused when the component opens, before any event."""
    if sentence == "x":
        # JMESPath finds an unknown function only when it is called.
        with pytest.raises(EventFailedError, match="nofunction"):
            await process(component, [{"a": 1}], config=config)
        return
    with pytest.raises(InvalidSettingError, match=sentence):
        await process(component, [{"a": 1}], config=config)
