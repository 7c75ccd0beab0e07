"""What every service's process has in common: connect, fold the journal, serve, show itself, end cleanly.

A service is composed from a ``ServiceContext``; the same code runs alone (``run_service``) or beside others in one process.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flowctl import __version__, api, paths
from flowctl.clock import Clock, SystemClock
from flowctl.endpoints import Endpoints
from flowctl.errors import EXIT_DONE, EXIT_FAILED, FlowctlError, JournalUnavailableError
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.log import Entry
from flowctl.journal.store import Store
from flowctl.projection import Projection, retrying
from flowctl.seen import Memory, SeenFile
from flowctl.settings import Settings
from flowctl.telemetry.logs import setup_logging
from flowctl.telemetry.web import WebServer

CONNECT_RETRY_S: Final = 0.5
STOP_TIMEOUT_S: Final = 30.0

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
        self.remembering: asyncio.Task[None] | None = None

    def info(
        self, service: str, name: str, problem: str | None, *, detail: str = "", addresses: dict[str, str] | None = None
    ) -> api.Info:
        """What a service in this process answers to ``info``; ``problem`` is why it is not ready, ``detail`` else said of it."""
        return api.Info(
            service=service,
            version=__version__,
            name=name,
            pid=os.getpid(),
            seq=self.projection.fleet.seq,
            ready=problem is None,
            detail=problem or detail,
            addresses=addresses or {},
        )


async def connect(settings: Settings) -> JetStreamStore:
    """Connect to the journal that the settings name; wait for it as long as it takes.

    Raises:
        JournalMisconfiguredError, JournalCorruptError: the server is there and must not be used.
    """
    said = False
    while True:
        url, monitor_url = _where(settings)
        try:
            if not url:
                raise JournalUnavailableError("no NATS server is named, and none is embedded in the state directory yet")
            return await _connect_to(url, monitor_url, settings)
        except JournalUnavailableError as error:
            if not said:
                log.warning("waiting for the journal: %s", error)
            said = True
            await asyncio.sleep(CONNECT_RETRY_S)


async def _connect_to(url: str, monitor_url: str, settings: Settings) -> JetStreamStore:
    store = await JetStreamStore.connect(
        url, name=f"flowctl-{settings.name}", monitor_url=monitor_url or None, assume_synced=settings.nats_assume_synced
    )
    try:
        file = SeenFile(settings.state_dir, _server_key(settings, store.connection.shown))
        seen = file.read()
        last = await store.end_beyond(seen.seq if seen is not None else 0)
        file.check_end(store.journal.created, last)
    except BaseException:
        await store.close()
        raise
    return store


def _where(settings: Settings) -> tuple[str, str]:
    """Client and monitoring address of the NATS server: the named one, else the state directory's own if it runs."""
    if settings.nats_url:
        return settings.nats_url, settings.nats_monitor_url
    from flowctl.journal.embedded import discover

    found = discover(paths.nats_dir(settings.state_dir))
    return (found.url, found.monitor_url) if found is not None else ("", "")


async def open_context(settings: Settings) -> tuple[ServiceContext, asyncio.Task[None]]:
    """Connect and fold the journal; the task goes on following it. Waits for the journal as long as it takes.

    Raises:
        JournalMisconfiguredError, JournalCorruptError: see ``connect``.
    """
    store = await connect(settings)
    try:
        seen = SeenFile(settings.state_dir, _server_key(settings, store.connection.shown))
        projection = Projection(store.journal, snapshots=store.snapshots)
        met = _Meeting(seen, projection)
        following = await retrying(projection.start, clock=SystemClock(), what="reading the journal")
        met.check()
        memory = Memory(seen, projection, store.journal.created)
    except BaseException:
        await store.close()
        raise

    served: list[Endpoints] = []
    moves: set[asyncio.Task[None]] = set()

    def endpoints(service: str) -> Endpoints:
        made = Endpoints(lambda: store.nc, service, name=settings.name)
        made.add("digest", api.DigestRequest, digest_of(projection, service, settings.name))
        served.append(made)
        return made

    def move() -> None:
        for each in served:
            task = asyncio.create_task(each.follow_client())
            moves.add(task)
            task.add_done_callback(moves.discard)

    store.connection.on_reconnect.append(move)
    context = ServiceContext(store=store, projection=projection, endpoints=endpoints)
    context.remembering = asyncio.create_task(memory.run(), name="seen")
    return context, following


class _Meeting:
    """Whether the journal is the one that was seen here before: its digest where it was last seen, caught as it is folded."""

    def __init__(self, file: SeenFile, projection: Projection) -> None:
        self._file, self._projection = file, projection
        seen = file.read()
        self._seq = seen.seq if seen is not None else 0
        self._digest = ""
        if self._seq:
            projection.begin_before = self._seq  # a snapshot from later on would not show what was changed before it
        projection.listen(self._heard)

    def _heard(self, entry: Entry) -> None:
        if entry.seq == self._seq:
            self._digest = self._projection.fleet.journal_digest

    def check(self) -> None:
        """Refuse a journal that was changed. Raises ``JournalCorruptError``."""
        if self._digest:
            self._file.check_digest(self._seq, self._digest)


def _server_key(settings: Settings, shown: str) -> str:
    """Which server's journal it is: empty for the one embedded in the state directory, else its address without credentials."""
    from flowctl.journal.embedded import discover

    embedded = discover(paths.nats_dir(settings.state_dir))
    return "" if embedded is not None and embedded.url.rpartition("@")[2] == shown.rpartition("//")[2] else shown


