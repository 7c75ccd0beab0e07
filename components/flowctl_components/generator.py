"""Source ``generator``: events made up by rule, for trying things out, tests and benches.

Configuration::

    count: 1000                 # how many in all; endless if absent
    rate: 50                    # events per second; as fast as they are taken if absent
    fields: {station: north}    # goes into every payload as it is
    random:                     # one value per event, always the same one for the same position
      city: {choice: [Oslo, Rome]}
      temperature: {low: -5, high: 30, digits: 1}
      tide: {low: 0, high: 4, digits: 2, period: 500}
    seed: 1                     # another seed, other values
    size_bytes: 200             # payloads are filled up to this size with a field `pad`
    event_type: reading         # the events' type

A payload is ``{"seq": <position>, <fields>, <random>}``. ``digits: 0``, the default, gives whole numbers; ``period`` makes
the value swing between low and high once in so many events. Every replica counts from 0 and has values of its own.

Guarantee: the event at a position is always the same, and after a restart the source goes on at exactly the first position
that is not yet safe in every sink.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Final

from msgspec import Meta, field

from flowctl_components.config import Config, invalid, read_config
from flowctl_components.line import encode
from flowctl_sdk import Context, Event, Source, run

_MASK: Final = 2**64 - 1
_BURST: Final = 256
_SHORTEST_SLEEP_S: Final = 0.001
_LONGEST_SLEEP_S: Final = 0.25
_CATCH_UP_S: Final = 1.0


class Values(Config, frozen=True, kw_only=True):
    """Where a random field's values come from: one of ``choice``, or numbers from ``low`` to ``high``."""

    choice: Annotated[list[Any], Meta(min_length=1)] | None = None
    low: float | None = None
    high: float | None = None
    digits: Annotated[int, Meta(ge=0, le=12)] = 0
    period: Annotated[int, Meta(ge=2)] | None = None


class GeneratorConfig(Config, frozen=True, kw_only=True):
    """See the module."""

    count: Annotated[int, Meta(ge=0)] | None = None
    rate: Annotated[float, Meta(gt=0, le=10_000_000)] | None = None
    fields: dict[str, Any] = field(default_factory=dict[str, Any])
    random: dict[str, Values] = field(default_factory=dict[str, Values])
    seed: int = 0
    size_bytes: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    event_type: str = ""


class Pace:
    """How many events are due, at a steady rate counted from the start and not from the last event, so that nothing drifts."""

    def __init__(self, rate: float, start_s: float) -> None:
        self._rate = rate
        self._start_s = start_s
        self._sent = 0

    def due(self, now_s: float) -> int:
        """How many events may go now; counts them as sent. A hold-up of more than a second is not made up for."""
        late_s = now_s - self._start_s - self._sent / self._rate
        if late_s > _CATCH_UP_S:
            self._start_s += late_s - _CATCH_UP_S
        events = max(0, math.floor((now_s - self._start_s) * self._rate) + 1 - self._sent)
        self._sent += events
        return events

    def wait_s(self, now_s: float) -> float:
        """How long until the next one is due."""
        return max(0.0, self._start_s + self._sent / self._rate - now_s)


def payload_maker(config: GeneratorConfig, stream: int) -> Callable[[int], bytes]:
    """A function from position to payload; ``stream`` tells replicas apart."""
    padding_bytes = config.size_bytes or 0
    draws = [
        (name, _draw(values, _mix(config.seed * 1_000_003 + stream * 8_191 + number)))
        for number, (name, values) in enumerate(config.random.items())
    ]
    if not draws:
        # The fast way: only the number changes.
        tail = encode(config.fields)[1:] if config.fields else b"}"
        tail = b"," + tail if config.fields else tail

        def plain(position: int) -> bytes:
            return _padded(b'{"seq":%d%b' % (position, tail), padding_bytes)

        return plain

    def drawn(position: int) -> bytes:
        values = {"seq": position, **config.fields, **{name: draw(position) for name, draw in draws}}
        return _padded(encode(values), padding_bytes)

    return drawn


class Generator(Source):
    """Events made up by rule, always the same one at the same position."""

    async def open(self, ctx: Context) -> None:
        """Read the configuration."""
        self._ctx = ctx
        self._config = read_config(ctx, GeneratorConfig)
        for name, values in self._config.random.items():
            numbers = values.low is not None and values.high is not None
            if (values.choice is None) != numbers or (values.low is None) != (values.high is None):
                raise invalid(ctx, f"random.{name}", "expected either 'choice' or both 'low' and 'high'")
            if values.low is not None and values.high is not None and values.low > values.high:
                raise invalid(ctx, f"random.{name}", f"low {values.low:g} is above high {values.high:g}")
            if values.choice is not None and values.period is not None:
                raise invalid(ctx, f"random.{name}", "'period' goes with 'low' and 'high', not with 'choice'")
        for name in ("seq", "pad"):
            if name in self._config.fields or name in self._config.random:
                raise invalid(ctx, "fields", f"{name!r} is the generator's own field")
        self._make = payload_maker(self._config, ctx.instance.index)

    async def events(self) -> AsyncIterator[bytes | Event]:
        """The events from where the last incarnation left off."""
        config, make, event_type = self._config, self._make, self._config.event_type
        position = self._ctx.resume_at
        end = config.count if config.count is not None else 2**63
        pace = Pace(config.rate, time.monotonic()) if config.rate is not None else None
        while position < end and not self._ctx.stopping.is_set():
            burst = min(_BURST, end - position) if pace is None else min(pace.due(time.monotonic()), end - position)
            for number in range(position, position + burst):
                payload = make(number)
                yield Event.of(payload, type=event_type, position=number) if event_type else payload
            position += burst
            if pace is not None and position < end:
                # At high rates many fall due in a millisecond and go together.
                await asyncio.sleep(min(max(pace.wait_s(time.monotonic()), _SHORTEST_SLEEP_S), _LONGEST_SLEEP_S))


def _draw(values: Values, stream: int) -> Callable[[int], Any]:
    if values.choice is not None:
        choice = values.choice
        return lambda position: choice[_mix(stream ^ position) % len(choice)]
    low, high, digits, period = values.low or 0.0, values.high or 0.0, values.digits, values.period

    def number(position: int) -> float | int:
        share = (1 - math.cos(2 * math.pi * position / period)) / 2 if period else _mix(stream ^ position) / _MASK
        value = round(low + (high - low) * share, digits)
        return value if digits else int(value)

    return number


def _mix(value: int) -> int:
    """A 64-bit number that looks random and depends on ``value`` alone (the finaliser of splitmix64, Steele et al. 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _padded(payload: bytes, size_bytes: int) -> bytes:
    missing = size_bytes - len(payload) - len(b',"pad":""')
    return b'%b,"pad":"%b"}' % (payload[:-1], b"x" * missing) if missing >= 0 else payload


if __name__ == "__main__":
    run(Generator())
