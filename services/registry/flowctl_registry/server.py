"""The gRPC server: its limits, its address, health checking and reflection.

grpc_health and grpc_reflection are untyped; what is ``Any`` because of that stays here.
"""

import socket
from typing import Any, Final

import grpc.aio
from grpc_health.v1 import health_pb2  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from grpc_health.v1._async import HealthServicer  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from grpc_health.v1.health import SERVICE_NAME as HEALTH_NAME  # pyright: ignore[reportMissingTypeStubs]
from grpc_health.v1.health_pb2_grpc import (  # pyright: ignore[reportMissingTypeStubs]
    add_HealthServicer_to_server,  # pyright: ignore[reportUnknownVariableType]
)
from grpc_reflection.v1alpha import reflection  # pyright: ignore[reportMissingTypeStubs]

from flowctl.errors import InvalidSettingError
from flowctl_registry.servicer import SERVICE_NAME, Servicer

# The largest event of the data plane (4 MiB), with what a dead letter says of it.
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024 + 64 * 1024
MAX_METADATA_BYTES: Final = 16 * 1024
GRACE_S: Final = 1.0

OPTIONS: Final[list[tuple[str, Any]]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    # Two registries must not share a port by accident: a busy port is an error.
    ("grpc.so_reuseport", 0),
    # A component's host that vanished without a word is noticed, and its watch ended.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Components look every few seconds whether the registry is still there, much more often than gRPC allows by default.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
]


class RegistryServer:
    """Serves the registry's dialects on one port. ``address`` is where it listens, once it does."""

    def __init__(self) -> None:
        self._server = grpc.aio.server(options=OPTIONS)
        self._health: Any = HealthServicer()
        self._serving: bool | None = None
        self.address = ""
        add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection([SERVICE_NAME, HEALTH_NAME, reflection.SERVICE_NAME], self._server)  # pyright: ignore[reportUnknownMemberType]

    def add(self, servicer: Servicer) -> None:
        """Serve a dialect too. Before ``start``."""
        servicer.add_to(self._server)

    def bind(self, listen: str) -> None:
        """Take the address, port 0 for any free one.

        Raises:
            InvalidSettingError: it is taken, or not one of this host's.
        """
        host, _, port = listen.rpartition(":")
        if int(port) > 65_535:
            raise InvalidSettingError(f"registry_listen: {listen} has no valid port: expected 0 to 65535")
        try:
            _try(host, int(port))
            bound = self._server.add_insecure_port(listen)
        except (OSError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise InvalidSettingError(
                f"the registry cannot listen on {listen}: {reason or 'the address was taken just now'}",
                hint="set another with --registry-listen or FLOWCTL_REGISTRY_LISTEN",
            ) from error
        self.address = f"{host}:{bound}"

    async def start(self) -> None:
        """Begin to serve."""
        await self._server.start()

    async def set_serving(self, *, serving: bool) -> None:
        """What gRPC health checking answers, for the whole server and for the registry."""
        if serving == self._serving:
            return
        self._serving = serving
        statuses: Any = health_pb2.HealthCheckResponse
        status = statuses.SERVING if serving else statuses.NOT_SERVING
        for name in ("", SERVICE_NAME):
            await self._health.set(name, status)

    async def stop(self) -> None:
        """Take no new calls, let the running ones end within ``GRACE_S`` seconds."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(GRACE_S)


def _try(host: str, port: int) -> None:
    """Take the address for a moment: gRPC says only that it failed, and prints the reason on stderr by itself.

    Raises:
        OSError: it cannot be taken.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen(1)
