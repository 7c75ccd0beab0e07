"""JMESPath expressions over events. The only module that imports the library."""

from typing import Final

import jmespath
import jmespath.exceptions
import msgspec

from flowctl_components.config import invalid
from flowctl_components.line import envelope
from flowctl_sdk import Context, Event

_decode: Final = msgspec.json.Decoder().decode
_EMPTY: Final[tuple[object, ...]] = ([], {})


class PayloadError(ValueError):
    """An event's payload is not what the component's expression needs."""


class Expression:
    """One compiled expression, applied to each event's JSON payload, or to its envelope (see ``line.envelope``)."""

    def __init__(self, ctx: Context, field: str, text: str, *, on_envelope: bool) -> None:
        """Compile ``text``, which stands in ``config`` under ``field``.

        Raises:
            InvalidSettingError: if it is not JMESPath.
        """
        self.text = text
        self._on_envelope = on_envelope
        try:
            self._search = jmespath.compile(text).search
        except jmespath.exceptions.JMESPathError as error:
            reason = " ".join(str(error).split())
            raise invalid(ctx, field, f"{text!r} is not a JMESPath expression: {reason}") from error

    def value(self, event: Event) -> object:
        """What the expression gives for the event.

        Raises:
            PayloadError: if the payload is not JSON or a function of the expression cannot take what it is given.
        """
        subject = envelope(event) if self._on_envelope else payload_value(event)
        try:
            return self._search(subject)
        except jmespath.exceptions.JMESPathError as error:
            raise PayloadError(f"{self.text!r} fails on event {event.id}: {' '.join(str(error).split())}") from error


def payload_value(event: Event) -> object:
    """The payload, decoded.

    Raises:
        PayloadError: if it is not JSON.
    """
    try:
        return _decode(event.payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PayloadError(f"the payload of event {event.id} is not JSON: {error}: {event.payload[:80]!r}") from error


def is_true(value: object) -> bool:
    """JMESPath's own truth: null, false and empty text, lists and objects are false; everything else, also 0, is true."""
    return value is not None and value is not False and value != "" and value not in _EMPTY
