"""What the JetStream store refuses, survives and notices."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowctl.errors import (
    EXIT_UNREACHABLE,
    InvalidSettingError,
    JournalAbsentError,
    JournalCorruptError,
    JournalMisconfiguredError,
    JournalUnavailableError,
)
from flowctl.journal import subjects
from flowctl.journal.embedded import EmbeddedNats
from flowctl.journal.jetstream import Connection, JetStreamStore
from flowctl.journal.jetstream.server_check import check_server_info
from flowctl.journal.jetstream.streams import StreamInfo, journal_settings
from support.journals import ORDERS, check_chains, collected, starting, stop
from support.nats import connect, nats_server, nats_store
from support.polling import eventually, take


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedNats]:
    async with nats_server() as server:
        yield server


@pytest.fixture
async def raw(server: EmbeddedNats) -> AsyncIterator[Connection]:
    connection = Connection(server.url, name="operator", connect_timeout_s=5, request_timeout_s=5)
    await connection.open()
    yield connection
    await connection.close()


# --- refusing --------------------------------------------------------------------------------------------------------------


class SlowlySynced(EmbeddedNats):
    """A server with the default fsync interval."""

    def _config(self, state: Any) -> bytes:
        return super()._config(state).replace(b'"always"', b'"2m"')


async def test_a_server_that_does_not_fsync_is_refused(tmp_path: Path):
    """With the default setting a power failure takes acknowledged entries back: refused, naming the setting and both values."""
    server = SlowlySynced(tmp_path)
    await server.start()
    try:
        with pytest.raises(JournalMisconfiguredError, match=r"jetstream sync_interval is 120s and must be always"):
            await connect(server)
        vouched = await JetStreamStore.connect(server.url, name="test", assume_synced=True)
        await vouched.close()
    finally:
        await server.stop()


async def test_an_fsync_setting_that_nobody_proves_is_refused(server: EmbeddedNats):
    """No monitoring address, or that of something else: a client cannot see the setting, so it must not assume it."""
    with pytest.raises(JournalMisconfiguredError, match="sync_interval cannot be seen"):
        await JetStreamStore.connect(server.url, name="test")
    async with nats_server() as other:
        with pytest.raises(JournalMisconfiguredError, match="monitor_url"):
            await JetStreamStore.connect(server.url, name="test", monitor_url=other.monitor_url)
    with pytest.raises(JournalUnavailableError, match="monitor_url"):
        await JetStreamStore.connect(server.url, name="test", monitor_url="http://127.0.0.1:9")
    with pytest.raises(JournalMisconfiguredError, match="monitor_url"):
        await JetStreamStore.connect(server.url, name="test", monitor_url="nonsense")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_age": 3_600_000_000_000}, "max_age is 3600000000000 and must be 0"),
        ({"allow_atomic": False}, "allow_atomic is false and must be true"),
        ({"storage": "memory"}, "storage is memory and must be file"),
        ({"discard": "old", "deny_purge": False}, "discard is old and must be new"),
        ({"deny_delete": False}, "deny_delete is false and must be true"),
        ({"deny_purge": False}, "deny_purge is false and must be true"),
        ({"max_bytes": 1_000_000}, "max_bytes is 1000000 and must be -1"),
        ({"max_msgs": 100}, "max_msgs is 100 and must be -1"),
        ({"max_msgs_per_subject": 1}, "max_msgs_per_subject is 1 and must be -1"),
        ({"subjects": ["flowctl.journal.component.>"]}, r'subjects is \["flowctl.journal.component.>"\] and must be'),
        ({"retention": "interest"}, "retention is interest and must be limits"),
        ({"allow_direct": True}, "allow_direct is true and must be false"),
        ({"duplicate_window": 1_000_000_000}, "duplicate_window is 1000000000 and must be 120000000000"),
        ({"allow_rollup_hdrs": True, "deny_purge": False}, "deny_purge is false and must be true"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
async def test_a_stream_with_another_setting_is_refused_and_left_alone(
    server: EmbeddedNats, raw: Connection, change: dict[str, Any], said: str
):
    """The message names the stream, the setting, what it is and what it must be; the stream stays as its operator made it."""
    await raw.api(f"STREAM.CREATE.{subjects.JOURNAL_STREAM}", journal_settings(1) | change, StreamInfo)
    before = await raw.api(f"STREAM.INFO.{subjects.JOURNAL_STREAM}", None, StreamInfo)
    with pytest.raises(JournalMisconfiguredError, match=f"FLOWCTL_JOURNAL: {said}"):
        await connect(server)
    after = await raw.api(f"STREAM.INFO.{subjects.JOURNAL_STREAM}", None, StreamInfo)
    assert after.config == before.config


async def test_replicas_that_nobody_can_hold_are_refused(server: EmbeddedNats):
    """Three copies on one server: the server's own words come through."""
    with pytest.raises(JournalMisconfiguredError, match="replicas"):
        await JetStreamStore.connect(server.url, name="test", monitor_url=server.monitor_url, replicas=3)


