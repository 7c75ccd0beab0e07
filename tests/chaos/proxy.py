"""TCP proxies that stand before each instance's data plane and misbehave on demand."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

from chaos.plan import FaultKind

T = TypeVar("T")
Mode = Literal["open", "refuse", "swallow"]
DELAY_S = 0.02


class Wire:
    """One connection through a gate: the dialling and the serving end."""

    def __init__(self, dialling: asyncio.StreamWriter, serving: asyncio.StreamWriter) -> None:
        self.dialling = dialling
        self.serving = serving
        self.pumps: list[asyncio.Task[None]] = []

    def cut(self) -> None:
        """Reset both ends."""
        for writer in (self.dialling, self.serving):
            reset(writer)

    def halve(self, side: str) -> None:
        """Reset one end; the other stays open and hears nothing ever again."""
        for pump in self.pumps:
            pump.cancel()
        reset(self.dialling if side == "dialling" else self.serving)


class Gate:
    """The way to one instance, over all its incarnations. ``target`` is where its present incarnation listens."""

    def __init__(self) -> None:
        self.address = ""
        self.target = ""
        self.mode: Mode = "open"
        self.delay_s = 0.0
        self._wires: set[Wire] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Cut everything."""
        assert self._server is not None
        self._server.close()
        for wire in list(self._wires):
            for pump in wire.pumps:
                pump.cancel()
            wire.cut()

    async def break_(self, kind: FaultKind, side: str) -> None:
        """Begin to misbehave."""
        if kind == "delay":
            self.delay_s = DELAY_S
        elif kind == "drop":
            self.mode = "swallow"
        elif kind == "reset":
            self.mode = "refuse"
            self._cut()
        else:
            for wire in self._wires:
                wire.halve(side)

    async def heal(self, kind: FaultKind) -> None:
        """Behave again; what was dropped cannot be mended, so those connections are reset."""
        if kind == "delay":
            self.delay_s = 0.0
        elif kind == "drop":
            self.mode = "open"
            self._cut()
        elif kind == "reset":
            self.mode = "open"

    def _cut(self) -> None:
        for wire in list(self._wires):
            wire.cut()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "refuse":
            reset(writer)
            return
        host, _, port = self.target.rpartition(":")
        try:
            beyond_reader, beyond_writer = await asyncio.open_connection(host, int(port))
        except (OSError, ValueError):
            reset(writer)
            return
        wire = Wire(writer, beyond_writer)
        self._wires.add(wire)
        wire.pumps = [
            asyncio.create_task(self._pump(reader, beyond_writer)),
            asyncio.create_task(self._pump(beyond_reader, writer)),
        ]
        await asyncio.wait(wire.pumps, return_when=asyncio.FIRST_COMPLETED)
        if not any(pump.cancelled() for pump in wire.pumps):
            for pump in wire.pumps:
                pump.cancel()
            wire.dialling.close()
            wire.serving.close()
            self._wires.discard(wire)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if self.mode != "swallow":
                    writer.write(data)
                    await writer.drain()


class Gates:
    """All proxies of one schedule, in a thread with a loop of its own."""

    def __init__(self) -> None:
        self._gates: dict[tuple[str, int], Gate] = {}
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    def lead(self, key: tuple[str, int], target: str) -> str:
        """Have the gate of this instance lead to ``target``; returns the gate's own address."""
        gate = self._gate(key)
        gate.target = target
        return gate.address

    def break_(self, key: tuple[str, int], kind: FaultKind, side: str) -> None:
        """Have the gate misbehave."""
        self._do(self._gate(key).break_(kind, side))

    def heal(self, key: tuple[str, int], kind: FaultKind) -> None:
        """Have it behave again."""
        self._do(self._gate(key).heal(kind))

    def close(self) -> None:
        """End all."""

        async def end() -> None:
            for gate in self._gates.values():
                await gate.close()
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _gate(self, key: tuple[str, int]) -> Gate:
        with self._lock:
            gate = self._gates.get(key)
            if gate is None:
                gate = self._gates[key] = Gate()
                self._do(gate.start())
            return gate

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, as a host that does not know it does."""
    connection = writer.get_extra_info("socket")
    if connection is not None and not writer.transport.is_closing():
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
