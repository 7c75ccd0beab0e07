"""The store on JetStream: one connection, the streams, and the checks before the first byte."""

import asyncio
from functools import partial
from typing import Any, Self

from flowctl.clock import Clock, SystemClock
from flowctl.errors import JournalCorruptError
from flowctl.journal import codec, subjects
from flowctl.journal.jetstream import server_check, streams
from flowctl.journal.jetstream.connection import Connection
from flowctl.journal.jetstream.heartbeats import JetStreamHeartbeats
from flowctl.journal.jetstream.journal import JetStreamJournal
from flowctl.journal.jetstream.letters import JetStreamDeadLetters
from flowctl.journal.jetstream.logs import JetStreamLogs
from flowctl.journal.jetstream.messages import get_message, nanoseconds
from flowctl.journal.jetstream.notices import JetStreamNotices
from flowctl.journal.jetstream.snapshots import JetStreamSnapshots
from flowctl.journal.jetstream.subscriptions import JetStreamSubscriptions


class JetStreamStore:
    """See ``Store``. Made by ``connect``."""

    def __init__(self, connection: Connection, clock: Clock) -> None:
        self._connection = connection
        self.journal = JetStreamJournal(connection, clock)
        self.heartbeats = JetStreamHeartbeats(connection, self.journal.observe)
        self.logs = JetStreamLogs(connection)
        self.dead_letters = JetStreamDeadLetters(connection)
        self.snapshots = JetStreamSnapshots(connection)
        self.subscriptions = JetStreamSubscriptions(connection)
        self.notices = JetStreamNotices(connection)

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        name: str,
        clock: Clock | None = None,
        connect_timeout_s: float = 5.0,
        request_timeout_s: float = 10.0,
        create: bool = True,
        monitor_url: str | None = None,
        assume_synced: bool = False,
        replicas: int | None = None,
        importing: bool = False,
    ) -> Self:
        """Connect, and check the server and the streams; ``create`` makes streams that are absent.

        ``url`` may carry credentials and may name several servers of a cluster, separated by commas. ``monitor_url`` is the
        server's HTTP monitoring, which proves the fsync setting; ``assume_synced`` vouches for it instead. ``replicas`` None:
        three on a cluster, one on a single server. ``importing`` admits a journal that is half imported.

        Raises:
            JournalUnavailableError: no server answered in time, or it refused the credential.
            InvalidSettingError: the address cannot be one.
            JournalMisconfiguredError: the server or a stream could lose what it acknowledges; the message names the setting.
            JournalCorruptError: the journal ends in the middle of an import.
        """
        connection = Connection(url, name=name, connect_timeout_s=connect_timeout_s, request_timeout_s=request_timeout_s)
        await connection.open()
        store = cls(connection, clock or SystemClock())
        try:
            await store._admit(create=create, monitor_url=monitor_url, assume_synced=assume_synced, replicas=replicas)
            if not importing:
                await store._check_import()
        except BaseException:
            await store.close()
            raise
        return store

    async def _admit(self, *, create: bool, monitor_url: str | None, assume_synced: bool, replicas: int | None) -> None:
        info = self._connection.server_info
        server_check.check_server_info(info)
        await server_check.check_sync(self._connection, monitor_urls=monitor_url or "", assume_synced=assume_synced)
        copies = replicas or server_check.default_replicas(info)
        found = await streams.ensure_stream(self._connection, streams.journal_settings(copies), create=create)
        others = [streams.heartbeat_settings(copies), streams.log_settings(copies)]
        if create:  # a store of an earlier version has them not until a service has started on it
            others += [streams.dead_letter_settings(copies), streams.snapshot_settings(copies), streams.notice_settings(copies)]
        # All at once: each may be without a leader for a while, and they elect theirs at the same time.
        await asyncio.gather(*(streams.ensure_stream(self._connection, settings, create=create) for settings in others))
        self.journal.check_identity(found)
        self.journal.observe(nanoseconds(found.ts), found.state.last_seq)
        self._connection.check = partial(self._check_again, monitor_url or "", assume_synced=assume_synced)

    async def _check_import(self) -> None:
        """Half of an imported journal must not be taken for a whole one."""
        last = self.journal.seen_sequence
        found = await get_message(self._connection, subjects.JOURNAL_STREAM, {"seq": last}) if last else None
        upto = codec.imported_upto(found.headers) if found is not None else 0
        if upto > last:
            raise JournalCorruptError(
                f"the journal is half of an imported one: it ends at {last} of {upto}",
                hint="run `flowctl journal import` with the same file again; it goes on where it was interrupted",
            )

    async def _check_again(self, monitor_urls: str, *, assume_synced: bool) -> None:
        """After a reconnection: the server may be another one; it must be the same journal, and hold what was seen of it."""
        server_check.check_server_info(self._connection.server_info)
        await server_check.check_sync(self._connection, monitor_urls=monitor_urls, assume_synced=assume_synced)
        found = await streams.info_upto(self._connection, subjects.JOURNAL_STREAM, self.journal.seen_sequence)
        self.journal.check_identity(found)
        seen, last = self.journal.seen_sequence, found.state.last_seq
        if last < seen:
            raise JournalCorruptError(
                f"the journal ends at {last}, and entry {seen} was seen: entries are gone",
                hint="restore the server's store from a copy, or point flowctl at the right server",
            )
        self.journal.observe(0, last)

    @property
    def connected(self) -> bool:
        """See ``Store``."""
        return self._connection.connected

    @property
    def connection(self) -> Connection:
        """The connection, for observers of its loss (``on_disconnect``, ``on_reconnect``)."""
        return self._connection

    @property
    def nc(self) -> Any:  # noqa: ANN401  # whoever wants it imports nats
        """The raw nats client; another one after some failures, so ask each time."""
        return self._connection.client

    async def end_beyond(self, seq: int) -> int:
        """The journal's last sequence; one before ``seq`` only if it is sure that there is no such entry (``info_upto``).

        Raises:
            JournalUnavailableError: the server does not answer, or does not know.
        """
        return (await streams.info_upto(self._connection, subjects.JOURNAL_STREAM, seq)).state.last_seq

    async def close(self) -> None:
        """See ``Store``."""
        await self.journal.close()
        await self._connection.close()
