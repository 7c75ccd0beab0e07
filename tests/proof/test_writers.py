"""Eight writers on one aggregate while the server restarts, and a reader that is starved: nothing is lost, nothing slips by."""

import asyncio
import random
from pathlib import Path

from flowctl.errors import ConflictError, JournalUnavailableError
from flowctl.journal.audit import Audit
from flowctl.journal.jetstream import JetStreamStore
from support.journals import check_chains, collected, stop
from support.nats import connect, nats_server
from support.polling import take

SEED = 8
WRITERS = 8
EACH = 40


async def test_eight_writers_and_a_restarting_server(tmp_path: Path):
    """Every acknowledged entry is there once, and the chain of the aggregate is whole."""
    rng = random.Random(SEED)
    acknowledged: list[str] = []
    async with nats_server(tmp_path) as server:
        stores = [await connect(server, name=f"writer-{n}", request_timeout_s=15) for n in range(WRITERS)]

        async def write(store: JetStreamStore, name: int) -> None:
            for n in range(EACH):
                while True:
                    try:
                        [entry] = await store.journal.append([stop(f"{name}-{n}")], actor=f"w{name}")
                    except (ConflictError, JournalUnavailableError):
                        continue
                    acknowledged.append(entry.id)
                    break

        writing = [asyncio.create_task(write(store, n)) for n, store in enumerate(stores)]
        for _ in range(2):
            wanted = len(acknowledged) + rng.randint(20, 80)
            while len(acknowledged) < min(wanted, WRITERS * EACH - 10):
                await asyncio.sleep(0.005)
            await server.stop(adopted=True)
            await server.start()
        async with asyncio.timeout(60):
            await asyncio.gather(*writing)
        entries = await collected(stores[0].journal.read())
        check_chains(entries)
        assert len(set(acknowledged)) == WRITERS * EACH
        assert set(acknowledged) <= {entry.id for entry in entries}, f"seed {SEED}"
        audit = Audit()
        async for record in stores[0].journal.records():
            audit.add(record)
        audit.finish()
        assert audit.differences == []
        for store in stores:
            await store.close()


async def test_a_starved_reader_finds_no_silent_gap(tmp_path: Path):
    """It takes one entry, nothing for a while in which many thousands come, and then all of them."""
    async with nats_server(tmp_path) as server:
        writer, reader = await connect(server), await connect(server)
        await writer.journal.append([stop("0")], actor="test")
        following = reader.journal.follow()
        seen = [entry.seq for entry in await take(1, following)]
        for _ in range(24):
            await writer.journal.append([stop("x")] * 500, actor="test")
        seen += [entry.seq for entry in await take(12_000, following, timeout_s=60)]
        assert seen == list(range(1, 12_002))
        await following.aclose()  # type: ignore[attr-defined]
        await writer.close()
        await reader.close()
