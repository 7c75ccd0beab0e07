"""Sealing the journal: now and then an entry fixes the digest of everything before it.

One sealer is enough; several (one in each orchestrator) do no harm: the server takes one of two seals that were decided on the
same view, and whoever lost finds nothing left to seal.
"""

import asyncio
import contextlib
import logging
from typing import Final

from flowctl.clock import Clock, SystemClock
from flowctl.decision import Decision
from flowctl.errors import ConflictError, DeadlineError, JournalUnavailableError
from flowctl.fleet import Fleet
from flowctl.journal.events import Aggregate, SealPlaced
from flowctl.journal.log import Draft
from flowctl.projection import Projection

SEAL_ENTRIES: Final = 1_000
QUIET_S: Final = 60.0

log = logging.getLogger("flowctl.sealing")


def unsealed(fleet: Fleet) -> int:
    """How many entries no seal covers; a seal alone at the end counts for none, or each would ask for the next."""
    after = fleet.seq - fleet.seal.upto
    return 0 if fleet.seq == fleet.seal.seq == fleet.seal.upto + 1 else after


def wait_s(fleet: Fleet, now_ns: int, *, entries: int = SEAL_ENTRIES, quiet_s: float = QUIET_S) -> float | None:
    """How long until a seal is due, 0 if it is now, None if there is nothing to seal. Pure.

    It is due after so many entries, or once the last entry is ``quiet_s`` seconds old.
    """
    count = unsealed(fleet)
    if count == 0:
        return None
    return 0.0 if count >= entries else max(0.0, quiet_s - (now_ns - fleet.time_ns) / 1e9)


def seal(fleet: Fleet) -> Decision:
    """Seal everything that is folded, if anything is unsealed. Pure."""
    if unsealed(fleet) == 0:
        return []
    event = SealPlaced(upto=fleet.seq, digest=fleet.journal_digest)
    return [Draft(Aggregate.of_seals(), event, causation=fleet.seq)]


class Sealer:
    """Writes seals when they are due, until cancelled."""

    def __init__(
        self,
        projection: Projection,
        *,
        actor: str,
        clock: Clock | None = None,
        entries: int = SEAL_ENTRIES,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._projection = projection
        self._actor = actor
        self._clock: Clock = clock or SystemClock()
        self._entries = entries
        self._quiet_s = quiet_s

    async def run(self) -> None:
        """Go on until cancelled; rides out the journal's absence. A journal that is corrupt is not sealed any more."""
        while self._projection.corrupt is None:
            wait = self._wait_s()
            if wait == 0 and self._projection.unavailable_since_ns is None:
                try:
                    await self._projection.decide(self._due, actor=self._actor)
                    continue
                except (JournalUnavailableError, ConflictError, DeadlineError) as error:
                    log.info("the journal is not sealed yet: %s", error)
                wait = self._quiet_s
            await self._news(wait)

    async def seal_now(self) -> None:
        """Seal what is folded, if the journal answers; for the end of a service."""
        if self._projection.corrupt is None and self._projection.unavailable_since_ns is None:
            with contextlib.suppress(JournalUnavailableError, ConflictError, DeadlineError):
                await self._projection.decide(seal, actor=self._actor)

    def _wait_s(self) -> float | None:
        now_ns = self._projection.journal.now_ns()
        return wait_s(self._projection.fleet, now_ns, entries=self._entries, quiet_s=self._quiet_s)

    def _due(self, fleet: Fleet) -> Decision:
        """What is due on this view, which after a conflict is another than the one that woke the sealer."""
        now_ns = self._projection.journal.now_ns()
        return seal(fleet) if wait_s(fleet, now_ns, entries=self._entries, quiet_s=self._quiet_s) == 0 else []

    async def _news(self, wait: float | None) -> None:
        """Sleep until a seal may be due: the time is over, or (for many entries at once) something was written."""
        news = asyncio.ensure_future(self._projection.changed())
        waits = [news] if wait is None else [news, asyncio.ensure_future(self._clock.sleep(max(wait, 0.001)))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
