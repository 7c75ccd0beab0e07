"""What the all-in-one server is made of. Importing this imports every service, so it is imported once, and late."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator

from flowctl.journal.server_process import fixed_port
from flowctl.paths import registry_port_file
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
        if not any(instance.active for instance in context.projection.fleet.instances.values()):
            _forget_port(settings)
        await ending()
        await close_context(context, following)


def _services(context: ServiceContext, settings: ServerSettings) -> Iterator[Service]:
    """The services in the order of their start; the agent comes last, because it must know where the registry listens."""
    settings.registry_listen = _steady_listen(settings)
    registry = RegistryService(context, settings)
    yield registry
    settings.registry = settings.registry or registry.address
    yield HealthService(context, settings)
    yield OrchestratorService(context, settings)
    if settings.notify:
        from flowctl_notify.service import NotifyService  # it brings an HTTP client along, which most servers need not load

        yield NotifyService(context, settings)
    yield AgentService(context, settings)


def _steady_listen(settings: ServerSettings) -> str:
    """Where the registry is to listen.

    Without a port of its own (0, or the default one is somebody else's) it listens where it did last time: the programs that it
    left running know that address and no other.
    """
    listen = settings.registry_listen
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if port != "0" and "registry_listen" in settings.model_fields_set:
        return listen
    remembered = _remembered_port(settings)
    if port != "0" and not remembered:
        if _is_free(host, int(port)):
            return listen
        log.warning("port %s is taken by another program; the registry listens on a free one", port)
    chosen = remembered if remembered and _is_free(host, remembered) else fixed_port()
    registry_port_file(settings.state_dir).write_text(f"{chosen}\n")
    return f"{listen.rpartition(':')[0]}:{chosen}"


def _forget_port(settings: ServerSettings) -> None:
    """Nobody is left who knows the registry's address."""
    registry_port_file(settings.state_dir).unlink(missing_ok=True)


def _remembered_port(settings: ServerSettings) -> int:
    try:
        return int(registry_port_file(settings.state_dir).read_text())
    except (OSError, ValueError):
        return 0


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
