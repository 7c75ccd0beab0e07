"""A TCP relay from a bridge's address to the registry, for the containers of that bridge and nobody else."""

import asyncio
import contextlib
import ipaddress
import logging
from typing import Final

from flowctl.errors import DriverError

CHUNK_BYTES: Final = 65_536
CONNECT_S: Final = 5.0

log = logging.getLogger("flowctl.agent.docker")


class Relay:
    """Listens on ``gateway`` and passes on to ``host:port`` what comes from an address of ``subnet``."""

    def __init__(self, gateway: str, subnet: str, host: str, port: int) -> None:
        self.port = 0
        self._gateway = gateway
        self._subnet = ipaddress.ip_network(subnet)
        self._host = host
        self._target = port
        self._server: asyncio.Server | None = None
        self._passing: set[asyncio.Task[None]] = set()

    async def open(self, ports: list[int]) -> None:
        """Listen on the first of the ports that is free.

        Raises:
            DriverError: none is.
        """
        last: OSError | None = None
        for port in dict.fromkeys(ports):
            try:
                self._server = await asyncio.start_server(self._connected, self._gateway, port)
            except OSError as error:
                last = error
                continue
            self.port = int(self._server.sockets[0].getsockname()[1])
            return
        raise DriverError(f"nothing can listen at {self._gateway}: {last}") from last

    async def close(self) -> None:
        """Hang up."""
        if self._server is not None:
            self._server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = str(writer.get_extra_info("peername", ("",))[0])
        if not peer or ipaddress.ip_address(peer) not in self._subnet:
            log.warning("a connection from %s, which is not in %s, was refused", peer, self._subnet)
            writer.close()
            return
        task = asyncio.create_task(self._pass(reader, writer), name=f"relay-{peer}")
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                there = await asyncio.open_connection(self._host, self._target)
        except (OSError, TimeoutError):
            writer.close()  # as if nobody listened: who called tries again
            return
        copies = [asyncio.ensure_future(_copy(reader, there[1])), asyncio.ensure_future(_copy(there[0], writer))]
        try:
            await asyncio.wait(copies)
        finally:
            for copy in copies:
                copy.cancel()
            for end in (writer, there[1]):
                end.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        if writer.can_write_eof():
            writer.write_eof()
