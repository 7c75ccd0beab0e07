"""/health, /ready and /metrics of a service, on a thread of its own so that a busy loop still answers.

``/health`` says that the process lives, ``/ready`` that it can do its work (503 with the reason otherwise), ``/metrics`` is
Prometheus' text format.
"""

import socketserver
import threading
from collections.abc import Callable, Iterable
from typing import Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from flowctl.errors import InvalidSettingError

REQUEST_TIMEOUT_S: Final = 5.0


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        pass


class WebServer:
    """Serves until ``close``. ``readiness`` returns None when ready, else one sentence; it is called from another thread."""

    def __init__(self, listen: str, *, metrics: CollectorRegistry, readiness: Callable[[], str | None]) -> None:
        host, _, port = listen.rpartition(":")
        self._metrics = metrics
        self._readiness = readiness
        try:
            self._server = make_server(host.strip("[]"), int(port), self._answer, _Server, _Handler)
        except (OSError, OverflowError) as error:
            raise InvalidSettingError(f"cannot listen on {listen}: {error}", hint="set http_listen to a free port") from error
        self.address = f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.5}, daemon=True, name="web")
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            start("200 OK", [("Content-Type", CONTENT_TYPE_LATEST)])
            return [generate_latest(self._metrics)]
        if path == "/health":
            return _plain(start, "200 OK", "ok")
        if path == "/ready":
            reason = self._readiness()
            return _plain(start, "200 OK", "ready") if reason is None else _plain(start, "503 Service Unavailable", reason)
        return _plain(start, "404 Not Found", "there is /health, /ready and /metrics")


def _plain(start: StartResponse, status: str, text: str) -> Iterable[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]
