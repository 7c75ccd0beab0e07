"""A TCP proxy that loses what the server answers, on command."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator


class LossyProxy:
    """Forwards to a local port. While ``lose_replies`` is set, the first bytes that come back are dropped with the connection."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.lose_replies = False
        self.lost = 0
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            forward = asyncio.create_task(self._pump(reader, server_writer, replies=False))
            try:
                await self._pump(server_reader, writer, replies=True)
            finally:
                forward.cancel()
                await asyncio.gather(forward, return_exceptions=True)
                server_writer.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        while data := await reader.read(65536):
            if replies and self.lose_replies:
                self.lost += 1
                self.lose_replies = False
                return
            writer.write(data)
            await writer.drain()

    async def close(self) -> None:
        """Cut everybody off."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def lossy_proxy(target_port: int) -> AsyncGenerator[LossyProxy]:
    """A proxy in front of a local port."""
    proxy = LossyProxy(target_port)
    server = await asyncio.start_server(proxy.handle, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
