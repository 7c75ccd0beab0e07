"""What every service's process has in common: connect, fold the journal, serve, show itself, end cleanly.

A service is composed from a ``ServiceContext``; the same code runs alone (``run_service``) or beside others in one process.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

from prometheus_client import CollectorRegistry

from flowctl import paths
from flowctl.clock import Clock, SystemClock
from flowctl.endpoints import Endpoints
from flowctl.errors import EXIT_DONE, FlowctlError, JournalUnavailableError
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.log import Store
from flowctl.projection import Projection
from flowctl.settings import Settings
from flowctl.telemetry.logs import setup_logging
from flowctl.telemetry.web import WebServer

CONNECT_RETRY_S: Final = 0.5

log = logging.getLogger("flowctl.serving")


class Service(Protocol):
    """One of flowctl's services."""

    name: str

    async def start(self) -> None:
        """Begin to serve; returns when ready."""
        ...

    async def stop(self) -> None:
        """Serve no more; finish what was begun."""
        ...

    async def failed(self) -> None:
        """Return never while all is well; raise what makes going on impossible."""
        ...

    def readiness(self) -> str | None:
        """None if the service can do its work now, else one sentence. Called from other threads too."""
        ...


class ServiceContext:
    """What a service is composed from. ``endpoints`` is None where there is no NATS (tests on the in-memory twin)."""

    def __init__(
        self,
        *,
        store: Store,
        projection: Projection,
        metrics: CollectorRegistry | None = None,
        endpoints: Callable[[str], Endpoints] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.store = store
        self.projection = projection
        self.metrics = metrics or CollectorRegistry()
        self.endpoints = endpoints
        self.clock: Clock = clock or SystemClock()


async def connect(settings: Settings) -> JetStreamStore:
    """Connect to the journal that the settings name; wait for it as long as it takes.

    Raises:
        JournalMisconfiguredError, JournalCorruptError: the server is there and must not be used.
    """
    said = False
    while True:
        url = settings.nats_url or _embedded_url(settings)
        try:
            if not url:
                raise JournalUnavailableError("no NATS server is named, and none is embedded in the state directory yet")
            return await JetStreamStore.connect(
                url,
                name=f"flowctl-{settings.name}",
                monitor_url=settings.nats_monitor_url or None,
                assume_synced=settings.nats_assume_synced,
            )
        except JournalUnavailableError as error:
            if not said:
                log.warning("waiting for the journal: %s", error)
            said = True
            await asyncio.sleep(CONNECT_RETRY_S)


def _embedded_url(settings: Settings) -> str:
    """How the embedded server of this state directory is reached, if one runs."""
    from flowctl.journal.embedded import discover

    found = discover(paths.nats_dir(settings.state_dir))
    if found is None:
        return ""
    settings.nats_monitor_url = settings.nats_monitor_url or found.monitor_url
    return found.url


async def open_context(settings: Settings) -> tuple[ServiceContext, asyncio.Task[None]]:
    """Connect and fold the journal; the task goes on following it."""
    store = await connect(settings)
    projection = Projection(store.journal)
    following = await projection.start()
    nc = store.nc

    def endpoints(service: str) -> Endpoints:
        return Endpoints(nc, service, name=settings.name)

    return ServiceContext(store=store, projection=projection, endpoints=endpoints), following


def run_service(settings: Settings, name: str, build: Callable[[ServiceContext], Service]) -> int:
    """Run one service alone until SIGTERM or SIGINT; the exit code. Errors become one clear sentence on stderr."""
    setup_logging(settings.log_level, settings.log_format, service=name)
    try:
        return asyncio.run(_run_alone(settings, build))
    except FlowctlError as error:
        log.error("%s", error)  # noqa: TRY400 - one clear sentence, no traceback
        return error.exit_code


async def _run_alone(settings: Settings, build: Callable[[ServiceContext], Service]) -> int:
    stop = stop_signals()
    opening = asyncio.ensure_future(open_context(settings))
    if not await first_of(opening, stop):
        return EXIT_DONE
    context, following = opening.result()
    try:
        return await run_services(context, [build(context)], following=following, stop=stop, http_listen=settings.http_listen)
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError, FlowctlError):
            await following
        await context.store.close()


async def run_services(
    context: ServiceContext,
    services: Sequence[Service],
    *,
    following: asyncio.Task[None],
    stop: asyncio.Event,
    http_listen: str,
    ready: Callable[[], Awaitable[None]] | None = None,
) -> int:
    """Start the services in order, serve until ``stop`` is set or one fails, and stop them in reverse order."""

    def readiness() -> str | None:
        reasons = [f"{service.name}: {reason}" for service in services if (reason := service.readiness()) is not None]
        return "; ".join(reasons) or None

    started: list[Service] = []
    watches = [following]
    web = WebServer(http_listen, metrics=context.metrics, readiness=readiness) if http_listen else None
    try:
        for service in services:
            await service.start()
            started.append(service)
            watches.append(asyncio.create_task(service.failed(), name=f"{service.name}-failed"))
        log.info("ready", extra={"services": [service.name for service in services], "http": web.address if web else ""})
        if ready is not None:
            await ready()
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([stopping, *watches], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            task.result()
        stopping.cancel()
        return EXIT_DONE
    finally:
        for watch in watches[1:]:
            watch.cancel()
        for service in reversed(started):
            await service.stop()
        if web is not None:
            web.close()


def stop_signals() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def first_of(work: "asyncio.Future[object]", stop: asyncio.Event) -> bool:
    """Wait for the work or for ``stop``; True if the work is done, else it is cancelled."""
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if work.done():
        return True
    work.cancel()
    return False
