"""The notifier as a service: its routes at work, and the questions that it answers."""

import asyncio
import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from flowctl import api, api_notify
from flowctl.endpoints import Endpoints
from flowctl.errors import InvalidSettingError, InvalidSpecError, NotFoundError
from flowctl.journal.log import Entry, Unknown
from flowctl.serving import ServiceContext
from flowctl.settings import NotifySettings
from flowctl.spec import references
from flowctl_notify.cloudevents import signing_key
from flowctl_notify.decide import Answer, Delivered, NoAnswer, Policy, judge
from flowctl_notify.delivery import Sender
from flowctl_notify.routes import Route, parse_all
from flowctl_notify.worker import Worker

TEST_TYPE: Final = "flowctl.notify.test.v1"


class NotifyService:
    """The notifier. Several may run: an entry of a route is with one of them at a time."""

    name = api.NOTIFY

    def __init__(self, context: ServiceContext, settings: NotifySettings) -> None:
        self._context = context
        self._settings = settings
        self._sender = Sender(settings.notify_timeout_s)
        self._policy = Policy(settings.notify_attempts, settings.notify_backoff_s, settings.notify_backoff_max_s)
        self._notices = Counter(
            "flowctl_notify_notices", "Notices by route and outcome", ["route", "outcome"], registry=context.metrics
        )
        self._key = _key(settings)
        self._workers = [self._worker(route) for route in parse_all(settings.notify)]
        context.metrics.register(_Numbers(self._workers))
        self._tasks: list[asyncio.Task[None]] = []
        self._endpoints: Endpoints | None = None

    @staticmethod
    def check(settings: NotifySettings) -> None:
        """Find out before anything starts whether the settings can be obeyed.

        Raises:
            InvalidSettingError: they cannot.
        """
        for route in parse_all(settings.notify):
            resolved(route.url, f"the address of route {route.name}")
        _key(settings)

    async def start(self) -> None:
        """Serve every route."""
        self._tasks = [asyncio.create_task(worker.run(), name=f"notify-{worker.route.name}") for worker in self._workers]
        if self._context.endpoints is None:
            return
        self._endpoints = self._context.endpoints(api.NOTIFY)
        self._endpoints.add("routes", api_notify.RoutesRequest, self.routes)
        self._endpoints.add("test", api_notify.TryRoutes, self.test)
        self._endpoints.add("redrive", api_notify.RedriveNotices, self.redrive)
        self._endpoints.add("info", api.InfoRequest, self._info)
        await self._endpoints.start()

    async def stop(self) -> None:
        """Serve no more; what was being told will be told again."""
        if self._endpoints is not None:
            with contextlib.suppress(Exception):
                await self._endpoints.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._sender.close()

    async def failed(self) -> None:
        """See ``Service``."""
        if not self._tasks:
            await asyncio.Event().wait()
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    def readiness(self) -> str | None:
        """See ``Service``."""
        return None if all(worker.reachable for worker in self._workers) else "the journal does not answer"

    def _worker(self, route: Route) -> Worker:
        return Worker(
            route,
            store=self._context.store,
            sender=self._sender,
            policy=self._policy,
            clock=self._context.clock,
            url=resolved(route.url, f"the address of route {route.name}"),
            key=self._key,
            count=lambda name, outcome: self._notices.labels(name, outcome).inc(),
        )

    # --- questions -----------------------------------------------------------------------------------------------------------

    async def routes(self, request: api_notify.RoutesRequest) -> api_notify.RoutesAnswer:
        """What is told to whom, and how far that is."""
        del request
        views = [await self._view(worker) for worker in self._workers]
        return api_notify.RoutesAnswer(routes=views, timeout_s=self._settings.notify_timeout_s)

    async def _view(self, worker: Worker) -> api_notify.RouteView:
        place = await self._context.store.subscriptions.look(worker.route.durable)
        return api_notify.RouteView(
            name=worker.route.name,
            subject=worker.route.subject,
            where=dict(worker.route.where),
            url=worker.route.shown_url,
            mode="structured" if worker.route.structured else "binary",
            state=worker.state,
            seq=place.seq if place else 0,
            waiting=place.waiting if place else 0,
            delivered=worker.delivered,
            failures=worker.failures,
            given_up=worker.given_up,
            last_error=worker.last_error,
        )

    async def test(self, request: api_notify.TryRoutes) -> api_notify.TriedRoutes:
        """Send a test event along a route, or all, once."""
        entry = Entry(
            0,
            self._context.store.journal.now_ns(),
            "",
            None,
            Unknown(TEST_TYPE),
            id=f"test-{uuid.uuid4().hex}",
            ce_type=TEST_TYPE,
            actor=request.actor,
            data=b'{"type":"NotifyTest"}',
        )
        workers = self._chosen(request.route)
        answers = await asyncio.gather(*(worker.once(entry) for worker in workers))
        return api_notify.TriedRoutes(routes=[_tested(worker, answer) for worker, answer in zip(workers, answers, strict=True)])

    async def redrive(self, request: api_notify.RedriveNotices) -> api_notify.RedrivenNotices:
        """Send the undelivered notices once more, in order; those that are taken are let go of.

        An address that once does not answer gets no more of them: each would cost as long as the first.
        """
        store = self._context.store
        workers = {worker.route.name: worker for worker in self._workers}
        silent: dict[str, str] = {}
        done: list[api_notify.RedrivenNotice] = []
        for stored in await store.notices.read():
            notice = stored.notice
            if request.route not in ("", notice.route) or (request.numbers and stored.number not in request.numbers):
                continue
            error = silent.get(notice.route) or f"there is no route {notice.route}"
            if notice.route in workers.keys() - silent.keys():
                answer = await workers[notice.route].once(await store.journal.entry(notice.seq))
                error = _problem(answer)
                if isinstance(answer, NoAnswer):
                    silent[notice.route] = f"not tried: {error}"
            if not error:
                await store.notices.remove(stored.number)
            done.append(api_notify.RedrivenNotice(number=stored.number, seq=notice.seq, error=error))
        return api_notify.RedrivenNotices(notices=done)

    def _chosen(self, name: str) -> list[Worker]:
        chosen = [worker for worker in self._workers if not name or worker.route.name == name]
        if name and not chosen:
            raise NotFoundError(f"there is no route {name[:60]!r}", hint="`flowctl notify list` shows them")
        return chosen

    async def _info(self, request: api.InfoRequest) -> api.Info:
        del request
        routes = f"{len(self._workers)} routes"
        return self._context.info(api.NOTIFY, self._settings.name, self.readiness(), detail=routes)


