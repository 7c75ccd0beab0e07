"""A journal in which something was changed that was seen here before is refused, however new the snapshot that would hide it."""

from pathlib import Path

import pytest

from flowctl import serving
from flowctl.errors import JournalCorruptError
from flowctl.fleet import Fleet
from flowctl.image import pieces
from flowctl.journal import codec, seals
from flowctl.journal.log import Record
from flowctl.journal.snapshots import EVERY
from flowctl.past import fleet_at
from flowctl.seen import Seen, SeenFile
from flowctl.settings import Settings, load_settings
from flowctl.snapshotting import taken
from support.nats import connect, nats_server
from support.records import journal

SEEN = 4_000


def digest_at(records: list[Record], seq: int) -> str:
    """The journal's digest after that entry."""
    digest = seals.NOTHING
    for record in records[:seq]:
        digest = seals.advance(digest, codec.entry_hash(record.subject, record.headers, record.data), record.time_ns)
    return digest


@pytest.mark.parametrize("changed", [False, True])
async def test_a_change_below_the_newest_snapshot(tmp_path: Path, *, changed: bool):
    """A service that begins at a snapshot would never read the place; so it begins before what it saw, and compares."""
    records = journal(EVERY + 300)
    async with nats_server(tmp_path / "nats") as server:
        store = await connect(server)
        for at in range(0, len(records), 500):
            await store.journal.restore(records[at : at + 500], upto=len(records))
        fleet = await fleet_at(store, EVERY)
        await store.snapshots.put(taken(fleet, (await store.journal.entry(EVERY)).hash, b"".join(pieces(fleet))))
        settings = load_settings(Settings, state_dir=tmp_path, nats_url=server.url, nats_monitor_url=server.monitor_url)
        digest = "ab" * 32 if changed else digest_at(records, SEEN)
        for key in ("", store.connection.shown):
            SeenFile(tmp_path, key).write(Seen(store.journal.created, SEEN, digest))
        await store.close()
        if changed:
            with pytest.raises(JournalCorruptError, match=f"up to entry {SEEN} is not the one that was seen here before"):
                await serving.open_context(settings)
            return
        context, following = await serving.open_context(settings)
        assert isinstance(context.projection.fleet, Fleet)
        assert context.projection.fleet.seq == len(records)
        await serving.close_context(context, following)
