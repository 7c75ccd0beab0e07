"""A real HTTP server that receives webhooks and answers as it is told: at once, with an error, elsewhere, slowly, or never."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

HEADERS_OF = {200: "OK", 302: "Found", 404: "Not Found", 410: "Gone", 429: "Too Many Requests", 500: "Internal Server Error"}


@dataclass
class Received:
    """One request, and the answer that it got."""

    path: str
    headers: dict[str, str]
    body: bytes
    answer: int | str = ""

    @property
    def seq(self) -> int:
        """The journal's sequence that it says."""
        return int(self.headers["ce-sequence"])


@dataclass
class Hooks:
    """The server. ``plans`` holds for each path the answers to come; the last of them stays. Without a plan all is well.

    An answer is a status, ``hang`` (nothing is ever answered), ``trickle`` (a byte of the head now and then) or ``endless`` (the
    head at once, then a body that does not end).
    """

    address: str = ""
    received: list[Received] = field(default_factory=list[Received])
    plans: dict[str, list[int | str]] = field(default_factory=dict[str, "list[int | str]"])
    connections: set[asyncio.Task[None]] = field(default_factory=set["asyncio.Task[None]"])

    def at(self, path: str) -> list[Received]:
        """What came in on a path."""
        return [each for each in self.received if each.path == path]

    def seqs(self, path: str) -> list[int]:
        """The sequences that came in on a path, in order."""
        return [each.seq for each in self.at(path)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        task = asyncio.current_task()
        assert task is not None
        self.connections.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer):
                    pass
        finally:
            self.connections.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        path = first.split()[1]
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        plan = self.plans.get(path, [200])
        answer = plan.pop(0) if len(plan) > 1 else plan[0]
        self.received.append(Received(path, headers, body, answer))
        if answer == "hang":
            await asyncio.Event().wait()
        if answer == "trickle":
            for letter in b"HTTP/1.1 200 OK\r\n" * 100:
                writer.write(bytes([letter]))
                await writer.drain()
                await asyncio.sleep(0.05)
        if answer == "endless":
            writer.write(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
        status = int(answer)
        extra = f"location: http://{self.address}/elsewhere\r\n" if status == 302 else ""
        writer.write(f"HTTP/1.1 {status} {HEADERS_OF[status]}\r\n{extra}content-length: 4\r\n\r\nsaid".encode())
        await writer.drain()
        return True


@contextlib.asynccontextmanager
async def hooks() -> AsyncGenerator[Hooks]:
    """A server on a free port."""
    served = Hooks()
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield served
    finally:
        server.close()
        for task in list(served.connections):
            task.cancel()
        await asyncio.gather(*served.connections, return_exceptions=True)
