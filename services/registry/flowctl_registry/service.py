"""The registry as a service: composed, started, kept alive, stopped."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from prometheus_client import Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flowctl import api
from flowctl.endpoints import Endpoints
from flowctl.errors import JournalUnavailableError
from flowctl.journal.heartbeats import ServiceBeat
from flowctl.serving import ServiceContext
from flowctl.settings import RegistrySettings, is_loopback
from flowctl_registry.beats import Beats
from flowctl_registry.handlers import Handlers
from flowctl_registry.letters import Letters
from flowctl_registry.live import Live
from flowctl_registry.server import RegistryServer
from flowctl_registry.servicer import Servicer
from flowctl_registry.watches import Watches

SERVICE_BEAT_S: Final = 0.5
BEAT_WAIT_S: Final = 5.0
"""A server whose disk is full answers everything but what it is to keep; so soon the registry says that it is not ready."""
"""How often the registry says that it is alive; the health monitor finds silence this much late at most."""
RETRY_S: Final = 0.2

log = logging.getLogger("flowctl.registry")


class Serving(Protocol):
    """What serves the registry's dialects; see ``RegistryServer``."""

    address: str

    def add(self, servicer: Servicer) -> None:
        """Serve a dialect too."""
        ...

    def bind(self, listen: str) -> None:
        """Take the address."""
        ...

    async def start(self) -> None:
        """Begin to serve."""
        ...

    async def set_serving(self, *, serving: bool) -> None:
        """What health checking answers."""
        ...

    async def stop(self) -> None:
        """Take no new calls, let the running ones end."""
        ...


class RegistryService:
    """The registry. ``address`` says where it listens, ``handlers`` answer components, ``letters`` is about dead letters.

    ``server`` makes what listens: gRPC, or nothing where components are simulated in the same process.
    """

    name = api.REGISTRY

    def __init__(
        self, context: ServiceContext, settings: RegistrySettings, *, server: Callable[[], Serving] = RegistryServer
    ) -> None:
        self._context = context
        self._settings = settings
        self._make_server = server
        self._beats = Beats(context.store)
        self._live = Live()
        self._watches = Watches(context.projection)
        self.handlers = Handlers(
            context.projection,
            beats=self._beats,
            live=self._live,
            watches=self._watches,
            actor=f"registry/{settings.name}",
            heartbeat_interval_s=settings.heartbeat_interval_s,
        )
        self.letters = Letters(context.projection, self.handlers, context.store.dead_letters)
        self._requests = Counter("flowctl_registry_requests", "Requests answered", ["method", "code"], registry=context.metrics)
        context.metrics.register(_Numbers(self._beats, self._watches, self.letters))
        self._server: Serving | None = None
        self._endpoints: Endpoints | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._reachable = False

    @property
    def address(self) -> str:
        """host:port of the gRPC server; empty before ``start``."""
        return self._server.address if self._server is not None else ""

    async def start(self) -> None:
        """Begin to serve.

        Raises:
            InvalidSettingError: the address cannot be listened on.
        """
        server = self._make_server()
        counters: dict[tuple[str, str], Counter] = {}

        def count(method: str, code: str) -> None:
            key = method, code
            if key not in counters:
                counters[key] = self._requests.labels(method, code)
            counters[key].inc()

        server.add(Servicer(self.handlers, self.letters, count))
        self._bind(server)
        self._server = server
        self._tasks = [
            asyncio.create_task(self._beats.run(), name="registry-beats"),
            asyncio.create_task(self._follow(), name="registry-live"),
            asyncio.create_task(self._announce(server), name="registry-announce"),
        ]
        await server.start()
        if self._context.endpoints is not None:
            self._endpoints = self._context.endpoints(api.REGISTRY)
            self._endpoints.add("live", api.LiveRequest, self.handlers.live)
            self._endpoints.add("redrive", api.RedriveLetters, self.letters.redrive)
            self._endpoints.add("info", api.InfoRequest, self._info)
            await self._endpoints.start()
        log.info("registry listens on %s", server.address)

    async def stop(self) -> None:
        """End the watches, answer what was asked, stop."""
        self._watches.close()
        self.letters.close()
        if self._endpoints is not None:
            with contextlib.suppress(Exception):
                await self._endpoints.stop()
        if self._server is not None:
            await self._server.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def failed(self) -> None:
        """See ``Service``."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def readiness(self) -> str | None:
        """See ``Service``."""
        if self._server is None:
            return "it has not started yet"
        if self._reachable:
            return None
        away = self._context.projection.unavailable_since_ns is not None
        return "the journal does not answer" if away else "NATS takes no heartbeats: has it a leader, and room on its disk?"

    def _bind(self, server: Serving) -> None:
        listen = self._settings.registry_listen
        host = listen.rpartition(":")[0]
        if not is_loopback(host):
            log.warning("the registry listens on %s without TLS: whoever reaches it can register components", listen)
        server.bind(listen)

    async def _follow(self) -> None:
        """Keep the last heartbeats, whichever replica stored them."""
        while True:
            try:
                async for stored in self._context.store.heartbeats.follow():
                    self._live.apply(stored)
            except JournalUnavailableError:
                await self._context.clock.sleep(RETRY_S)

    async def _announce(self, server: Serving) -> None:
        """Say that this registry lives, in the heartbeats and in gRPC health checking."""
        beat = ServiceBeat(api.REGISTRY, self._settings.name)
        while True:
            try:
                await self._context.store.heartbeats.publish([beat], timeout_s=BEAT_WAIT_S)
                self._reachable = True
            except JournalUnavailableError:
                self._reachable = False
            await server.set_serving(serving=self._reachable)
            await self._context.clock.sleep(SERVICE_BEAT_S)

    async def _info(self, request: api.InfoRequest) -> api.Info:
        del request
        return self._context.info(api.REGISTRY, self._settings.name, self.readiness(), addresses={"grpc": self.address})


class _Numbers(Collector):
    """What is counted anyway, read when somebody scrapes."""

    def __init__(self, beats: Beats, watches: Watches, letters: Letters) -> None:
        self._beats = beats
        self._watches = watches
        self._letters = letters

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily("flowctl_registry_heartbeats", "Heartbeats stored", self._beats.stored)
        yield CounterMetricFamily("flowctl_registry_heartbeat_groups", "Publishes of heartbeats", self._beats.groups)
        yield GaugeMetricFamily("flowctl_registry_heartbeats_waiting", "Heartbeats not yet stored", self._beats.waiting)
        yield CounterMetricFamily("flowctl_registry_dead_letters", "Events put aside for components", self._letters.stored)
        yield GaugeMetricFamily("flowctl_registry_watchers", "Open topology watches", self._watches.watchers)
