"""Snapshots on JetStream: in a stream of their own, cut into messages that any server takes, the head last."""

import asyncio
import contextlib
from typing import Final

import msgspec
from nats.aio.msg import Msg

from flowctl.errors import JournalCorruptError
from flowctl.journal import subjects
from flowctl.journal.jetstream.connection import Connection
from flowctl.journal.jetstream.heartbeats import acknowledged
from flowctl.journal.jetstream.reader import Position, StreamReader
from flowctl.journal.snapshots import Snapshot, SnapshotHead

CHUNK_BYTES: Final = 512 * 1024
IN_FLIGHT: Final = 8
MSG_ID: Final = "Nats-Msg-Id"
HEAD: Final = "head"

_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(SnapshotHead)


class JetStreamSnapshots:
    """See ``Snapshots``. The checksum stands in the subject, so that two writers can never mix their parts."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def put(self, snapshot: Snapshot) -> None:
        """See ``Snapshots``."""
        head, data = snapshot.head, snapshot.data
        chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        for at in range(0, len(chunks), IN_FLIGHT):
            group = enumerate(chunks[at : at + IN_FLIGHT], start=at)
            await acknowledged(self._connection, [await self._send(head, f"{number:06d}", chunk) for number, chunk in group])
            await asyncio.sleep(0)
        await acknowledged(self._connection, [await self._send(head, HEAD, _encoder.encode(head))])

    async def _send(self, head: SnapshotHead, part: str, data: bytes) -> "asyncio.Future[Msg]":
        subject = subjects.snapshot_subject(head.schema, head.seq, head.checksum, part)
        return await self._connection.send(subject, data, {MSG_ID: subject})

    async def heads(self, schema: str) -> list[SnapshotHead]:
        """See ``Snapshots``."""
        found: list[SnapshotHead] = []
        for data in (await self._read(subjects.snapshot_filter(schema, HEAD))).values():
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                head = _decoder.decode(data)
                if head.schema == schema:
                    found.append(head)
        return sorted(found, key=lambda head: head.seq)

    async def get(self, head: SnapshotHead) -> Snapshot | None:
        """See ``Snapshots``."""
        parts = await self._read(subjects.snapshot_subject(head.schema, head.seq, head.checksum, "*"))
        data = b"".join(parts[name] for name in sorted(parts) if not name.endswith(HEAD))
        return Snapshot(head, data) if len(data) == head.size_bytes else None

    async def _read(self, subject: str) -> dict[str, bytes]:
        """The messages by subject."""
        self._connection.raise_if_broken()
        reader = StreamReader(self._connection, subjects.SNAPSHOT_STREAM, subject=subject)
        found: dict[str, bytes] = {}
        try:
            async with contextlib.aclosing(reader.batches(Position(), follow=False)) as batches:
                async for raws in batches:
                    found |= {raw.subject: raw.data for raw in raws}
        except JournalCorruptError:  # there is no such stream: a store of an earlier version, or somebody deleted it
            return {}
        return found