def resolved(text: str, what: str) -> str:
    """The text with its references filled in; they are secrets.

    Raises:
        InvalidSettingError: one leads nowhere.
    """
    try:
        return references.resolve(text, os.environ, lambda name: Path(name).read_text())
    except InvalidSpecError as error:
        raise InvalidSettingError(f"notify: {what}: {error.problems[0].message}", hint=error.problems[0].hint) from None


def _key(settings: NotifySettings) -> bytes:
    return signing_key(resolved(settings.notify_secret, "notify_secret"))


def _problem(answer: Answer | NoAnswer) -> str:
    verdict = judge(answer, 1, Policy(1, 0, 0))
    return "" if isinstance(verdict, Delivered) else verdict.reason.removesuffix(" (tried 1 times)")


def _tested(worker: Worker, answer: Answer | NoAnswer) -> api_notify.TriedRoute:
    return api_notify.TriedRoute(name=worker.route.name, url=worker.route.shown_url, error=_problem(answer))


class _Numbers(Collector):
    """What is known anyway, read when somebody scrapes."""

    def __init__(self, workers: list[Worker]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        gauge = GaugeMetricFamily("flowctl_notify_reachable", "Whether the route's subscription answers", labels=["route"])
        for worker in self._workers:
            gauge.add_metric([worker.route.name], float(worker.reachable))
        yield gauge
