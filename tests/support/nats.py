"""Real nats-servers for tests: one per test module or test, started in some 20 ms, ended with it."""

import contextlib
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

from flowctl.clock import Clock
from flowctl.journal.embedded import EmbeddedNats
from flowctl.journal.jetstream import JetStreamStore


@contextlib.asynccontextmanager
async def nats_server(directory: Path | None = None) -> AsyncGenerator[EmbeddedNats]:
    """A server of the test's own, on a directory of its own unless one is given (whose content then outlives it)."""
    async with contextlib.AsyncExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="flowctl-nats-")))
        server = EmbeddedNats(directory)
        await server.start()
        stack.push_async_callback(server.stop, adopted=True)
        yield server


async def connect(
    server: EmbeddedNats,
    *,
    name: str = "test",
    clock: Clock | None = None,
    request_timeout_s: float = 5.0,
    importing: bool = False,
) -> JetStreamStore:
    """A store on a server; the caller closes it."""
    return await JetStreamStore.connect(
        server.url,
        name=name,
        clock=clock,
        monitor_url=server.monitor_url,
        request_timeout_s=request_timeout_s,
        importing=importing,
    )


@contextlib.asynccontextmanager
async def nats_store(
    directory: Path | None = None, *, name: str = "test", clock: Clock | None = None
) -> AsyncGenerator[JetStreamStore]:
    """A store on a server of its own: ``async with nats_store() as store``."""
    async with nats_server(directory) as server, contextlib.AsyncExitStack() as stack:
        store = await connect(server, name=name, clock=clock)
        stack.push_async_callback(store.close)
        yield store
