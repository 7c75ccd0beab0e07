"""Health checks against servers that misbehave, and what the journal and the agent make of them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from flowctl.journal.events import ComponentExited, ComponentProbed
from flowctl.journal.memory import MemoryStore
from flowctl_agent.probe import check_once
from support.agent_world import AgentWorld, agent
from support.agents import SLEEP
from support.polling import eventually

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.asynccontextmanager
async def server(answer: Answer) -> AsyncGenerator[str]:
    """A server that answers each request with ``answer``; host:port."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await reader.readuntil(b"\r\n\r\n")
                await answer(writer)
        finally:
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = listening.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ok(writer: asyncio.StreamWriter) -> None:
    """A healthy answer."""
    writer.write(OK)
    await writer.drain()


def plain(data: bytes) -> Answer:
    """Answers with these bytes."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    return answer


async def hang(writer: asyncio.StreamWriter) -> None:
    """Never answers."""
    del writer
    await asyncio.Event().wait()


async def hang_after_headers(writer: asyncio.StreamWriter) -> None:
    """Promises a body that never comes."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
    await writer.drain()
    await asyncio.Event().wait()


async def drip(writer: asyncio.StreamWriter) -> None:
    """A byte now and then, so that no single read times out."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def gigabyte(writer: asyncio.StreamWriter) -> None:
    """Does not stop."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
    for _ in range(16_384):
        writer.write(bytes(65_536))
        await writer.drain()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (ok, None),
        (plain(b"HTTP/1.1 204 No Content\r\n\r\n"), None),
        (plain(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"), "answered 503"),
        (plain(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"), "answered 302"),
        (plain(b"SSH-2.0-OpenSSH_9.6\r\n"), "failed"),
        (plain(b""), "failed"),
        (plain(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000), "failed"),
        (hang, "no complete answer within 0.5 s"),
        (hang_after_headers, "no complete answer within 0.5 s"),
        (drip, "no complete answer within 0.5 s"),
        (gigabyte, "more than 1048576 bytes"),
    ],
)
async def test_one_check(answer: Answer, words: str | None):
    """Success, or one sentence, within its time whatever the server does."""
    async with server(answer) as address, httpx.AsyncClient(trust_env=False, timeout=None) as client:
        began = time.monotonic()
        detail = await check_once(client, f"http://{address}/health", 0.5)
        assert time.monotonic() - began < 1.5
    assert detail is None if words is None else words in (detail or ""), detail


async def test_nobody_listens():
    """A refused connection is a failed check."""
    async with server(ok) as address:
        pass
    async with httpx.AsyncClient(trust_env=False) as client:
        assert "failed" in (await check_once(client, f"http://{address}/health", 1.0) or "")


@pytest.fixture
async def world(state_dir: Path) -> AsyncGenerator[AgentWorld]:
    """A running agent on the in-memory journal."""
    async with agent(MemoryStore(), state_dir) as world:
        yield world


async def test_changes_are_told(world: AgentWorld):
    """Only after that many failures in a row, and only when it changes; healthy again is told too."""
    healthy = True

    async def flapping(writer: asyncio.StreamWriter) -> None:
        await (ok if healthy else hang)(writer)

    async with server(flapping) as address:
        check = {"path": "/health", "interval_s": 0.1, "timeout_s": 0.05, "failures": 2}
        await world.assign(SLEEP, health_check=check)
        await world.until_started()
        await world.register(health_endpoint=address)
        healthy = False
        await eventually(lambda: world.count(ComponentProbed)() == 1, "the failure")
        healthy = True
        await eventually(lambda: world.count(ComponentProbed)() == 2, "the recovery")
        told = world.told(ComponentProbed)
        assert [event.healthy for event in told] == [False, True]
        assert "no complete answer" in told[0].detail
    assert world.starts() == [1]


async def test_unhealthy_may_mean_a_restart(world: AgentWorld):
    """With on_unhealthy: restart the program is stopped gracefully and started anew, counted by the policy."""
    async with server(hang) as address:
        check = {"interval_s": 0.1, "timeout_s": 0.05, "failures": 2, "on_unhealthy": "restart"}
        await world.assign(SLEEP, health_check=check)
        await world.until_started()
        await world.register(health_endpoint=f"http://{address}")
        await world.until_started(2)
    told = world.told(ComponentExited)[0]
    assert (told.signal, told.expected) == (15, False)
    assert world.worker.restarts == 1
