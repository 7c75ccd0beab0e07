"""A reading that is to end gives all there was when it began, whichever server of a cluster it is served by, and does end."""

import asyncio

import pytest

from flowctl.errors import JournalUnavailableError
from flowctl.ids import InstanceId
from flowctl.journal.jetstream import reader
from flowctl.journal.jetstream.connection import Connection
from flowctl.journal.jetstream.reader import StreamReader
from flowctl.journal.logs import LogLine
from flowctl.journal.subjects import JOURNAL_ROOT, LOG_STREAM
from support.journals import collected, stop
from support.nats import connect, nats_server

PART = f"{JOURNAL_ROOT}.pipeline.*.stop_requested"


@pytest.mark.parametrize("subject", [None, PART, [PART, f"{JOURNAL_ROOT}.host.>"]])
@pytest.mark.parametrize("late", [1, 3])
async def test_a_consumer_on_a_server_that_lags_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch, subject: str | list[str] | None, late: int
):
    """That server says that nothing waits; the stream's leader says what there is, and another one is made until it has it."""
    create = getattr(StreamReader, "_create")  # noqa: B009 - the seam between the reading and the server
    created = 0

    async def lagging(self: StreamReader) -> int:
        nonlocal created
        created += 1
        waiting = await create(self)
        return 0 if created <= late else waiting

    async with nats_server() as server:
        store = await connect(server)
        for n in range(40):
            await store.journal.append([stop(f"p{n}")], actor="test")
        monkeypatch.setattr(Connection, "server_info", {"cluster": "three"})
        monkeypatch.setattr(StreamReader, "_create", lagging)
        assert len(await collected(store.journal.read(subject=subject))) == 40
        assert created == late + 1
        await store.close()


async def test_a_server_that_never_catches_up_is_told(monkeypatch: pytest.MonkeyPatch):
    """Not an end that is none."""

    async def nothing(self: StreamReader) -> int:
        del self
        return 0

    async with nats_server() as server:
        store = await connect(server, request_timeout_s=1.0)
        await store.journal.append([stop("a")], actor="test")
        monkeypatch.setattr(Connection, "server_info", {"cluster": "three"})
        monkeypatch.setattr(StreamReader, "_create", nothing)
        with pytest.raises(JournalUnavailableError, match="no server gives entries"):
            await collected(store.journal.read(subject=PART))
        await store.close()


async def test_it_ends_although_what_it_waits_for_was_discarded(monkeypatch: pytest.MonkeyPatch):
    """A full stream lets go of its oldest lines while somebody reads them."""
    monkeypatch.setattr(reader, "ENDING_EXPIRES_S", 3)
    monkeypatch.setattr(reader, "IDLE_HEARTBEAT_S", 1)
    more = getattr(StreamReader, "_request_more")  # noqa: B009 - as above
    async with nats_server() as server:
        store = await connect(server)
        line = LogLine(InstanceId("orders", "a", 0), 1, "stdout", "hello", 1)
        await store.logs.publish([line])

        async def discarded_first(self: StreamReader, count: int) -> None:
            await store.nc.jetstream().purge_stream(LOG_STREAM)
            await more(self, count)

        monkeypatch.setattr(StreamReader, "_request_more", discarded_first)
        async with asyncio.timeout(15):
            assert [found async for found in store.logs.read("orders")] == []
        await store.close()
