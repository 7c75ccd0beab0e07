"""From what a processor returned to the batch that goes on: identity, order and what is inherited.

Each output keeps its input's origin, position, time, type and metadata, unless it is an ``Event`` that says otherwise, and gets
``/<processor>.<ordinal>`` behind its input's path. Most processors return one plain value for each event, so that
is the fast way.
"""

from collections.abc import Sequence
from typing import Final, cast

import msgspec

from flowctl_sdk.columns import Columns, Names
from flowctl_sdk.event import UNSET_POSITION, Event, check, encode

_NONE: Final = type(None)
_encode_json = msgspec.json.Encoder().encode


class UnderivedError(ValueError):
    """A batch processor's outputs cannot be matched with its inputs."""


def derive(inputs: Columns, results: Sequence[object], suffix: str) -> tuple[Columns | None, int]:
    """The outputs of a processor named by ``suffix`` (``/double``), and the number of inputs that gave none.

    ``results[i]`` is what it returned for event ``i``.

    Raises:
        TypeError: if a result is of a type that no event can be made of.
        ValueError: if an ``Event`` among them has a time that is none, or text that is not Unicode.
    """
    kinds = set(map(type, results))
    if _NONE in kinds:
        if len(kinds) == 1:
            return None, len(inputs)
        kept = [event for event, result in enumerate(results) if result is not None]
        outputs, filtered = derive(inputs.select(kept), [results[event] for event in kept], suffix)
        return outputs, filtered + len(results) - len(kept)
    if kinds == {bytes}:
        return inputs.with_payloads(cast("Sequence[bytes]", results), suffix + ".0"), 0
    if not kinds & {Event, list, tuple}:
        payloads = list(map(_encode_json, results)) if kinds == {dict} else list(map(encode, results))
        return inputs.with_payloads(payloads, suffix + ".0"), 0
    rows = _Rows(inputs, suffix)
    for event, result in enumerate(results):
        if isinstance(result, list | tuple):
            for output in cast("Sequence[object]", result):
                if output is not None:
                    rows.add(event, output)
        else:
            rows.add(event, result)
    return rows.columns(), len(inputs) - rows.used


def derive_batch(inputs: Columns, events: Sequence[Event], results: Sequence[object], suffix: str) -> tuple[Columns | None, int]:
    """The outputs of a processor that takes a whole batch, and the number of inputs that gave none.

    An output that is an ``Event`` made from one of the inputs (``event.replace(…)``) derives from that one; any other derives
    from the input at the same place, and then there must be as many results as inputs.

    Raises:
        UnderivedError: if there are not.
        TypeError, ValueError: see ``derive``.
    """
    # The set first: it is the cheapest look at every result, and mostly there is no Event among them.
    if Event not in set(map(type, results)) or all(
        type(result) is not Event or result.position == UNSET_POSITION for result in results
    ):
        if not results:
            return None, len(inputs)
        if len(results) != len(events):
            raise UnderivedError(
                f"returned {len(results)} results for {len(events)} events: return one (or None) for each, or Events made "
                "with event.replace(…) from the events given"
            )
        return derive(inputs, results, suffix)
    places = {(event.origin, event.position, event.path): place for place, event in enumerate(events)}
    grouped: list[list[object]] = [[] for _ in events]
    for number, result in enumerate(results):
        place = None
        if isinstance(result, Event) and result.position != UNSET_POSITION:
            place = places.get((result.origin, result.position, result.path))
        if place is None and len(results) == len(events):
            place = number
        if place is None:
            raise UnderivedError(
                f"returned {len(results)} results for {len(events)} events, and result {number} does not say which it came of: "
                "make it with event.replace(…)"
            )
        if isinstance(result, list | tuple):
            grouped[place].extend(cast("Sequence[object]", result))
        else:
            grouped[place].append(result)
    return derive(inputs, grouped, suffix)


class _Rows:
    """Outputs one by one, for results that differ from event to event."""

    def __init__(self, inputs: Columns, suffix: str) -> None:
        self._inputs = inputs
        self._suffix = suffix
        self._last = -1
        self.used = 0
        self._ordinal = 0
        self._sources: list[int] = []
        self._payloads: list[bytes] = []
        self._times: list[int] = []
        self._paths: list[str] = []
        self._types: list[str] = []
        self._metadata: dict[int, dict[str, str]] = {}

    def add(self, source: int, output: object) -> None:
        """An output of the event ``source``; sources never go back.

        Raises:
            TypeError, ValueError: if it is no event.
        """
        if source == self._last:
            self._ordinal += 1
        else:
            self._last, self._ordinal = source, 0
            self.used += 1
        inputs = self._inputs
        metadata = inputs.metadata.get(source)
        if isinstance(output, Event):
            check(output)
            payload = output.payload
            time_ns = output.time_ns or inputs.times[source]
            name = output.type or inputs.types[source]
            metadata = output.metadata if output.metadata is not None else metadata
        else:
            payload, time_ns, name = encode(output), inputs.times[source], inputs.types[source]
        if metadata:
            self._metadata[len(self._sources)] = metadata
        self._sources.append(source)
        self._payloads.append(payload)
        self._times.append(time_ns)
        self._types.append(name)
        self._paths.append(f"{inputs.paths[source]}{self._suffix}.{self._ordinal}")

    def columns(self) -> Columns | None:
        """Everything added."""
        if not self._sources:
            return None
        positions = self._inputs.positions
        return Columns(
            self._payloads,
            self._times,
            [positions[source] for source in self._sources],
            self._inputs.origins.select(self._sources),
            Names.of(self._paths),
            Names.of(self._types),
            self._metadata,
        )
