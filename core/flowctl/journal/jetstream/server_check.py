"""Whether the server keeps what it acknowledges: its version, its fsync setting, its limits. Refuses by naming the setting.

The fsync setting is not part of the client protocol. It can be read from the HTTP monitoring (``/varz``); where that cannot be
reached, an operator may vouch for it.
"""

import asyncio
import contextlib
import re
import socket
import ssl
import time
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from flowctl.errors import JournalMisconfiguredError, JournalUnavailableError
from flowctl.journal import codec
from flowctl.journal.jetstream.connection import Connection

MIN_VERSION: Final = (2, 14, 6)
MIN_PAYLOAD_BYTES: Final = codec.MAX_ENTRY_BYTES + 64 * 1024
MAX_VARZ_BYTES: Final = 1024 * 1024
VARZ_S: Final = 5.0

_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")


def check_server_info(info: dict[str, Any]) -> None:
    """Check what the server says when a client connects.

    Raises:
        JournalMisconfiguredError: too old, without JetStream or headers, or with too small a payload limit.
    """
    version = str(info.get("version", ""))
    match = _VERSION.match(version)
    if match is None or tuple(int(part) for part in match.groups()) < MIN_VERSION:
        wanted = ".".join(str(part) for part in MIN_VERSION)
        raise JournalMisconfiguredError(f"nats-server: version is {version or 'unknown'} and must be at least {wanted}")
    if not info.get("jetstream"):
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
    away now is checked once a client is connected to it; the one that the connection leads to must be proved.

    Raises:
        JournalMisconfiguredError: one does not, or it cannot be proved and nobody vouches for it.
        JournalUnavailableError: the server that the connection leads to may be one whose monitoring does not answer.
    """
    if assume_synced:
        return
    urls = [url.strip() for url in monitor_urls.split(",") if url.strip()]
    if not urls:
        raise JournalMisconfiguredError(
            "nats-server: jetstream sync_interval cannot be seen by a client and must be always",
            hint="name its HTTP monitoring address (monitor_url), or vouch for the setting (assume_synced)",
        )
    seen: set[str] = set()
    absent: JournalUnavailableError | None = None
    for url, varz in zip(urls, await asyncio.gather(*map(_varz, urls), return_exceptions=True), strict=True):
        if isinstance(varz, JournalUnavailableError):
            absent = varz
            continue
        if isinstance(varz, BaseException):
            raise varz
        jetstream: dict[str, Any] = varz.get("jetstream") or {}
        config: dict[str, Any] = jetstream.get("config") or {}
        if config.get("sync_always") is not True:
            interval_ns = config.get("sync_interval")
            shown = f"{interval_ns / 1e9:g}s" if isinstance(interval_ns, int) else "not set"
            raise JournalMisconfiguredError(
                f"nats-server {varz.get('server_name', url)}: jetstream sync_interval is {shown} and must be always",
                hint="without it the server acknowledges entries that a power failure takes back",
            )
        seen.add(str(varz.get("server_id", "")))
    if connection.server_info.get("server_id") not in seen:
        if absent is not None:
            raise absent
        raise JournalMisconfiguredError(
            f"monitor_url is {monitor_urls} and must be that of the server that {connection.shown} leads to"
        )


async def _varz(url: str) -> dict[str, Any]:
    """The server's ``/varz``. One HTTP/1.0 request: an HTTP library takes longer to import than this takes."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise JournalMisconfiguredError(f"monitor_url is {url!r} and must be an http address of nats-server's monitoring")
    port = parts.port or (443 if parts.scheme == "https" else 8222)
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    request = f"GET {parts.path.rstrip('/')}/varz HTTP/1.0\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    try:
        # In a thread: whoever is cancelled meanwhile leaves no half-opened connection to the garbage collector.
        answer = await asyncio.to_thread(_fetch, parts.hostname, port, tls, request.encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        return msgspec.json.decode(body if head.split(None, 2)[1:2] == [b"200"] else b"null", type=dict[str, Any])
    except (OSError, TimeoutError) as error:
        raise JournalUnavailableError(f"nats-server's monitoring at {url} (monitor_url) does not answer") from error
    except msgspec.MsgspecError as error:
        raise JournalMisconfiguredError(
            f"nats-server: jetstream sync_interval must be always and cannot be proved: {url} does not answer as nats-server's"
            " monitoring does",
        ) from error


def _fetch(host: str, port: int, tls: ssl.SSLContext | None, request: bytes) -> bytes:
    """Everything that comes back until the other side closes; at most ``MAX_VARZ_BYTES``, and within some seconds."""
    deadline = time.monotonic() + VARZ_S
    parts: list[bytes] = []
    size = 0
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection((host, port), timeout=VARZ_S))
        if tls is not None:
            connection = stack.enter_context(tls.wrap_socket(connection, server_hostname=host))
        connection.sendall(request)
        while size < MAX_VARZ_BYTES:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            part = connection.recv(65_536)
            if not part:
                break
            parts.append(part)
            size += len(part)
    return b"".join(parts)
