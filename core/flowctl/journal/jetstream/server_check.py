"""Whether the server keeps what it acknowledges: its version, its fsync setting, its limits. Refuses by naming the setting.

The fsync setting is not part of the client protocol. It can be read from the HTTP monitoring (``/varz``); where that cannot be
reached, an operator may vouch for it.
"""

import asyncio
import re
from typing import Any, Final

import msgspec

from flowctl.errors import JournalError, JournalMisconfiguredError, JournalUnavailableError
from flowctl.journal import codec, monitoring
from flowctl.journal.jetstream.connection import Connection

MIN_VERSION: Final = (2, 14, 6)
MIN_PAYLOAD_BYTES: Final = codec.MAX_ENTRY_BYTES + 64 * 1024
OTHERS_S: Final = 0.3
"""So long the other servers' monitoring is waited for when the one that matters is proved: one may be held up."""

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def check_server_info(info: dict[str, Any]) -> None:
    """Check what the server says when a client connects.

    Raises:
        JournalMisconfiguredError: too old, alone and without JetStream, or with too small a payload limit.
    """
    version = str(info.get("version", ""))
    match = _VERSION.match(version)
    if match is None or tuple(int(part) for part in match.groups()) < MIN_VERSION:
        wanted = ".".join(str(part) for part in MIN_VERSION)
        raise JournalMisconfiguredError(f"nats-server: version is {version or 'unknown'} and must be at least {wanted}")
    if not info.get("jetstream") and not info.get("cluster"):  # one of a cluster passes on what is asked of the others
        raise JournalMisconfiguredError("nats-server: jetstream is off and must be on")
    if int(info.get("max_payload", 0)) < MIN_PAYLOAD_BYTES:
        raise JournalMisconfiguredError(
            f"nats-server: max_payload is {info.get('max_payload')} and must be at least {MIN_PAYLOAD_BYTES}"
        )


def default_replicas(info: dict[str, Any]) -> int:
    """How many copies the streams get when nobody says: 3 on a cluster, 1 on a single server."""
    return 3 if info.get("cluster") else 1


async def check_sync(connection: Connection, *, monitor_urls: str, assume_synced: bool) -> None:
    """Check that every server fsyncs before it acknowledges (``jetstream { sync_interval: always }``).

    ``monitor_urls`` are the HTTP monitoring addresses, separated by commas; in a cluster, of every server. A server that is
    away now is checked once a client is connected to it; the one that the connection leads to must be proved. One that has no
    JetStream, or has switched it off because its disk is full, acknowledges nothing and only passes on.

    Raises:
        JournalMisconfiguredError: one does not, or it cannot be proved and nobody vouches for it.
        JournalUnavailableError: the server that the connection leads to may be one whose monitoring does not answer, or none
            keeps anything now.
    """
    if assume_synced:
        return
    urls = [url.strip() for url in monitor_urls.split(",") if url.strip()]
    if not urls:
        raise JournalMisconfiguredError(
            "nats-server: jetstream sync_interval cannot be seen by a client and must be always",
            hint="name its HTTP monitoring address (monitor_url), or vouch for the setting (assume_synced)",
        )
    found = _Found()
    asking = {asyncio.create_task(_varz(url)): url for url in urls}
    try:
        while asking:
            proved = found.proves(connection.server_info.get("server_id"))
            done, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED, timeout=OTHERS_S if proved else None)
            if proved and not done:
                return
            for task in done:
                found.take(asking.pop(task), task)
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    if not found.proves(connection.server_info.get("server_id")):
        raise found.refusal(connection, monitor_urls)


class _Found:
    """What the servers' monitoring has said so far: who they are, and whether one of them fsyncs."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._synced = False
        self._absent: JournalUnavailableError | None = None

    def proves(self, server_id: object) -> bool:
        """Whether whatever is acknowledged to a client of this server is on disk."""
        return self._synced and server_id in self._seen

    def take(self, url: str, task: "asyncio.Task[dict[str, Any]]") -> None:
        """One more answer. Raises what makes the server unfit."""
        try:
            varz = task.result()
        except JournalUnavailableError as error:
            self._absent = error
            return
        jetstream: dict[str, Any] = varz.get("jetstream") or {}
        config: dict[str, Any] = jetstream.get("config") or {}
        cluster: dict[str, Any] = varz.get("cluster") or {}
        self._seen.add(str(varz.get("server_id", "")))
        if not config and cluster.get("name"):
            return
        if config.get("sync_always") is not True:
            interval_ns = config.get("sync_interval")
            shown = f"{interval_ns / 1e9:g}s" if isinstance(interval_ns, int) else "not set"
            raise JournalMisconfiguredError(
                f"nats-server {varz.get('server_name', url)}: jetstream sync_interval is {shown} and must be always",
                hint="without it the server acknowledges entries that a power failure takes back",
            )
        self._synced = True

    def refusal(self, connection: Connection, monitor_urls: str) -> JournalError:
        """Why nothing is proved, when all have answered or cannot."""
        if self._absent is not None:
            return self._absent
        if connection.server_info.get("server_id") in self._seen:
            return connection.unavailable("no server of the cluster has JetStream now")
        return JournalMisconfiguredError(
            f"monitor_url is {monitor_urls} and must be that of the server that {connection.shown} leads to"
        )


async def _varz(url: str) -> dict[str, Any]:
    """The server's ``/varz``."""
    try:
        status, body = await monitoring.ask(url, "/varz")
        return msgspec.json.decode(body if status == 200 else b"null", type=dict[str, Any])
    except (OSError, TimeoutError) as error:
        raise JournalUnavailableError(f"nats-server's monitoring at {url} (monitor_url) does not answer") from error
    except msgspec.MsgspecError as error:
        raise JournalMisconfiguredError(
            f"nats-server: jetstream sync_interval must be always and cannot be proved: {url} does not answer as nats-server's"
            " monitoring does",
        ) from error
    except ValueError as error:
        raise JournalMisconfiguredError(
            f"monitor_url is {url!r} and must be an http address of nats-server's monitoring"
        ) from error
