"""The planning loop: whenever the journal says something of a pipeline, plan it and append what follows."""

import asyncio
import logging
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from flowctl.clock import Clock
from flowctl.decision import Decision
from flowctl.errors import ConflictError, DeadlineError, JournalCorruptError, JournalUnavailableError
from flowctl.fleet import Fleet
from flowctl.journal.chain import MAX_DRAFTS
from flowctl.journal.events import (
    CheckpointCommitted,
    ComponentLettersRedriven,
    ComponentProbed,
    ComponentRedriveRequested,
)
from flowctl.journal.log import Entry
from flowctl.projection import Projection
from flowctl_orchestrator.plan import Plan, plan_pipeline

RETRY_S: Final = 0.5
TROUBLE_RETRY_S: Final = 5.0

_S: Final = 1_000_000_000
_MEANINGLESS: Final = (CheckpointCommitted, ComponentProbed, ComponentRedriveRequested, ComponentLettersRedriven)
"""Frequent entries from which no plan ever follows."""

log = logging.getLogger("flowctl.orchestrator")


class Planner:
    """Plans one pipeline at a time, those that the journal spoke of and those whose time has come.

    ``troubles`` holds, by pipeline, why it could not be planned; the others go on.
    """

    def __init__(self, projection: Projection, *, clock: Clock, actor: str, metrics: CollectorRegistry) -> None:
        self.troubles: dict[str, str] = {}
        self._projection = projection
        self._clock = clock
        self._actor = actor
        self._due: dict[str, None] = {}  # in the order in which they were spoken of
        self._wakes_ns: dict[str, int] = {}
        self._news = asyncio.Event()
        self._plans = Counter("flowctl_orchestrator_plans", "Plans made", registry=metrics)
        self._drafts = Counter("flowctl_orchestrator_entries", "Journal entries that followed from plans", registry=metrics)
        self._errors = Counter("flowctl_orchestrator_plan_errors", "Plans that failed", registry=metrics)
        self._seconds = Histogram("flowctl_orchestrator_plan_seconds", "Time to make one plan", registry=metrics)
        projection.listen(self._heard)

    async def run(self) -> None:
        """Plan until cancelled.

        Raises:
            JournalCorruptError: the journal lost entries.
        """
        for name in self._projection.fleet.pipelines:
            self._due[name] = None
        while True:
            self._wake_sleepers()
            if not self._due:
                await self._wait_for_news()
                continue
            name = next(iter(self._due))
            del self._due[name]
            try:
                await self._settle(name)
            except (JournalUnavailableError, ConflictError, DeadlineError) as error:
                self._due[name] = None
                log.warning("pipeline %s is planned again in %g s: %s", name, RETRY_S, error)
                await self._clock.sleep(RETRY_S)

    async def _settle(self, name: str) -> None:
        """Append all that follows for one pipeline."""
        try:
            while await self._append(name):
                pass
        except (JournalUnavailableError, JournalCorruptError, ConflictError, DeadlineError):
            raise
        except Exception as error:
            self._errors.inc()
            if name not in self.troubles:
                log.exception("pipeline %s cannot be planned", name)
            self.troubles[name] = str(error) or type(error).__name__
            self._wakes_ns[name] = self._projection.journal.now_ns() + int(TROUBLE_RETRY_S * _S)
        else:
            self.troubles.pop(name, None)

    async def _append(self, name: str) -> int:
        """Append as much of the plan as may be appended at once; how many entries that were.

        Whoever writes often to one of many aggregates (checkpoints) would make a large batch conflict for ever, so every
        conflict halves it.
        """
        limit = MAX_DRAFTS
        made = Plan()

        def follows(fleet: Fleet) -> Decision:
            nonlocal limit, made
            with self._seconds.time():
                made = plan_pipeline(fleet, name, self._projection.journal.now_ns())
            self._plans.inc()
            drafts = made.drafts[:limit]
            limit = max(1, limit // 2)
            return drafts

        correlation = self._projection.fleet.correlation_of(name)
        entries = await self._projection.decide(follows, actor=self._actor, correlation=correlation)
        if made.next_wake_ns is not None:
            self._wakes_ns[name] = made.next_wake_ns
        else:
            self._wakes_ns.pop(name, None)
        self._drafts.inc(len(entries))
        return len(entries)

    def _heard(self, entry: Entry) -> None:
        aggregate = entry.aggregate
        if aggregate is None or isinstance(entry.event, _MEANINGLESS):
            return
        if aggregate.kind == "host":
            self._due |= dict.fromkeys(self._projection.fleet.pipelines)
        elif aggregate.kind != "seal" and aggregate.key[0] in self._projection.fleet.pipelines:
            self._due[aggregate.key[0]] = None
        self._news.set()

    def _wake_sleepers(self) -> None:
        now_ns = self._projection.journal.now_ns()
        for name in [name for name, at_ns in self._wakes_ns.items() if at_ns <= now_ns]:
            del self._wakes_ns[name]
            self._due[name] = None

    async def _wait_for_news(self) -> None:
        """Until the journal says something, or the next pipeline's time has come."""
        self._news.clear()
        if not self._wakes_ns:
            await self._news.wait()
            return
        seconds = (min(self._wakes_ns.values()) - self._projection.journal.now_ns()) / _S
        news = asyncio.create_task(self._woken(), name="orchestrator-news")
        sleep = asyncio.create_task(self._clock.sleep(max(seconds, 0.001)), name="orchestrator-sleep")
        try:
            await asyncio.wait([news, sleep], return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
            sleep.cancel()
            await asyncio.wait([news, sleep])

    async def _woken(self) -> None:
        await self._news.wait()
