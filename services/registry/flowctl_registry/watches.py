"""Watchers of topologies: each is told at once, and again when its own component's neighbours have changed.

An entry of a pipeline makes its watched components stale; they are computed once after all entries that arrived together were
folded, whatever the number of watchers.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from flowctl.errors import ControlPlaneUnreachableError
from flowctl.fleet import Fleet
from flowctl.journal.events import (
    CheckpointCommitted,
    ComponentLettersRedriven,
    ComponentProbed,
    ComponentRedriveRequested,
    ComponentStatusChanged,
)
from flowctl.journal.log import Entry
from flowctl.projection import Projection, refusal
from flowctl_registry.decide import admit
from flowctl_registry.links import Topology, topology_of
from flowctl_registry.requests import Caller

IRRELEVANT: Final = (
    ComponentStatusChanged,
    ComponentProbed,
    CheckpointCommitted,
    ComponentRedriveRequested,
    ComponentLettersRedriven,
)
"""Entries of a component that change nobody's neighbours."""


class _Feed:
    """A watched component: its topology, the sequence that it was computed at, and whom to wake."""

    def __init__(self, topology: Topology, seq: int) -> None:
        self.topology = topology
        self.seq = seq
        self.watchers: dict[asyncio.Event, Caller] = {}


class Watches:
    """All watchers of this registry."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self._feeds: dict[str, dict[str, _Feed]] = {}
        self._stale: set[str] = set()
        self._closed = False
        self.computed = 0
        projection.listen(self._on_entry)

    @property
    def watchers(self) -> int:
        """How many watch."""
        return sum(len(feed.watchers) for feeds in self._feeds.values() for feed in feeds.values())

    async def watch(self, caller: Caller) -> AsyncGenerator[tuple[int, Topology]]:
        """The journal sequence and the topology, now and whenever it differs; ends when the caller has deregistered or exited.

        Raises:
            RefusedError: the caller's incarnation is superseded, or was never registered.
            ControlPlaneUnreachableError: this registry stops serving.
        """
        if (rejected := admit(self._projection.fleet, caller)) is not None:
            raise refusal(rejected)
        feed, wake = self._join(caller)
        told: Topology | None = None
        try:
            while True:
                if self._closed:
                    raise ControlPlaneUnreachableError("this registry is stopping: watch again")
                rejected = admit(self._projection.fleet, caller)
                if rejected is not None and rejected.refusal == "superseded":
                    raise refusal(rejected)
                if rejected is not None:
                    return
                if feed.topology != told:
                    told = feed.topology
                    yield feed.seq, told
                else:
                    wake.clear()
                    await wake.wait()
        finally:
            self._leave(caller, feed, wake)

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        for feeds in self._feeds.values():
            for feed in feeds.values():
                for wake in feed.watchers:
                    wake.set()

    def _join(self, caller: Caller) -> tuple[_Feed, asyncio.Event]:
        instance = caller.instance
        feeds = self._feeds.setdefault(instance.pipeline, {})
        feed = feeds.get(instance.component)
        if feed is None:
            feed = feeds[instance.component] = self._feed(self._projection.fleet, instance.pipeline, instance.component)
        wake = asyncio.Event()
        feed.watchers[wake] = caller
        return feed, wake

    def _feed(self, fleet: Fleet, pipeline: str, component: str) -> _Feed:
        self.computed += 1
        return _Feed(topology_of(fleet, pipeline, component), fleet.seq)

    def _leave(self, caller: Caller, feed: _Feed, wake: asyncio.Event) -> None:
        del feed.watchers[wake]
        if not feed.watchers:
            feeds = self._feeds[caller.instance.pipeline]
            del feeds[caller.instance.component]
            if not feeds:
                del self._feeds[caller.instance.pipeline]

    def _on_entry(self, entry: Entry) -> None:
        aggregate = entry.aggregate
        if aggregate is None or aggregate.kind in ("host", "seal") or isinstance(entry.event, IRRELEVANT):
            return
        pipeline = aggregate.key[0]
        if pipeline not in self._feeds:
            return
        if not self._stale:
            asyncio.get_running_loop().call_soon(self._refresh)
        self._stale.add(pipeline)

    def _refresh(self) -> None:
        fleet = self._projection.fleet
        for pipeline in self._stale:
            for component, feed in self._feeds.get(pipeline, {}).items():
                self.computed += 1
                topology = topology_of(fleet, pipeline, component)
                changed = topology != feed.topology
                if changed:
                    feed.topology, feed.seq = topology, fleet.seq
                for wake, caller in feed.watchers.items():
                    if changed or admit(fleet, caller) is not None:
                        wake.set()
        self._stale.clear()
