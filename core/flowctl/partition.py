"""Which replica an event goes to when its component has ``partition_by``: the same key always to the same one.

The definition, for every language:

1. The key is bytes. ``id``, ``type`` and ``metadata.<key>`` give the UTF-8 bytes of that text, a missing metadata key no bytes;
   ``payload`` gives the payload as it is; ``payload.<JMESPath>`` decodes the payload as JSON and takes what the expression
   selects: of a text its UTF-8 bytes, of null or nothing no bytes, of anything else its JSON without spaces, keys sorted.
2. The replica is ``crc32(key) mod replicas``, the CRC being CRC-32/ISO-HDLC (zlib, gzip, PNG; polynomial 0x04C11DB7 reflected,
   initial value and final xor 0xFFFFFFFF; check value of ``123456789`` is 0xCBF43926) as an unsigned number.

A change of ``replicas`` moves most keys.
"""

import zlib
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from flowctl.errors import UserError

PARTITION_FIELDS: Final = ("id", "type", "payload", "metadata")

PartitionField = Literal["id", "type", "payload", "metadata"]


class PartitionBy(msgspec.Struct, frozen=True):
    """A parsed ``partition_by``: ``selector`` is the JMESPath of ``payload.<JMESPath>`` or the key of ``metadata.<key>``."""

    field: PartitionField
    selector: str | None = None

    @classmethod
    def parse(cls, text: str) -> "PartitionBy":
        """Read ``id``, ``type``, ``payload``, ``payload.<JMESPath>`` or ``metadata.<key>``; the JMESPath is not compiled here.

        Raises:
            UserError: if the text is none of these.
        """
        field, dot, selector = text.partition(".")
        match field:
            case "id" | "type" | "payload" if not dot:
                return cls(field)
            case "payload" | "metadata" if selector.strip():
                return cls(field, selector)
            case _:
                expected = "id, type, payload, payload.<JMESPath> or metadata.<key>"
                raise UserError(f"found {text[:60]!r}, expected {expected}")


def partition(key: bytes, replicas: int) -> int:
    """The index of the replica for a key, 0 to ``replicas - 1``."""
    return zlib.crc32(key) % replicas


def partitions(keys: Iterable[bytes], replicas: int) -> list[int]:
    """The index of the replica for each key: ``partition``, for many."""
    return [crc % replicas for crc in map(zlib.crc32, keys)]


def key_bytes(value: object) -> bytes:
    """The key that a JSON value stands for (see the module's definition)."""
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode()
    return msgspec.json.encode(value, order="sorted")
