"""Snapshots: states of the fold at some entries, so that nobody must read the journal from its beginning.

Only ever an optimisation: one that is missing or wrong costs time and changes nothing. The state is compressed (zlib).
"""

import hashlib
import zlib
from typing import Final, Protocol

import msgspec

EVERY: Final = 10_000
"""A snapshot is taken at each entry whose sequence is a multiple of this."""
ROOM_BYTES: Final = 1 << 30
"""How much all snapshots together may take, unless the operator chose otherwise for the stream."""
MAX_STATE_BYTES: Final = 1 << 30


class SnapshotHead(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of a snapshot: the entry whose state it is and that entry's hash, the schema of the fold that made it (hex),
    the SHA-256 (hex) of its compressed state, and how many bytes that has. ``time_ns`` is the server's time of the entry.
    """  # noqa: D205 - one sentence of five parts

    seq: int
    entry_hash: str
    schema: str
    checksum: str
    size_bytes: int
    time_ns: int = 0


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot with its compressed state."""

    head: SnapshotHead
    data: bytes

    @classmethod
    def of(cls, state: bytes, *, seq: int, entry_hash: str, schema: str, time_ns: int = 0) -> "Snapshot":
        """The snapshot of a state."""
        data = zlib.compress(state, 1)
        checksum = hashlib.sha256(data).hexdigest()
        head = SnapshotHead(
            seq=seq, entry_hash=entry_hash, schema=schema, checksum=checksum, size_bytes=len(data), time_ns=time_ns
        )
        return cls(head, data)

    def state(self) -> bytes:
        """The state.

        Raises:
            ValueError: the data is not what was stored.
        """
        if hashlib.sha256(self.data).hexdigest() != self.head.checksum:
            raise ValueError("its checksum is wrong")
        unpacked = zlib.decompressobj()
        try:
            state = unpacked.decompress(self.data, MAX_STATE_BYTES)
        except zlib.error as error:
            raise ValueError(f"its data cannot be unpacked: {error}") from error
        if not unpacked.eof:
            raise ValueError("its data is cut off or too large")
        return state


class Snapshots(Protocol):
    """The stored snapshots. The oldest go when there is no more room."""

    async def put(self, snapshot: Snapshot) -> None:
        """Store a snapshot. Storing the same one again, from anywhere, changes nothing.

        Raises:
            JournalUnavailableError: it may not have been stored.
        """
        ...

    async def heads(self, schema: str) -> list[SnapshotHead]:
        """What there is of a schema, by sequence; nothing where nobody ever stored one.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...

    async def get(self, head: SnapshotHead) -> Snapshot | None:
        """The snapshot as it is stored, right or wrong; None if (a part of) it is gone.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...
