"""Instants of the journal as people write them: a sequence, a time, how long ago. Pure; which entry one means is ``past``'s."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn

import msgspec

from flowctl.errors import UserError

HINT: Final = (
    "write an entry's sequence (18231), 2026-01-31T12:00:00Z, 2026-01-31, 12:30, `10 minutes ago`, 15m, `yesterday 12:00` or now"
)

_S: Final = 1_000_000_000
_UNITS_NS: Final[dict[str, int]] = {
    **dict.fromkeys(("ms", "millisecond", "milliseconds"), _S // 1_000),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), _S),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60 * _S),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3_600 * _S),
    **dict.fromkeys(("d", "day", "days"), 86_400 * _S),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86_400 * _S),
}
_LONGEST_NS: Final = 500_000 * 86_400 * _S
"""So long before any journal's now there still is a date that can be written."""

_DAYS: Final = {"today": 0, "yesterday": 1}

_SEQUENCE = re.compile(r"\A[0-9]+\Z", re.ASCII)
_PART = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]+)?|an?\b)\s*([a-z]+)\s*", re.ASCII)
_DAY = re.compile(r"\A(?:(today|yesterday)(?:\s+(?:at\s+)?|\Z))?(?:([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?)?\Z", re.ASCII)
_FRACTION = re.compile(r"(:[0-9]{2}):([0-9]{2})[.,]([0-9]{1,9})", re.ASCII)


class AtSequence(msgspec.Struct, frozen=True):
    """Just after this entry; 0 is before the first one."""

    seq: int


class AtTime(msgspec.Struct, frozen=True):
    """Unix nanoseconds by the journal; what happened at that very nanosecond has happened."""

    time_ns: int


class Ago(msgspec.Struct, frozen=True):
    """So many nanoseconds before now; 0 is now."""

    span_ns: int


class OnDay(msgspec.Struct, frozen=True):
    """A time of day in this host's zone, so many days before today."""

    days_ago: int
    second: int


Instant = AtSequence | AtTime | Ago | OnDay


def parse_instant(text: str) -> Instant:
    """Read ``18231``, ``2026-01-31T12:00:00Z``, ``12:30`` (today), ``10 minutes ago``, ``1h30m``, ``yesterday 12:00`` or ``now``.

    A day without a time is its first moment. Times without a zone are in this host's.

    Raises:
        UserError: it is none of these.
    """
    words = " ".join(text.lower().split())
    if _SEQUENCE.match(words):
        return AtSequence(int(words)) if len(words) <= 18 else _refuse(text)
    if words == "now":
        return Ago(0)
    day = _DAY.match(words) if words else None
    if day:
        return _on_day(day, text)
    span_ns = _span(words.removesuffix("ago").rstrip())
    if span_ns is not None:
        return Ago(span_ns)
    return _absolute(text)


def time_of(instant: AtTime | Ago | OnDay, now_ns: int) -> int:
    """The instant in Unix nanoseconds, when it is ``now_ns``."""
    match instant:
        case AtTime(time_ns=time_ns):
            return time_ns
        case Ago(span_ns=span_ns):
            return now_ns - span_ns
        case OnDay(days_ago=days_ago, second=second):
            today = datetime.fromtimestamp(now_ns // _S).astimezone().date()
            at = datetime.combine(today - timedelta(days=days_ago), datetime.min.time()) + timedelta(seconds=second)
            return unix_ns(at.astimezone())  # the zone as it was on that day, summer time or not


def unix_ns(value: datetime) -> int:
    """Unix nanoseconds of a time that has a zone."""
    return (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000


def iso_time(time_ns: int) -> str:
    """ISO 8601 in UTC, to the nanosecond where it has one: ``2026-01-31T12:00:00.000000001Z``."""
    seconds, rest = divmod(time_ns, _S)
    fraction = f".{rest:09d}".rstrip("0") if rest else ""
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix('+00:00')}{fraction}Z"


def _span(words: str) -> int | None:
    """Nanoseconds of ``1h30m`` or ``an hour 30 minutes``; None if it is no span."""
    total = 0
    at = 0
    while at < len(words):
        part = _PART.match(words, at)
        unit = _UNITS_NS.get(part[2]) if part else None
        if part is None or unit is None:
            return None
        total += unit if part[1].startswith("a") else round(float(part[1]) * unit)
        at = part.end()
    return total if words and total < _LONGEST_NS else None


def _on_day(match: re.Match[str], text: str) -> OnDay:
    hour, minute, second = (int(part or 0) for part in match.groups()[1:])
    if hour > 23 or minute > 59 or second > 59:
        _refuse(text)
    return OnDay(_DAYS[match[1] or "today"], hour * 3_600 + minute * 60 + second)


def _absolute(text: str) -> AtTime:
    """ISO 8601; Python reads microseconds only, so what follows the point is read here."""
    written = text.strip().upper()
    fraction = _FRACTION.search(written)
    nanoseconds = int(fraction[3].ljust(9, "0")) if fraction else 0
    whole = _FRACTION.sub(r"\1:\2", written, count=1)
    try:
        read = datetime.fromisoformat(whole)
        at_ns = unix_ns(read if read.tzinfo else read.astimezone())
        iso_time(at_ns)  # in another zone it may lie outside the years that can be written
    except (ValueError, OverflowError, OSError):
        _refuse(text)
    return AtTime(at_ns + nanoseconds)


def _refuse(text: str) -> NoReturn:
    raise UserError(f"{text[:60]!r} is neither a time nor an entry of the journal", hint=HINT)
