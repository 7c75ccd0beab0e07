"""Instants as people write them: every form has one meaning, and what has none is refused in one sentence."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from flowctl.errors import UserError
from flowctl.instants import Ago, AtSequence, AtTime, OnDay, iso_time, parse_instant, time_of, unix_ns

S = 1_000_000_000
NOON_NS = unix_ns(datetime(2026, 3, 29, 12, 0, tzinfo=UTC))


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("18231", AtSequence(18_231)),
        ("0", AtSequence(0)),
        ("now", Ago(0)),
        ("10 minutes ago", Ago(600 * S)),
        ("10m ago", Ago(600 * S)),
        ("10m", Ago(600 * S)),
        ("an hour ago", Ago(3_600 * S)),
        ("1h30m ago", Ago(5_400 * S)),
        ("1 hour 30 minutes ago", Ago(5_400 * S)),
        ("2.5s", Ago(5 * S // 2)),
        ("250ms ago", Ago(S // 4)),
        ("  2   DAYS ago ", Ago(2 * 86_400 * S)),
        ("yesterday", OnDay(1, 0)),
        ("yesterday 12:00", OnDay(1, 43_200)),
        ("yesterday at 9:05:07", OnDay(1, 32_707)),
        ("today 00:01", OnDay(0, 60)),
        ("12:30", OnDay(0, 45_000)),
        ("2026-03-29T12:00:00Z", AtTime(NOON_NS)),
        ("2026-03-29T12:00:00z", AtTime(NOON_NS)),
        ("2026-03-29 14:00+02:00", AtTime(NOON_NS)),
        ("2026-03-29T12:00:00.5Z", AtTime(NOON_NS + S // 2)),
        ("2026-03-29T12:00:00.123456789Z", AtTime(NOON_NS + 123_456_789)),
    ],
)
def test_what_is_understood(text: str, meant: object):
    """A number is an entry; a span is a time before now; nanoseconds are kept."""
    assert parse_instant(text) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "soon",
        "ago",
        "-5",
        "10 parsecs ago",
        "5m later",
        "24:00",
        "12:60",
        "yesterday noon",
        "2026-13-01",
        "1e3",
        "12:30 ago",
    ],
)
def test_what_is_not_understood(text: str):
    """One sentence that quotes it and says what may be written."""
    with pytest.raises(UserError) as caught:
        parse_instant(text)
    assert caught.value.exit_code == 2
    assert "neither a time nor an entry" in caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "9" * 30,
        "١٢",
        "9999999999d",
        "900000 days ago",
        "9" * 400 + "s",
        "0001-01-01",
        "0001-01-01T00:00:00+14:00",
        "tomorrow",
        "in 5 minutes",
        "\x00",
    ],
)
def test_what_is_too_large_or_strange(text: str):
    """As above."""
    test_what_is_not_understood(text)


@pytest.mark.usefixtures("in_berlin")
def test_times_without_a_zone_are_this_hosts():
    """Also on the day on which summer time begins: yesterday noon is 11 o'clock UTC, today's is 10."""
    assert time_of(parse_instant("yesterday 12:00"), NOON_NS) == NOON_NS - 25 * 3_600 * S  # type: ignore[arg-type]
    assert time_of(parse_instant("12:00"), NOON_NS) == NOON_NS - 2 * 3_600 * S  # type: ignore[arg-type]
    assert parse_instant("2026-03-29 12:00") == AtTime(NOON_NS - 2 * 3_600 * S)
    assert parse_instant("2026-03-28") == AtTime(NOON_NS - 37 * 3_600 * S)
    assert time_of(Ago(5 * S), NOON_NS) == NOON_NS - 5 * S


def test_a_time_is_written_so_that_it_can_be_read_back():
    """To the nanosecond."""
    for time_ns in (NOON_NS, NOON_NS + 1, NOON_NS + 123_000_000, 1):
        assert parse_instant(iso_time(time_ns)) == AtTime(time_ns)
    assert iso_time(NOON_NS) == "2026-03-29T12:00:00Z"
