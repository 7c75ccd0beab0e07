"""The event as a component author sees it, and how an author's value becomes a payload."""

# ruff: noqa: A002 - "type" is what the field is called
from typing import Any, Final, cast

import msgspec

_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode

UNSET_POSITION: Final = -1
_TIME_END_NS: Final = 1 << 63


class Event(msgspec.Struct, frozen=True, gc=False):
    """One piece of the user's data.

    ``time_ns`` is Unix time in nanoseconds. ``position`` counts the events of one source, ``origin`` is that source's
    ``<component>.<index>``, and ``path`` what processors added. These three make the ``id``; flowctl sets them, so what an author
    puts there counts only for ``position`` at a source. The fields' order is the hot path's: the columns of a batch.
    """

    payload: bytes
    time_ns: int = 0
    position: int = UNSET_POSITION
    origin: str = ""
    path: str = ""
    type: str = ""
    metadata: dict[str, str] | None = None
    cursor: bytes | None = None

    @property
    def id(self) -> str:
        """``<component>.<index>:<position>`` at the source, and ``/<processor>.<ordinal>`` for each processor after it."""
        return f"{self.origin}:{self.position}{self.path}"

    def json(self) -> Any:  # noqa: ANN401 - JSON can be anything
        """The payload, decoded as JSON.

        Raises:
            msgspec.DecodeError: if it is not JSON.
        """
        return _decode_json(self.payload)

    def replace(
        self, value: object = None, *, type: str | None = None, metadata: dict[str, str] | None = None, time_ns: int | None = None
    ) -> "Event":
        """The same event with another payload (any value that ``Event.of`` takes), type, metadata or time."""
        return Event(
            self.payload if value is None else encode(value),
            self.time_ns if time_ns is None else time_ns,
            self.position,
            self.origin,
            self.path,
            self.type if type is None else type,
            self.metadata if metadata is None else metadata,
            self.cursor,
        )

    @staticmethod
    def of(
        value: object,
        *,
        type: str = "",
        metadata: dict[str, str] | None = None,
        time_ns: int = 0,
        position: int = UNSET_POSITION,
        cursor: bytes | None = None,
    ) -> "Event":
        """An event of bytes, text or anything that JSON can say.

        A processor's output takes over what is not given from the event that it came of; a source's gets the time of now and
        the next position. ``cursor`` is the source's own description of the place after this event, at most 64 KiB.

        Raises:
            TypeError: if the value is of another type.
        """
        return Event(encode(value), time_ns, position, "", "", type, metadata, cursor)


def encode(value: object) -> bytes:
    """The payload for an author's value: bytes as they are, text as UTF-8, dicts, lists and structs as JSON.

    Raises:
        TypeError: if the value is of another type.
    """
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict | list | msgspec.Struct):
        return _encode_json(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(cast("bytearray", value))
    raise TypeError(f"expected bytes, str, dict, list or Event, found {type(value).__name__}")


def check(event: Event) -> None:
    """Look at what an author put into an event, where a message has no room for everything that Python has.

    Raises:
        TypeError: if a field is of another type than ``Event`` says.
        ValueError: if the time is out of range, or a text is not Unicode.
    """
    if not isinstance(cast("object", event.payload), bytes):
        raise TypeError(f"its payload is {type(event.payload).__name__}, not bytes")
    if event.time_ns:
        if not isinstance(cast("object", event.time_ns), int):
            raise TypeError(f"its time_ns is {type(event.time_ns).__name__}, not int")
        if not 0 <= event.time_ns < _TIME_END_NS:
            raise ValueError(f"its time_ns is {event.time_ns}, not from 0 to 2^63 - 1")
    if event.type:
        _check_text(event.type, "its type")
    if event.metadata:
        if not isinstance(cast("object", event.metadata), dict):
            raise TypeError(f"its metadata is {type(event.metadata).__name__}, not dict")
        for key, value in event.metadata.items():
            _check_text(key, "a key of its metadata")
            _check_text(value, f"its metadata {key!r}")


def _check_text(value: object, what: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{what} is {type(value).__name__}, not str")
    if not value.isascii():
        value.encode()
