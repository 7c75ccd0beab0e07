"""A fleet as bytes and back: the state of a snapshot. Pure.

``frozen`` gives a copy that the fold leaves alone, so that the bytes can be made later, piece by piece. A piece is a head (which
field, how long) and msgpack; a mapping is cut into pieces of some hundred items, because the event loop waits for each.
"""

import copy
import struct
from collections.abc import Iterator
from typing import Any, Final, cast, get_args, get_origin, get_type_hints

import msgspec

from flowctl.fleet import Fleet

ITEMS_A_PIECE: Final = 200
DERIVED: Final = frozenset({"members"})
"""What ``restored`` makes anew."""

_HEAD: Final = struct.Struct(">BI")
_encoder: Final = msgspec.msgpack.Encoder()
_TYPES: Final[dict[str, Any]] = {name: hint for name, hint in get_type_hints(Fleet).items() if name not in DERIVED}
_NAMES: Final[tuple[str, ...]] = tuple(_TYPES)


def _decoder(hint: Any) -> "msgspec.msgpack.Decoder[Any]":  # noqa: ANN401 - a type
    if get_origin(hint) is dict:
        key, value = get_args(hint)
        return msgspec.msgpack.Decoder(list[tuple[key, value]])
    return msgspec.msgpack.Decoder(hint)


_DECODERS: Final = {name: _decoder(hint) for name, hint in _TYPES.items()}


def frozen(fleet: Fleet) -> Fleet:
    """A copy that stays as it is. Only what the fold changes in place is copied: containers and structs that are not frozen."""
    return Fleet(**{name: _frozen(getattr(fleet, name)) for name in _NAMES})


def _frozen(value: object) -> Any:  # noqa: ANN401 - the same type as given
    if isinstance(value, dict):
        items = cast("dict[Any, object]", value)
        return {key: copy.copy(each) if _changes(each) else each for key, each in items.items()}
    if isinstance(value, list | set) or _changes(value):
        return copy.copy(cast("object", value))
    return value


def _changes(value: object) -> bool:
    return isinstance(value, msgspec.Struct) and not value.__struct_config__.frozen


def pieces(fleet: Fleet) -> Iterator[bytes]:
    """The bytes of a fleet, in pieces that each take a few milliseconds."""
    for number, name in enumerate(_NAMES):
        value: object = getattr(fleet, name)
        if isinstance(value, dict):
            items = list(cast("dict[object, object]", value).items())
            for at in range(0, len(items), ITEMS_A_PIECE):
                yield _piece(number, items[at : at + ITEMS_A_PIECE])
        else:
            yield _piece(number, value)


def _piece(number: int, value: object) -> bytes:
    data = _encoder.encode(value)
    return _HEAD.pack(number, len(data)) + data


def restored(data: bytes) -> Fleet:
    """The fleet of these bytes.

    Raises:
        ValueError: they are not those of a fleet.
    """
    fleet = Fleet()
    at = 0
    try:
        while at < len(data):
            number, length = cast("tuple[int, int]", _HEAD.unpack_from(data, at))
            name = _NAMES[number]
            at += _HEAD.size
            if at + length > len(data):
                raise ValueError("the last piece is cut off")
            value = _DECODERS[name].decode(memoryview(data)[at : at + length])
            at += length
            if get_origin(_TYPES[name]) is dict:
                getattr(fleet, name).update(value)
            else:
                setattr(fleet, name, value)
    except (struct.error, IndexError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"it is not the image of a fleet: {error}") from error
    instances = list(fleet.instances.values())
    fleet.instances.clear()
    fleet.add(instances)
    return fleet
