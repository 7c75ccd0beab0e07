"""Orchestrators in this process, without endpoints."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from flowctl.clock import Clock, SystemClock
from flowctl.journal.store import Store
from flowctl.projection import Projection
from flowctl.serving import ServiceContext
from flowctl.settings import OrchestratorSettings, load_settings
from flowctl_orchestrator.service import OrchestratorService


@contextlib.asynccontextmanager
async def orchestrator(store: Store, *, clock: Clock | None = None, name: str = "one") -> AsyncGenerator[OrchestratorService]:
    """An orchestrator without endpoints."""
    projection = Projection(store.journal, clock=clock)
    following = await projection.start()
    context = ServiceContext(store=store, projection=projection, clock=clock or SystemClock())
    service = OrchestratorService(context, load_settings(OrchestratorSettings, name=name))
    await service.start()
    try:
        yield service
    finally:
        await service.stop()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