async def test_streams_are_not_made_unasked(server: EmbeddedNats):
    """With ``create=False`` an absent stream is a refusal: the control plane is not there yet (exit code 3)."""
    with pytest.raises(JournalAbsentError, match="FLOWCTL_JOURNAL does not exist") as refused:
        await JetStreamStore.connect(server.url, name="test", monitor_url=server.monitor_url, create=False)
    assert refused.value.exit_code == EXIT_UNREACHABLE


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"version": "2.9.10", "jetstream": True, "max_payload": 1 << 20}, "version is 2.9.10 and must be at least 2.14.6"),
        ({"jetstream": True, "max_payload": 1 << 20}, "version is unknown"),
        ({"version": "2.15.1", "max_payload": 1 << 20}, "jetstream is off"),
        ({"version": "2.15.1", "jetstream": True, "max_payload": 1000}, "max_payload is 1000 and must be at least"),
    ],
)
def test_a_server_that_cannot_is_refused(info: dict[str, Any], said: str):
    """Too old, without JetStream, or with a small payload limit."""
    with pytest.raises(JournalMisconfiguredError, match=said):
        check_server_info(info)


async def test_a_cluster_without_a_leader_is_absent_and_not_wrong(raw: Connection):
    """A service that took that refusal for a fault of its own would end, and stay away when the leader is back."""
    refusal = {"error": {"code": 503, "err_code": 10008, "description": "JetStream system temporarily unavailable"}}

    async def answer(message: Any) -> None:
        await message.respond(msgspec.json.encode(refusal))

    await raw.client.subscribe("$JS.API.NOBODY.LEADS", cb=answer)  # as a server that has lost its peers says it
    with pytest.raises(JournalUnavailableError, match=r"temporarily unavailable \(10008\)"):
        await raw.api("NOBODY.LEADS", None, StreamInfo)


async def test_nobody_there_is_said_in_time():
    """No server, and a wrong password: an error within the connect timeout, without the credential in it."""
    async with asyncio.timeout(3):
        with pytest.raises(JournalUnavailableError) as refused:
            await JetStreamStore.connect("nats://me:secret@127.0.0.1:9", name="test", connect_timeout_s=0.5)
    assert "secret" not in str(refused.value)
    async with nats_server() as server, asyncio.timeout(3):
        with pytest.raises(JournalUnavailableError, match=r"(?i)authorization") as refused:
            await JetStreamStore.connect(server.url.replace("flowctl:", "flowctl:x"), name="test", connect_timeout_s=2)


@pytest.mark.parametrize(
    "url", ["", ",", "nats://", "nats://me:secret@host:port", "ws://a,nats://b", "nats://[::1", "nats://x:99999999"]
)
async def test_an_address_that_is_none_is_the_users_error(url: str):
    """What cannot be an address is said at once, and as such."""
    async with asyncio.timeout(3):
        with pytest.raises(InvalidSettingError) as refused:
            await JetStreamStore.connect(url, name="test", connect_timeout_s=1)
    assert "secret" not in str(refused.value)


# --- surviving -------------------------------------------------------------------------------------------------------------


async def test_a_second_connection_finds_everything(tmp_path: Path):
    """Entries, heads and streams survive the server and the client."""
    async with nats_store(tmp_path) as store:
        await store.journal.append([starting(n) for n in range(100)], actor="test")
        head = await store.journal.head(starting(7).aggregate)
    async with nats_store(tmp_path) as store:
        entries = await collected(store.journal.read())
        assert [entry.seq for entry in entries] == list(range(1, 101))
        await store.journal.append([starting(7, 2)], actor="test", expect={starting(7).aggregate: head})
        check_chains(await collected(store.journal.read()))


async def test_a_follower_is_told_when_the_server_dies_and_resumes(server: EmbeddedNats):
    """Killed -9 in the middle: an error at once; following again from the last sequence sees the rest, without a gap."""
    store = await connect(server)
    await store.journal.append([starting(n) for n in range(10)], actor="test")
    lost: list[float] = []
    store.connection.on_disconnect.append(lambda: lost.append(1))
    entries = store.journal.follow()
    seen = [entry.seq for entry in await take(10, entries)]
    waiting = asyncio.create_task(take(1, entries))
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(JournalUnavailableError):
        await waiting
    assert lost
    [entry] = await store.journal.append([stop("after")], actor="test")
    seen += [entry.seq for entry in await take(1, store.journal.follow(after=seen[-1]))]
    assert seen == [*range(1, 11), entry.seq]
    assert store.connected
    await store.close()


