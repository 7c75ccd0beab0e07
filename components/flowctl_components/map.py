"""Processor ``map``: makes another payload of each event.

Configuration, at least one of the first four::

    select: "{city: place.city, total: sum(items[].price)}"  # JMESPath, over the payload; its result is the new payload
    set: {currency: EUR}                                     # fields written over the result, which must be an object then
    unset: [internal_id]                                     # fields taken out of it
    event_type: order                                        # the new type
    each: false                                              # true: the result is a list, and each element an event
    envelope: false                                          # true: select sees {id, time, type, metadata, payload}

Guarantee: one event for each (with ``each`` one per element, in order), with the metadata and time of what it came of. A
result of null is the payload ``null``. A payload that does not fit is an error of that event, and ``on_error`` decides.
"""

from typing import Any, cast

from msgspec import field

from flowctl_components.config import Config, invalid, read_config
from flowctl_components.expression import Expression, PayloadError, payload_value
from flowctl_components.line import encode
from flowctl_sdk import Context, Event, Processor, run


class MapConfig(Config, frozen=True, kw_only=True):
    """See the module."""

    select: str | None = None
    set: dict[str, Any] = field(default_factory=dict[str, Any])
    unset: list[str] = field(default_factory=list[str])
    event_type: str = ""
    each: bool = False
    envelope: bool = False


class Map(Processor):
    """Makes another payload of each event."""

    async def open(self, ctx: Context) -> None:
        """Compile the expression."""
        self._config = config = read_config(ctx, MapConfig)
        if config.select is None and not config.set and not config.unset and not config.event_type:
            raise invalid(ctx, "", "expected at least one of 'select', 'set', 'unset' and 'event_type'")
        if config.select is None and config.envelope:
            raise invalid(ctx, "envelope", "it says what 'select' sees, and there is no 'select'")
        self._select = None if config.select is None else Expression(ctx, "select", config.select, on_envelope=config.envelope)

    def process(self, event: Event) -> bytes | Event | list[Event]:
        """The new payload, or events where there are several or the type changes."""
        config = self._config
        if self._select is None and not config.set and not config.unset and not config.each:
            return event.replace(type=config.event_type)
        value = payload_value(event) if self._select is None else self._select.value(event)
        if config.each:
            if not isinstance(value, list):
                raise PayloadError(f"expected a list for 'each' from event {event.id}, found {encode(value)[:80].decode()}")
            elements = cast("list[Any]", value)
            return [event.replace(self._changed(event, element), type=config.event_type or None) for element in elements]
        payload = self._changed(event, value)
        return event.replace(payload, type=config.event_type) if config.event_type else payload

    def _changed(self, event: Event, value: object) -> bytes:
        config = self._config
        if config.set or config.unset:
            if not isinstance(value, dict):
                raise PayloadError(f"expected an object for 'set' from event {event.id}, found {encode(value)[:80].decode()}")
            fields = cast("dict[str, Any]", value)
            value = {**{name: content for name, content in fields.items() if name not in config.unset}, **config.set}
        return encode(value)


if __name__ == "__main__":
    run(Map())
