"""What the all-in-one server is made of. Importing this imports every service, so it is imported once, and late."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator

from flowctl.serving import Service, ServiceContext, close_context, first_of, open_context, run_services
from flowctl.settings import ServerSettings
from flowctl_agent.service import AgentService
from flowctl_health.service import HealthService
from flowctl_orchestrator.service import OrchestratorService
from flowctl_registry.service import RegistryService

log = logging.getLogger("flowctl_cli.server")


async def run_all(
    settings: ServerSettings,
    *,
    stop: asyncio.Event,
    ready: Callable[[ServiceContext], Awaitable[None]],
    ending: Callable[[], Awaitable[None]],
) -> int:
    """Run every service on one projection until ``stop`` is set or one of them fails; the exit code.

    ``ready`` is awaited when all serve, ``ending`` before the journal is let go of.

    Raises:
        FlowctlError: what made a service unable to start or to go on.
    """
    opening = asyncio.ensure_future(open_context(settings))
    if not await first_of(opening, stop):
        return 0
    context, following = opening.result()
    try:
        return await run_services(
            context,
            _services(context, settings),
            following=following,
            stop=stop,
            http_listen=settings.http_listen,
            ready=lambda: ready(context),
        )
    finally:
        await ending()
        await close_context(context, following)


def _services(context: ServiceContext, settings: ServerSettings) -> Iterator[Service]:
    """The services in the order of their start; the agent comes last, because it must know where the registry listens."""
    settings.registry_listen = _free_listen(settings)
    registry = RegistryService(context, settings)
    yield registry
    settings.registry = settings.registry or registry.address
    yield HealthService(context, settings)
    yield OrchestratorService(context, settings)
    yield AgentService(context, settings)


def _free_listen(settings: ServerSettings) -> str:
    """Where the registry is to listen: the default port may be somebody else's, and then any free one will do."""
    listen = settings.registry_listen
    if "registry_listen" in settings.model_fields_set:
        return listen
    host, _, port = listen.rpartition(":")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            log.warning("port %s is taken by another program; the registry listens on a free one", port)
            return f"{host}:0"
    return listen