async def test_a_follower_survives_the_loss_of_its_consumer(server: EmbeddedNats, raw: Connection):
    """An operator who deletes consumers does not cost an entry."""
    store = await connect(server)
    await store.journal.append([starting(n) for n in range(10)], actor="test")
    entries = store.journal.follow()
    assert len(await take(10, entries)) == 10
    names = await raw.request(f"$JS.API.CONSUMER.NAMES.{subjects.JOURNAL_STREAM}", b"{}")
    waiting = asyncio.create_task(take(2, entries))
    for name in (part for part in names.decode().split('"') if part.startswith("flowctl-")):
        await raw.request(f"$JS.API.CONSUMER.DELETE.{subjects.JOURNAL_STREAM}.{name}")
    await store.journal.append([stop("a"), stop("b")], actor="test")
    assert [entry.seq for entry in await waiting] == [11, 12]
    await store.close()


async def test_an_error_that_the_server_reports_does_not_end_the_connection(server: EmbeddedNats):
    """nats-py would close for ever; here the same client comes back, with its subscriptions."""
    store = await connect(server)
    client, back = store.nc, asyncio.Event()
    store.connection.on_reconnect.append(back.set)
    await client._process_err("'maximum connections exceeded'")
    async with asyncio.timeout(5):
        await back.wait()
    assert store.nc is client
    await store.journal.append([stop("a")], actor="test")
    await store.close()


# --- noticing --------------------------------------------------------------------------------------------------------------


async def test_a_recreated_stream_is_noticed_by_readers_and_writers(server: EmbeddedNats, raw: Connection):
    """Somebody deleted the journal and another one took its place: nobody reads or writes on as if nothing had happened."""
    reader, writer = await connect(server), await connect(server)
    await writer.journal.append([stop(str(n)) for n in range(5)], actor="test")
    await raw.request(f"$JS.API.STREAM.DELETE.{subjects.JOURNAL_STREAM}")
    with pytest.raises(JournalCorruptError, match="not there any more"):
        await reader.journal.last_sequence()
    newcomer = await connect(server)
    await newcomer.journal.append([starting(n) for n in range(3)], actor="test")
    with pytest.raises(JournalCorruptError, match="created anew"):
        await collected(reader.journal.read())
    with pytest.raises(JournalCorruptError):
        await writer.journal.append([starting(9)], actor="test")
    with pytest.raises(JournalCorruptError):
        await writer.journal.append([starting(10)], actor="test")
    assert not writer.connected
    for store in (reader, writer, newcomer):
        await store.close()


async def test_a_journal_that_was_swapped_while_the_server_was_down_is_noticed(tmp_path: Path):
    """After a reconnection the journal is compared before anything is let through."""
    async with nats_server(tmp_path) as server:
        store = await connect(server)
        await store.journal.append([stop("a")], actor="test")
        connection = Connection(server.url, name="operator", connect_timeout_s=5, request_timeout_s=5)
        await connection.open()
        await connection.request(f"$JS.API.STREAM.DELETE.{subjects.JOURNAL_STREAM}")
        await connection.api(f"STREAM.CREATE.{subjects.JOURNAL_STREAM}", journal_settings(1), StreamInfo)
        await connection.close()
        os.kill(server.pid, signal.SIGKILL)
        await eventually(lambda: server.restarts == 1, "the server runs again")
        with pytest.raises(JournalCorruptError, match="created anew"):
            await store.journal.append([stop("b")], actor="test", expect={ORDERS: await _no_head(store)})
        await store.close()


async def _no_head(store: JetStreamStore) -> Any:
    """The head of an aggregate as the store has it, when the store is let through."""
    await store.connection.up(asyncio.get_running_loop().time() + 5)
    return await store.journal.head(ORDERS)


async def test_a_missing_entry_is_noticed(server: EmbeddedNats, raw: Connection):
    """A gap in the sequences is an error, not a shorter history."""
    settings = journal_settings(1) | {"deny_delete": False}
    await raw.api(f"STREAM.CREATE.{subjects.JOURNAL_STREAM}", settings, StreamInfo)
    for n in range(5):
        await raw.request(f"flowctl.journal.pipeline.orders.n{n}", b"{}")
    await raw.request(f"$JS.API.STREAM.MSG.DELETE.{subjects.JOURNAL_STREAM}", b'{"seq":3}')
    await raw.api(f"STREAM.UPDATE.{subjects.JOURNAL_STREAM}", journal_settings(1), StreamInfo)
    store = await connect(server)
    entries = store.journal.read()
    assert [entry.seq for entry in await take(2, entries)] == [1, 2]
    with pytest.raises(JournalCorruptError, match="has no entry 3: after 2 comes 4"):
        await anext(entries)
    await store.close()
