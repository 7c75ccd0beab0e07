"""Processor ``filter``: lets the events through for which an expression is true.

Configuration::

    where: "damage != 'None' && to_number(cost) > `1000`"    # JMESPath, over the payload
    envelope: false                                          # true: over {id, time, type, metadata, payload}

With ``envelope: true`` the expression sees the whole event: ``type == 'order' && metadata.region == 'eu' && payload.total >
`10```. Null, false, and empty text, lists and objects are false; everything else is true, also 0 (JMESPath's own rule).

Guarantee: events keep their payload, type, metadata and order. A payload that is not JSON, or that a function of the
expression cannot take, is an error of that event, and ``on_error`` decides.
"""

from flowctl_components.config import Config, read_config
from flowctl_components.expression import Expression, is_true
from flowctl_sdk import Context, Event, Processor, run


class FilterConfig(Config, frozen=True, kw_only=True):
    """See the module."""

    where: str
    envelope: bool = False


class Filter(Processor):
    """Lets the events through for which an expression is true."""

    async def open(self, ctx: Context) -> None:
        """Compile the expression."""
        config = read_config(ctx, FilterConfig)
        self._where = Expression(ctx, "where", config.where, on_envelope=config.envelope)

    def process(self, event: Event) -> bytes | None:
        """The payload as it came, or None."""
        return event.payload if is_true(self._where.value(event)) else None


if __name__ == "__main__":
    run(Filter())
