"""The event as a component author sees it, and how an author's value becomes a payload."""

# ruff: noqa: A002 - "type" is what the field is called
from typing import Any, Final, cast

import msgspec

_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode

UNSET_POSITION: Final = -1


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
