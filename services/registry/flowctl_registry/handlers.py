"""What the registry does for a component, in plain structs: every wire dialect's servicer calls these.

Read, decide, append. A refusal is decided anew on the journal as it is now, since a program may be faster than the fold of the
entry that started it.
"""

import contextlib
from collections.abc import AsyncGenerator, Callable

from flowctl import api
from flowctl.decision import Decision
from flowctl.errors import NotFoundError, RefusedError
from flowctl.fleet import Checkpoint, Fleet
from flowctl.ids import InstanceId
from flowctl.journal.heartbeats import Heartbeat
from flowctl.projection import Projection, refusal
from flowctl_registry import decide
from flowctl_registry.attention import Attention
from flowctl_registry.beats import Beats
from flowctl_registry.links import Topology
from flowctl_registry.live import Live
from flowctl_registry.requests import Caller, Commit, Deregister, Filter, Register
from flowctl_registry.views import ComponentView, component_view, matching
from flowctl_registry.watches import Watches


class Handlers:
    """The requests of components.

    ``heartbeat_interval_s`` is what components are told while nobody looks; ``actor`` signs what is journalled. All raise
    ``RefusedError`` (``NotFoundError`` when to register first) and ``JournalUnavailableError``.
    """

    def __init__(
        self, projection: Projection, *, beats: Beats, live: Live, watches: Watches, actor: str, heartbeat_interval_s: float
    ) -> None:
        self._heartbeat_interval_s = heartbeat_interval_s
        self._attention = Attention()
        self._projection = projection
        self._beats = beats
        self._live = live
        self._watches = watches
        self._actor = actor

    async def register(self, request: Register) -> Checkpoint | None:
        """Announce an instance; returns its last checkpoint."""
        await self.decide(lambda fleet: decide.register(fleet, request), request.caller.instance.pipeline)
        return self._projection.fleet.instances[request.caller.instance].checkpoint

    def heartbeat_interval_ms(self, pipeline: str) -> int:
        """How long an instance of this pipeline is to wait before its next heartbeat, in milliseconds."""
        count = self._live.count
        interval_s = self._attention.interval_s(pipeline, self._heartbeat_interval_s, now_s=self._now_s(), instances=count)
        return max(1, round(interval_s * 1_000))

    async def heartbeat(self, beat: Heartbeat) -> None:
        """Store a sign of life. Nothing is decided for it but who may speak."""
        await self.admit(Caller(beat.instance, beat.incarnation))
        await self._beats.submit(beat)

    async def deregister(self, request: Deregister) -> None:
        """End an instance on purpose."""
        await self.decide(lambda fleet: decide.deregister(fleet, request), request.caller.instance.pipeline)

    async def commit_checkpoint(self, request: Commit) -> None:
        """Remember how far a source has come."""
        await self.decide(lambda fleet: decide.commit_checkpoint(fleet, request), request.caller.instance.pipeline)

    async def watch(self, caller: Caller) -> AsyncGenerator[tuple[int, Topology]]:
        """The caller's neighbours, see ``Watches.watch``."""
        await self.admit(caller)
        async with contextlib.aclosing(self._watches.watch(caller)) as changes:
            async for change in changes:
                yield change

    def components(self, wanted: Filter) -> list[ComponentView]:
        """The instances that match."""
        return [self._view(instance.id) for instance in matching(self._projection.fleet, wanted)]

    def component(self, instance_id: InstanceId) -> ComponentView:
        """One instance.

        Raises:
            NotFoundError: the journal has not heard of it.
        """
        if instance_id not in self._projection.fleet.instances:
            raise NotFoundError(f"there is no {instance_id}")
        return self._view(instance_id)

    async def live(self, request: api.LiveRequest) -> api.LiveAnswer:
        """The last heartbeats."""
        self._attention.paid(request.pipeline, self._now_s())
        now_ns = self._projection.journal.now_ns()
        return api.LiveAnswer(instances=list(self._live.views(self._projection.fleet, request.pipeline, now_ns)))

    def _now_s(self) -> float:
        return self._projection.journal.now_ns() / 1e9

    def _view(self, instance_id: InstanceId) -> ComponentView:
        projection = self._projection
        since_ns = projection.unavailable_since_ns
        return component_view(
            projection.fleet,
            projection.fleet.instances[instance_id],
            last_heartbeat_ns=self._live.last_heartbeat_ns(instance_id),
            unknown_since_s=None if since_ns is None else max(0.0, (projection.journal.now_ns() - since_ns) / 1e9),
        )

    async def decide(self, decision: Callable[[Fleet], Decision], pipeline: str) -> None:
        """Decide and append; a refusal only after all of the journal was read."""
        projection = self._projection
        try:
            await projection.decide(decision, actor=self._actor, correlation=projection.fleet.correlation_of(pipeline))
        except RefusedError:
            await self._catch_up()
            await projection.decide(decision, actor=self._actor, correlation=projection.fleet.correlation_of(pipeline))

    async def admit(self, caller: Caller) -> None:
        """Return if the caller may speak for its instance."""
        if decide.admit(self._projection.fleet, caller) is None:
            return
        await self._catch_up()
        if (rejected := decide.admit(self._projection.fleet, caller)) is not None:
            raise refusal(rejected)

    async def _catch_up(self) -> None:
        await self._projection.caught_up(await self._projection.journal.last_sequence())
