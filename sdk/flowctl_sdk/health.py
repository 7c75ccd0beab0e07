"""``/health``, ``/ready`` and ``/metrics`` over HTTP, on the component's own event loop: a loop that hangs does not answer.

It speaks just enough HTTP/1.1 for a probe: one request a connection, the head at most 8 KiB, within five seconds.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from flowctl.control.v1.control_pb2 import EdgeMetrics
from flowctl_sdk.exposition import exposition

REQUEST_TIMEOUT_S: Final = 5.0
MAX_HEAD_BYTES: Final = 8_192

_REASONS: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


class State(msgspec.Struct, frozen=True):
    """What the endpoints say. ``detail`` explains ``healthy`` or ``ready`` being False."""

    healthy: bool
    ready: bool
    detail: str
    component: str
    metrics: dict[str, float]
    edges: Sequence[EdgeMetrics] = ()


class HealthServer:
    """The endpoints of one instance; ``state`` is asked for each request."""

    def __init__(self, state: Callable[[], State]) -> None:
        self._state = state
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port (0 asks for a free one).

        Raises:
            OSError: if the address cannot be bound.
        """
        self._server = await asyncio.start_server(self._serve, host.strip("[]"), port, limit=MAX_HEAD_BYTES)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._answer(head))
                await writer.drain()
        except asyncio.LimitOverrunError:
            writer.write(_response(400, "text/plain", b"the request's head is too long\n"))
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            # Whoever asked has gone, or never asked.
            pass
        finally:
            writer.close()

    async def _answer(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response(400, "text/plain", b"not an HTTP/1 request\n")
        if words[0] not in {b"GET", b"HEAD"}:
            return _response(405, "text/plain", b"only GET\n")
        state = self._state()
        match words[1].split(b"?", 1)[0]:
            case b"/health":
                answer = _status(state, good=state.healthy)
            case b"/ready":
                answer = _status(state, good=state.ready)
            case b"/metrics":
                text = await asyncio.to_thread(exposition, state.component, state.metrics, state.edges)
                answer = _response(200, "text/plain; version=0.0.4; charset=utf-8", text)
            case _:
                answer = _response(404, "text/plain", b"there are /health, /ready and /metrics\n")
        return answer.split(b"\r\n\r\n", 1)[0] + b"\r\n\r\n" if words[0] == b"HEAD" else answer


def _status(state: State, *, good: bool) -> bytes:
    body = {"status": "ok" if good else "unavailable", "component": state.component, "detail": state.detail}
    return _response(200 if good else 503, "application/json", msgspec.json.encode(body) + b"\n")


def _response(code: int, content_type: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {code} {_REASONS[code]}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body
