"""Beginning from a snapshot: which one may be believed, and the fleet that it holds.

Anything wrong with one (its sum, its schema, the entry that it was taken at) means that it is passed over, and said in the log.
"""

import functools
import hashlib
import importlib
import logging
from pathlib import Path
from typing import Final

from flowctl import image
from flowctl.errors import NotFoundError
from flowctl.fleet import Fleet
from flowctl.journal.log import Journal
from flowctl.journal.snapshots import Snapshot, SnapshotHead, Snapshots

FOLD_MODULES: Final = (
    "flowctl.ids",
    "flowctl.fleet",
    "flowctl.image",
    "flowctl.instance",
    "flowctl.journal.codec",
    "flowctl.journal.events",
    "flowctl.journal.log",
    "flowctl.journal.seals",
    "flowctl.journal.subjects",
    "flowctl.spec.model",
)
"""What decides on the state that comes of a journal."""

log = logging.getLogger("flowctl.snapshots")


@functools.cache
def schema() -> str:
    """The hash (SHA-256, hex) of the code that folds: states of other code, older or newer, are not this one's."""
    digest = hashlib.sha256()
    for name in FOLD_MODULES:
        file = importlib.import_module(name).__file__ or ""
        digest.update(name.encode() + b"\n" + hashlib.sha256(Path(file).read_bytes()).digest())
    return digest.hexdigest()


async def nearest(journal: Journal, snapshots: Snapshots, *, upto: int, after: int = 0) -> Fleet | None:
    """The fleet of the newest valid snapshot that was taken after ``after`` and not after ``upto``; None if there is none.

    Raises:
        JournalUnavailableError, JournalCorruptError: see ``Journal.entry``.
    """
    heads = await snapshots.heads(schema())
    for head in reversed([head for head in heads if after < head.seq <= upto]):
        try:
            return await _restored(journal, snapshots, head)
        except ValueError as error:
            log.warning("the snapshot at entry %d is passed over: %s", head.seq, error)
    return None


async def _restored(journal: Journal, snapshots: Snapshots, head: SnapshotHead) -> Fleet:
    """The fleet of a snapshot.

    Raises:
        ValueError: it must not be used.
    """
    try:
        entry = await journal.entry(head.seq)
    except NotFoundError as error:
        raise ValueError("the journal has no such entry") from error
    if entry.hash != head.entry_hash:
        raise ValueError("the journal has another entry there")
    snapshot = await snapshots.get(head)
    if snapshot is None:
        raise ValueError("a part of it is gone")
    fleet = image.restored(snapshot.state())
    if fleet.seq != head.seq:
        raise ValueError(f"it is the state after entry {fleet.seq}")
    return fleet


def taken(fleet: Fleet, entry_hash: str, state: bytes) -> Snapshot:
    """The snapshot of a fleet whose bytes are ``state``, just after the entry with this hash."""
    return Snapshot.of(state, seq=fleet.seq, entry_hash=entry_hash, schema=schema(), time_ns=fleet.time_ns)