def digest_of(projection: Projection, service: str, name: str) -> Callable[[api.DigestRequest], Awaitable[api.DigestAnswer]]:
    """What answers ``flowctl verify``: the state that the service decides on, as it is at this moment."""

    async def digest(request: api.DigestRequest) -> api.DigestAnswer:
        del request
        if projection.corrupt is not None:
            raise projection.corrupt
        fleet = projection.fleet
        return api.DigestAnswer(
            service=service,
            name=name,
            seq=fleet.seq,
            digest=fleet.digest(),
            journal_digest=fleet.journal_digest,
            projection=projection.id,
            skipped=projection.skipped_total,
        )

    return digest


async def close_context(context: ServiceContext, following: asyncio.Task[None]) -> None:
    """Undo ``open_context``."""
    for task in (context.remembering, following):
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, FlowctlError):
                await task
    await context.store.close()


def run_service(settings: Settings, name: str, build: Callable[[ServiceContext], Service]) -> int:
    """Run one service alone until SIGTERM or SIGINT; the exit code. Errors become one clear sentence on stderr."""
    setup_logging(settings.log_level, settings.log_format, service=name)
    return run_to_exit_code(_run_alone(settings, build))


def run_to_exit_code(work: Coroutine[Any, Any, int]) -> int:
    """Run a process' whole life; what ends it early is logged: one sentence for what was foreseen, the traceback otherwise."""
    try:
        return asyncio.run(work)
    except FlowctlError as error:
        log.error("%s", error)  # noqa: TRY400 - one clear sentence, no traceback
        return error.exit_code
    except Exception:
        log.exception("unexpected error")
        return EXIT_FAILED


async def _run_alone(settings: Settings, build: Callable[[ServiceContext], Service]) -> int:
    stop = stop_signals()
    opening = asyncio.ensure_future(open_context(settings))
    if not await first_of(opening, stop):
        return EXIT_DONE
    context, following = opening.result()
    try:
        return await run_services(context, [build(context)], following=following, stop=stop, http_listen=settings.http_listen)
    finally:
        await close_context(context, following)


async def run_services(
    context: ServiceContext,
    services: Iterable[Service],
    *,
    following: asyncio.Task[None],
    stop: asyncio.Event,
    http_listen: str,
    ready: Callable[[], Awaitable[None]] | None = None,
) -> int:
    """Start the services in order, serve until ``stop`` is set or one fails, and stop them in reverse order.

    ``services`` is consumed one by one: each is taken when the one before it has started. ``ready`` is awaited once all have.

    Raises:
        FlowctlError: what made a service unable to start or to go on.
    """
    started: list[Service] = []
    all_started = False

    def readiness() -> str | None:
        if not all_started:
            return "starting"
        reasons = [f"{service.name}: {reason}" for service in started if (reason := service.readiness()) is not None]
        return "; ".join(reasons) or None

    context.metrics.register(JournalNumbers(context.projection))
    watches: list[asyncio.Task[None]] = [following]
    web = WebServer(http_listen, metrics=context.metrics, readiness=readiness) if http_listen else None
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        for service in services:
            starting = asyncio.ensure_future(service.start())
            started.append(service)
            if not await first_of(starting, stop):
                return EXIT_DONE
            starting.result()
            watches.append(asyncio.create_task(service.failed(), name=f"{service.name}-failed"))
        all_started = True
        log.info("ready", extra={"services": [service.name for service in started], "http": web.address if web else ""})
        if ready is not None:
            await ready()
        done, _ = await asyncio.wait([stopping, *watches], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {stopping}:
            task.result()
        return EXIT_DONE
    finally:
        stopping.cancel()
        for watch in watches[1:]:
            watch.cancel()
        await asyncio.gather(*watches[1:], return_exceptions=True)
        for service in reversed(started):
            await _stop(service)
        if web is not None:
            web.close()


class JournalNumbers(Collector):
    """How far this process has read the journal, and whether it is there."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection

    def collect(self) -> Iterator[Metric]:
        """The numbers of now."""
        projection = self._projection
        fleet = projection.fleet
        available = projection.unavailable_since_ns is None and projection.corrupt is None
        yield GaugeMetricFamily("flowctl_journal_available", "Whether the journal answers", float(available))
        yield GaugeMetricFamily("flowctl_journal_read_sequence", "The last entry that was folded", fleet.seq)
        yield CounterMetricFamily(
            "flowctl_journal_unreadable_entries", "Entries that could not be read and were skipped", fleet.poison_total
        )


async def _stop(service: Service) -> None:
    """Stop one service; whatever comes of it, the others are stopped too."""
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await service.stop()
    except TimeoutError:
        log.warning("the %s did not stop within %g s", service.name, STOP_TIMEOUT_S)
    except Exception:
        log.exception("the %s did not stop cleanly", service.name)


def stop_signals() -> asyncio.Event:
    """An event that SIGTERM or SIGINT sets."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def first_of(work: "asyncio.Future[Any]", stop: asyncio.Event) -> bool:
    """Wait for the work or for ``stop``; True if the work is done, else it is cancelled."""
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([work, stopping], return_when=asyncio.FIRST_COMPLETED)
        return work.done()
    finally:
        stopping.cancel()
        if not work.done():
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
