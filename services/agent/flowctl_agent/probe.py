"""Health checks over HTTP, for components that ask for them in their ``health_check``.

Every check is bounded in time and size as a whole: a server that accepts and says nothing, a byte a second, a gigabyte. A
redirect is not followed and counts as a failure. What is told to the journal are changes only. The only module that knows httpx,
which is imported when the first component needs it.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import msgspec

from flowctl.clock import Clock
from flowctl.decision import Decision
from flowctl.errors import FlowctlError
from flowctl.fleet import Fleet, Instance
from flowctl.journal.events import Aggregate, ComponentProbed
from flowctl.journal.log import Draft, Entry
from flowctl.projection import Projection
from flowctl.spec.model import HealthCheck
from flowctl_agent.drivers import RunKey
from flowctl_agent.metrics import AgentMetrics

if TYPE_CHECKING:
    import httpx

MAX_ANSWER_BYTES: Final = 1_048_576

log = logging.getLogger("flowctl.agent.probe")


class Target(msgspec.Struct, frozen=True):
    """One incarnation that is to be checked, and how."""

    key: RunKey
    url: str
    check: HealthCheck


def target_of(instance: Instance, host: str) -> Target | None:
    """What of an instance is to be checked by this host now?"""
    assignment, registration = instance.assignment, instance.registration
    if assignment is None or registration is None or instance.run != "running" or instance.run_host != host:
        return None
    check, endpoint = assignment.component.health_check, registration.event.health_endpoint
    if check is None or not endpoint or not instance.current:
        return None
    parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
    url = f"{parts.scheme}://{parts.netloc}{check.path}"
    return Target(RunKey(instance.id, instance.incarnation), url, check)


def probed(fleet: Fleet, key: RunKey, detail: str | None) -> Decision:
    """Is this news? ``detail`` says why the checks fail, None that they succeed."""
    instance = fleet.instances.get(key.instance)
    if instance is None or instance.incarnation != key.incarnation or instance.run != "running":
        return []
    healthy = detail is None
    if healthy == (instance.probe is None or instance.probe.healthy):
        return []
    event = ComponentProbed(incarnation=key.incarnation, healthy=healthy, detail=detail or "")
    return [Draft(Aggregate.of_instance(key.instance), event, instance.probe_seq or instance.run_assignment)]


async def check_once(client: "httpx.AsyncClient", url: str, timeout_s: float) -> str | None:
    """One check: None if it succeeded within ``timeout_s``, else one sentence."""
    import httpx

    try:
        async with asyncio.timeout(timeout_s), client.stream("GET", url) as response:
            if not response.is_success:
                return f"GET {url} answered {response.status_code}"
            size = 0
            async for chunk in response.aiter_raw():
                size += len(chunk)
                if size > MAX_ANSWER_BYTES:
                    return f"GET {url} answered with more than {MAX_ANSWER_BYTES} bytes"
            return None
    except TimeoutError:
        return f"GET {url} had no complete answer within {timeout_s:g} s"
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return f"GET {url} failed: {str(error) or type(error).__name__}"


class Prober:
    """Checks every target on this host at its own interval."""

    def __init__(self, *, host: str, projection: Projection, clock: Clock, metrics: AgentMetrics) -> None:
        self._host = host
        self._projection = projection
        self._clock = clock
        self._metrics = metrics
        self._tasks: dict[Target, asyncio.Task[None]] = {}
        self._client: httpx.AsyncClient | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin to check."""
        self._projection.listen(self._heard)
        for instance in self._projection.fleet.instances.values():
            self._update(instance)

    async def stop(self) -> None:
        """Check no more."""
        self._stopped = True
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def _heard(self, entry: Entry) -> None:
        if entry.aggregate is not None and entry.aggregate.kind == "component":
            instance = self._projection.fleet.instances.get(entry.aggregate.instance)
            if instance is not None:
                self._update(instance)

    def _update(self, instance: Instance) -> None:
        if self._stopped:
            return
        target = target_of(instance, self._host)
        if self._tasks:
            for stale in [each for each in self._tasks if each.key.instance == instance.id and each != target]:
                self._tasks.pop(stale).cancel()
        if target is not None and target not in self._tasks:
            self._tasks[target] = asyncio.create_task(self._watch(target), name=f"probe-{target.key}")

    async def _watch(self, target: Target) -> None:
        failures = 0
        while True:
            await self._clock.sleep(target.check.interval_s)
            detail = await check_once(self._http(), target.url, target.check.timeout_s)
            failures = failures + 1 if detail is not None else 0
            self._metrics.probe_failures.inc(detail is not None)
            if 0 < failures < target.check.failures:
                continue
            try:
                await self._tell(target.key, detail)
            except FlowctlError as error:  # told after the next check, if it is still so
                log.debug("the check of %s could not be told: %s", target.key, error)

    async def _tell(self, key: RunKey, detail: str | None) -> None:
        correlation = self._projection.fleet.correlation_of(key.instance.pipeline)
        await self._projection.decide(
            lambda fleet: probed(fleet, key, detail), actor=f"agent/{self._host}", correlation=correlation
        )

    def _http(self) -> "httpx.AsyncClient":
        if self._client is None:
            import httpx

            limits = httpx.Limits(max_keepalive_connections=0)
            self._client = httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=None, limits=limits)  # noqa: S113
        return self._client
