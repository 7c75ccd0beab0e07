"""The generator: the same event at the same position, a steady pace, and configurations that it refuses."""

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl.errors import InvalidSettingError
from flowctl_components.generator import Generator, GeneratorConfig, Pace, payload_maker
from flowctl_sdk.testing import produce

RANDOM = {
    "city": {"choice": ["Oslo", "Rome"]},
    "degrees": {"low": -5, "high": 30, "digits": 1},
    "tide": {"low": 0, "high": 4, "period": 8},
}


async def test_a_position_always_gives_the_same_event():
    """A source that resumes in the middle emits exactly what one that never stopped would have."""
    config = {"count": 50, "random": RANDOM, "fields": {"station": "north"}, "seed": 7}
    whole = await produce(Generator, config=config)
    rest = await produce(Generator, config=config, resume_at=20)
    assert [event.payload for event in whole[20:]] == [event.payload for event in rest]
    assert [event.position for event in rest] == list(range(20, 50))
    assert {event.json()["station"] for event in whole} == {"north"}


async def test_values_stay_within_their_rule():
    """Numbers lie within low and high with the digits asked for, choices are all used, a period swings."""
    values = [event.json() for event in await produce(Generator, config={"count": 400, "random": RANDOM})]
    assert {value["city"] for value in values} == {"Oslo", "Rome"}
    assert all(-5 <= value["degrees"] <= 30 and round(value["degrees"], 1) == value["degrees"] for value in values)
    assert [value["tide"] for value in values[:9]] == [0, 1, 2, 3, 4, 3, 2, 1, 0]


async def test_payloads_are_filled_up_to_the_size_asked_for():
    """size_bytes is exact where the payload is not longer by itself, and the payload stays JSON."""
    events = await produce(Generator, config={"count": 20, "size_bytes": 200, "event_type": "padded"})
    assert {len(event.payload) for event in events} == {200}
    assert [event.json()["seq"] for event in events] == list(range(20))
    assert {event.type for event in events} == {"padded"}


async def test_without_a_count_it_never_ends():
    """An absent count means endless; zero means none."""
    assert len(await produce(Generator, limit=3_000)) == 3_000
    assert await produce(Generator, config={"count": 0}) == []


def test_replicas_make_values_of_their_own():
    """The same position differs between replicas and between seeds."""
    config = msgspec.convert({"random": {"x": {"low": 0, "high": 1_000_000}}}, GeneratorConfig)
    other = msgspec.convert({"seed": 1, "random": {"x": {"low": 0, "high": 1_000_000}}}, GeneratorConfig)
    values = [[payload_maker(one, stream)(n) for n in range(20)] for one, stream in ((config, 0), (config, 1), (other, 0))]
    assert all(a != b for a, b in itertools.combinations(values, 2))


@given(st.floats(0.1, 1e6), st.lists(st.floats(0, 0.5), min_size=1, max_size=50))
def test_the_pace_does_not_drift(rate: float, sleeps: list[float]):
    """However the sleeps fall out, the number sent is what the rate gives for the time since the start, to one event."""
    pace = Pace(rate, 100.0)
    now = 100.0
    sent = pace.due(now)
    for sleep in sleeps:
        now += sleep
        sent += pace.due(now)
        assert abs(sent - (now - 100.0) * rate) <= 1 + 1e-6 * rate


def test_a_hold_up_is_made_up_for_a_second_at_most():
    """After ten seconds without room, one second's events come at once, not ten."""
    pace = Pace(1_000, 0.0)
    pace.due(0.0)
    assert pace.due(10.0) == pytest.approx(1_000, abs=2)
    assert pace.due(10.1) == pytest.approx(100, abs=2)
    assert pace.wait_s(10.1) == pytest.approx(0.001, abs=0.001)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"rate": 0}, r"config.rate: .*> 0"),
        ({"rato": 5}, "did you mean 'rate'"),
        ({"random": {"x": {"low": 1}}}, "config.random.x: expected either 'choice' or both 'low' and 'high'"),
        ({"random": {"x": {"low": 2, "high": 1}}}, "low 2 is above high 1"),
        ({"random": {"x": {"choice": [1], "period": 4}}}, "'period' goes with"),
        ({"fields": {"seq": 1}}, "'seq' is the generator's own field"),
        ({"count": "many"}, "config.count: expected `int | null`, got `str`, found 'many'"),
    ],
)
async def test_bad_configurations(config: dict[str, object], sentence: str):
    """Each is refused with the field, what was found and what was expected."""
    with pytest.raises(InvalidSettingError, match=sentence):
        await produce(Generator, config=config)
