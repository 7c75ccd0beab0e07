"""One route at work: take the next entry of its durable subscription, tell it, take note that it is told."""

import logging
from collections.abc import Callable
from typing import Final

from flowctl.clock import Clock
from flowctl.errors import JournalUnavailableError, NoticesFullError
from flowctl.journal.log import Entry
from flowctl.journal.notices import Notice
from flowctl.journal.store import Store
from flowctl.journal.subscriptions import Subscription, held
from flowctl_notify import cloudevents
from flowctl_notify.decide import Answer, Delivered, GivenUp, NoAnswer, Policy, Retry, judge
from flowctl_notify.delivery import Sender
from flowctl_notify.routes import Route

RETRY_S: Final = 0.2
FULL: Final = "undelivered notices are full: redrive or forget them"

log = logging.getLogger("flowctl.notify")


class Worker:
    """Serves one route until cancelled. ``state`` says in a few words what it does now."""

    def __init__(
        self,
        route: Route,
        *,
        store: Store,
        sender: Sender,
        policy: Policy,
        clock: Clock,
        url: str,
        key: bytes,
        count: Callable[[str, str], None],
    ) -> None:
        self.route = route
        self.state = "starting"
        self.delivered = 0
        self.given_up = 0
        self.failures = 0
        self.last_error = ""
        self.reachable = False
        self._store = store
        self._sender = sender
        self._policy = policy
        self._clock = clock
        self._url = url
        self._key = key
        self._count = count

    async def run(self) -> None:
        """Serve."""
        subscription: Subscription | None = None
        while True:
            try:
                if subscription is None:
                    subscription = await self._store.subscriptions.open(self.route.durable, self.route.subject)
                self.reachable, self.state = True, "waiting for an entry"
                entry = await subscription.next()
                if self.route.wants(entry):
                    async with held(subscription):
                        await self._tell(entry)
                await subscription.done()
            except JournalUnavailableError as error:
                subscription, self.reachable, self.state = None, False, "waiting for the journal"
                log.debug("route %s: %s", self.route.name, error)
                await self._clock.sleep(RETRY_S)

    async def once(self, entry: Entry) -> Answer | NoAnswer:
        """Send one entry one time, whatever else goes on."""
        now_s = self._clock.wall_ns() // 1_000_000_000
        request = cloudevents.request(entry, structured=self.route.structured, key=self._key, now_s=now_s)
        return await self._sender.send(self._url, request)

    async def _tell(self, entry: Entry) -> None:
        """Try until it is delivered or given up."""
        attempt = 0
        while True:
            attempt += 1
            self.state = f"delivering entry {entry.seq}"
            match judge(await self.once(entry), attempt, self._policy):
                case Delivered():
                    self.delivered += 1
                    self._count(self.route.name, "delivered")
                    return
                case Retry(after_s=after_s, reason=reason):
                    self.failures, self.last_error = self.failures + 1, reason
                    self._count(self.route.name, "failed")
                    log.info("route %s: entry %d, attempt %d: %s", self.route.name, entry.seq, attempt, reason)
                    self.state = f"trying entry {entry.seq} again: {reason}"
                    await self._clock.sleep(after_s)
                case GivenUp(reason=reason):
                    self.failures, self.last_error = self.failures + 1, reason
                    log.warning("route %s: entry %d is given up: %s", self.route.name, entry.seq, reason)
                    await self._keep(_notice(self.route, entry, reason, attempt))
                    self.given_up += 1
                    self._count(self.route.name, "given_up")
                    return

    async def _keep(self, notice: Notice) -> None:
        """Keep it as undelivered. While there is no room the route waits, longer each time, and the other end is left alone."""
        pause_s = self._policy.backoff_s
        while True:
            try:
                await self._store.notices.put(notice)
            except NoticesFullError as error:
                if self.state != FULL:
                    log.warning("route %s: entry %d: %s", self.route.name, notice.seq, error)
                self.state = FULL
                await self._clock.sleep(pause_s)
                pause_s = min(pause_s * 2, self._policy.backoff_max_s)
            else:
                return


def _notice(route: Route, entry: Entry, reason: str, attempts: int) -> Notice:
    return Notice(route=route.name, seq=entry.seq, subject=entry.subject, type=entry.ce_type, error=reason, attempts=attempts)
