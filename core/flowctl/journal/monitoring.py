"""What a nats-server says of itself on its HTTP monitoring port; must never import nats.

One HTTP/1.0 request each: an HTTP library takes longer to import than this takes.
"""

import asyncio
import contextlib
import re
import socket
import ssl
import threading
import time
from typing import Final
from urllib.parse import urlsplit

import msgspec

MAX_BYTES: Final = 1024 * 1024
ANSWER_S: Final = 5.0

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]{1,18})(?:\r|$)", re.IGNORECASE)
_NO_ROOM: Final = re.compile(r"write error|no space left|out of (\w+ )?resources|not enabled \(10076\)", re.IGNORECASE)


class _Health(msgspec.Struct):
    status: str = ""
    error: str = ""


async def complaint(url: str) -> str | None:
    """What is wrong with the server, in its own words (``/healthz``); None if it is well.

    Raises:
        ValueError: ``url`` is no http address, or what answers there is no nats-server's monitoring.
        OSError, TimeoutError: nobody answers.
    """
    status, body = await ask(url, "/healthz")
    if status == 200:
        return None
    try:
        health = msgspec.json.decode(body, type=_Health)
    except msgspec.MsgspecError as error:
        raise ValueError(f"{url} does not answer as nats-server's monitoring does") from error
    return health.error or health.status or f"HTTP {status}"


def keeps_nothing(complaint: str) -> bool:
    """Whether the server has given up on its disk: then it takes nothing more until it is restarted, room or not."""
    return _NO_ROOM.search(complaint) is not None


async def ask(url: str, path: str) -> tuple[int, bytes]:
    """The status and the body of an answer.

    Raises:
        ValueError: ``url`` is no http address.
        OSError, TimeoutError: nobody answers, or the answer is cut off.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an http address")
    port = parts.port or (443 if parts.scheme == "https" else 8222)
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    request = f"GET {parts.path.rstrip('/')}{path} HTTP/1.0\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n"
    answer = await _in_thread(parts.hostname, port, tls, request.encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    announced = _LENGTH.search(head)
    if not answer or (announced is not None and len(body) < int(announced[1])):
        raise ConnectionResetError(f"{url} ended before it had answered")
    words = head.split(None, 2)
    return (int(words[1]), body) if len(words) > 1 and words[1].isdigit() else (0, body)


async def _in_thread(host: str, port: int, tls: ssl.SSLContext | None, request: bytes) -> bytes:
    """Fetch in a thread: whoever is cancelled meanwhile leaves no half-open connection, and nobody's end waits for it."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()

    def settle(data: bytes | None, error: Exception | None) -> None:
        if not answer.done():
            answer.set_exception(error) if error is not None else answer.set_result(data or b"")

    def fetch() -> None:
        data, failure = None, None
        try:
            data = _fetch(host, port, tls, request)
        except Exception as error:  # noqa: BLE001 - the caller's to judge
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, data, failure)

    threading.Thread(target=fetch, name="nats-monitoring", daemon=True).start()
    return await answer


def _fetch(host: str, port: int, tls: ssl.SSLContext | None, request: bytes) -> bytes:
    """Everything that comes back until the other side closes; at most ``MAX_BYTES``, and within some seconds."""
    deadline = time.monotonic() + ANSWER_S
    parts: list[bytes] = []
    size = 0
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection((host, port), timeout=ANSWER_S))
        if tls is not None:
            connection = stack.enter_context(tls.wrap_socket(connection, server_hostname=host))
        connection.sendall(request)
        while size < MAX_BYTES:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            part = connection.recv(65_536)
            if not part:
                break
            parts.append(part)
            size += len(part)
    return b"".join(parts)
