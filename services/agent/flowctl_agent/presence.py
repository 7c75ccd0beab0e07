"""The host in the journal: joined, alive, left. An agent that finds another one in its place gives up."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable
from typing import Final

from flowctl.clock import Clock
from flowctl.decision import Decision
from flowctl.errors import FlowctlError, JournalUnavailableError, RefusedError
from flowctl.fleet import Fleet
from flowctl.journal.events import Aggregate, HostJoined, HostLeft, HostReconnected
from flowctl.journal.heartbeats import Heartbeats, HostBeat
from flowctl.journal.log import Draft, Entry
from flowctl.projection import Projection, retrying

LEAVE_S: Final = 3.0
MIN_AWAY_S: Final = 0.5
"""Shorter absences of the journal are nothing to write about."""

log = logging.getLogger("flowctl.agent.presence")


def join(fleet: Fleet, host: str, joined: HostJoined) -> Decision:
    """Must the host be announced? Not if this agent's announcement stands."""
    known = fleet.hosts.get(host)
    if known is not None and known.status == "up" and known.joined == joined:
        return []
    again = known is not None and known.joined.agent == joined.agent
    return [Draft(Aggregate.of_host(host), joined, known.seq if known is not None and again else 0)]


def leave(fleet: Fleet, host: str, agent: str, reason: str) -> Decision:
    """Must the host be signed off? Only by the agent that is there."""
    known = fleet.hosts.get(host)
    if known is None or known.joined.agent != agent or known.status == "left":
        return []
    return [Draft(Aggregate.of_host(host), HostLeft(reason=reason))]


def reconnected(fleet: Fleet, host: str, agent: str, away_s: float) -> Decision:
    """Must it be told that the journal was out of reach? Only by the agent that is there."""
    known = fleet.hosts.get(host)
    if known is None or known.joined.agent != agent or away_s < MIN_AWAY_S:
        return []
    return [Draft(Aggregate.of_host(host), HostReconnected(away_s=round(away_s, 3)))]


class Presence:
    """Keeps a host in the journal. ``superseded`` is set when another agent has taken its name; ``running`` never ends."""

    def __init__(
        self,
        *,
        host: str,
        joined: HostJoined,
        projection: Projection,
        heartbeats: Heartbeats,
        clock: Clock,
        interval_s: float,
        count: Callable[[], int],
    ) -> None:
        self.superseded: RefusedError | None = None
        self.unheard = False
        self.lost = asyncio.Event()
        self.running: asyncio.Task[None] | None = None
        self._host = host
        self._joined = joined
        self._projection = projection
        self._heartbeats = heartbeats
        self._clock = clock
        self._interval_s = interval_s
        self._count = count
        self._joined_seq: int | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Announce the host, however long the journal is away, and begin to beat."""
        await retrying(self._join, clock=self._clock, what="joining")
        self._joined_seq = self._projection.fleet.seq
        self._projection.listen(self._heard)
        self.running = asyncio.create_task(self._beat(), name="agent-beats")
        self._watching = asyncio.create_task(self._watch_absences(), name="agent-absences")

    async def stop(self, reason: str) -> None:
        """Sign the host off, if the journal is there."""
        tasks = [task for task in (self.running, self._watching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._joined_seq is None:
            return
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._projection.decide(
                    lambda fleet: leave(fleet, self._host, self._joined.agent, reason), actor=f"agent/{self._host}"
                )
        except (TimeoutError, FlowctlError) as error:
            why = str(error) or f"not within {LEAVE_S:g} s"
            log.warning("the journal does not learn that this host leaves: %s", why)

    async def _join(self) -> None:
        await self._projection.decide(lambda fleet: join(fleet, self._host, self._joined), actor=f"agent/{self._host}")

    def _heard(self, entry: Entry) -> None:
        if entry.aggregate != Aggregate.of_host(self._host) or not isinstance(entry.event, HostJoined):
            return
        if entry.event.agent != self._joined.agent:
            self._give_up()

    def _give_up(self) -> None:
        self.superseded = RefusedError(
            f"another agent has joined as host {self._host}", hint="give each host a name of its own with --name"
        )
        self.lost.set()

    async def _watch_absences(self) -> None:
        """Tell of every absence of the journal once it is back: what happened meanwhile nobody could write."""
        projection = self._projection
        while True:
            await projection.changed()
            since_ns = projection.unavailable_since_ns
            if since_ns is None:
                continue
            while projection.unavailable_since_ns is not None:
                await projection.changed()
            away_s = (projection.journal.now_ns() - since_ns) / 1e9
            with contextlib.suppress(FlowctlError):  # gone again: that absence will be told, a longer one
                await self._projection.decide(
                    functools.partial(reconnected, host=self._host, agent=self._joined.agent, away_s=away_s),
                    actor=f"agent/{self._host}",
                )

    async def _beat(self) -> None:
        while True:
            try:
                # One that is not taken in time is given up for the next: waiting for a stream without a leader must not
                # be the silence that loses the host as soon as others are heard again.
                beat = HostBeat(self._host, self._joined.agent, self._count())
                await self._heartbeats.publish([beat], timeout_s=self._interval_s)
                self.unheard = False
                host = self._projection.fleet.hosts.get(self._host)
                if host is not None and host.status == "up" and host.joined.agent != self._joined.agent:
                    self._give_up()  # it joined before this agent listened
                if self.superseded is None and (host is None or host.status != "up"):
                    await self._join()
            except JournalUnavailableError:
                self.unheard = True  # a full disk still answers whoever only reads
            except FlowctlError as error:
                log.warning("the heartbeat failed: %s", error)
            await self._clock.sleep(self._interval_s)
