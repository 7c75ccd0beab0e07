"""Taking snapshots of the fold as it goes, and those of the past that are missing, without keeping anybody waiting."""

import asyncio
import logging
from typing import Final

from flowctl import image
from flowctl.clock import Clock
from flowctl.errors import FlowctlError, JournalUnavailableError
from flowctl.fleet import Fleet
from flowctl.journal.log import Entry
from flowctl.journal.snapshots import EVERY, ROOM_BYTES
from flowctl.journal.store import Store
from flowctl.projection import Projection
from flowctl.snapshotting import nearest, schema, taken

PAUSE_S: Final = 0.002
"""Between pieces, and between stretches of the past: others go first."""
STRETCH: Final = 100
RETRY_S: Final = 5.0

log = logging.getLogger("flowctl.snapshots")


class Snapshotter:
    """Takes a snapshot at every entry whose sequence is a multiple of ``EVERY``.

    While the entry is folded only a shallow copy is made; encoding, compressing and storing come later, in pieces. Any number of
    services may do this: the first one's snapshot is everybody's.
    """

    def __init__(self, projection: Projection, store: Store, *, clock: Clock) -> None:
        self._projection = projection
        self._store = store
        self._clock = clock
        self._due: tuple[Fleet, str] | None = None
        self._news = asyncio.Event()
        projection.listen(self._heard)

    async def run(self) -> None:
        """Take snapshots until cancelled; first those that are missing of what was before this began."""
        filling = asyncio.create_task(self._fill(self._projection.fleet.seq), name="snapshots-of-the-past")
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                if self._due is not None:
                    (fleet, entry_hash), self._due = self._due, None
                    await self._take(fleet, entry_hash)
        finally:
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)

    def _heard(self, entry: Entry) -> None:
        if entry.seq % EVERY == 0:
            self._due = (image.frozen(self._projection.fleet), entry.hash)  # one that is not taken yet gives way
            self._news.set()

    async def _take(self, fleet: Fleet, entry_hash: str) -> None:
        """Store the snapshot of a fleet that changes no more, unless somebody has; a failure costs time only, and is logged."""
        try:
            if any(head.seq == fleet.seq for head in await self._store.snapshots.heads(schema())):
                return
            pieces: list[bytes] = []
            for piece in image.pieces(fleet):
                pieces.append(piece)
                await self._clock.sleep(PAUSE_S)
            snapshot = await asyncio.to_thread(taken, fleet, entry_hash, b"".join(pieces))
            await self._store.snapshots.put(snapshot)
        except FlowctlError as error:
            log.warning("there is no snapshot of entry %d: %s", fleet.seq, error)
        except Exception:
            log.exception("there is no snapshot of entry %d", fleet.seq)
        else:
            log.info("took the snapshot of entry %d: %d bytes", fleet.seq, snapshot.head.size_bytes)

    async def _fill(self, upto: int) -> None:
        """Take the snapshots that are missing up to an entry, as after an upgrade of the fold, while there is room for them."""
        while True:
            try:
                missing = await self._missing(upto)
                if missing:
                    await self._fold_through(missing)
            except JournalUnavailableError:
                await self._clock.sleep(RETRY_S)
            except FlowctlError as error:
                log.warning("the snapshots of the past are not complete: %s", error)
                return
            else:
                return

    async def _missing(self, upto: int) -> list[int]:
        if upto < EVERY:
            return []
        heads = await self._store.snapshots.heads(schema())
        there = {head.seq for head in heads}
        missing = [seq for seq in range(EVERY, upto + 1, EVERY) if seq not in there]
        largest = max((head.size_bytes for head in heads), default=0)
        if sum(head.size_bytes for head in heads) + len(missing) * largest > ROOM_BYTES // 2:
            return []  # the oldest had to go, and would again
        return missing

    async def _fold_through(self, missing: list[int]) -> None:
        journal, snapshots = self._store.journal, self._store.snapshots
        fleet = await nearest(journal, snapshots, upto=missing[0]) or Fleet()
        wanted = set(missing)
        async for entry in journal.read(after=fleet.seq, upto=missing[-1]):
            fleet.fold(entry)
            if entry.seq in wanted:
                await self._take(image.frozen(fleet), entry.hash)
            if entry.seq % STRETCH == 0:
                await self._clock.sleep(PAUSE_S)
