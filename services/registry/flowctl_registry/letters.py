"""Dead letters: put aside, sent again, settled. Read, decide, append; the letters themselves lie in their own store."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import Final

from flowctl import api
from flowctl.errors import ControlPlaneUnreachableError, NotFoundError, RefusedError, UserError
from flowctl.ids import InstanceId, check_id
from flowctl.instance import Instance
from flowctl.journal.events import ComponentLettersRedriven, ComponentRedriveRequested
from flowctl.journal.letters import DeadLetter, DeadLetters, StoredLetter
from flowctl.journal.log import Entry
from flowctl.projection import Projection, refusal
from flowctl_registry import redrives
from flowctl_registry.decide import admit
from flowctl_registry.handlers import Handlers
from flowctl_registry.requests import Caller, Outcome, PutLetter, RedriveWish, Settlement

MAX_NAMED: Final = 1_000
"""How many letters one command may name."""


class Letters:
    """The requests around dead letters. ``stored`` counts those that this registry has put aside.

    All raise ``RefusedError`` (``NotFoundError`` when to register first) and ``JournalUnavailableError``.
    """

    def __init__(self, projection: Projection, handlers: Handlers, letters: DeadLetters) -> None:
        self._projection = projection
        self._handlers = handlers
        self._letters = letters
        self._watchers: dict[InstanceId, list[_Watcher]] = {}
        self._closed = False
        self.stored = 0
        projection.listen(self._on_entry)

    async def put(self, request: PutLetter) -> int:
        """Put an event aside; returns the letter's number.

        Raises:
            DeadLettersFullError, LetterTooLargeError: it cannot be kept.
        """
        caller = request.caller
        await self._handlers.admit(caller)
        fleet = self._projection.fleet
        registration = fleet.instances[caller.instance].registration
        if registration is not None and registration.event.kind == "source":
            raise UserError(f"{caller.instance} is a source: it has no input to put aside")
        pipeline = fleet.pipelines.get(caller.instance.pipeline)
        letter = DeadLetter(
            instance=caller.instance,
            incarnation=caller.incarnation,
            run=pipeline.run if pipeline is not None else 1,
            origin=request.origin,
            position=request.position,
            path=request.path,
            type=request.type,
            time_ns=request.time_ns,
            metadata=request.metadata,
            error=request.error,
            attempts=request.attempts,
        )
        number = await self._letters.put(letter, request.payload)
        self.stored += 1
        return number

    async def settle(self, settlement: Settlement) -> None:
        """Remember what came of redriven letters."""
        await self._handlers.decide(lambda fleet: redrives.settle(fleet, settlement), settlement.caller.instance.pipeline)

    async def redrive(self, request: api.RedriveLetters) -> api.Redriving:
        """Have letters processed once more.

        Raises:
            UserError: more letters are named than may be.
        """
        pipeline = check_id(request.pipeline, "pipeline")
        component = check_id(request.component, "component") if request.component is not None else None
        if len(request.letters) > MAX_NAMED:
            raise UserError(f"{len(request.letters)} letters are named, at most {MAX_NAMED} can be")
        wish = RedriveWish(pipeline=pipeline, component=component, numbers=request.letters)
        envelopes = await self._letters.envelopes(pipeline, component)
        entries = await self._projection.decide(
            lambda fleet: redrives.request(fleet, wish, envelopes),
            actor=request.actor,
            correlation=request.correlation,
            sync=True,
        )
        fleet = self._projection.fleet
        instances = sorted({entry.aggregate.instance for entry in entries if entry.aggregate is not None})
        numbers = [n for entry in entries if isinstance(entry.event, ComponentRedriveRequested) for n in entry.event.letters]
        return api.Redriving(
            seq=entries[-1].seq if entries else fleet.seq,
            letters=numbers,
            instances=[str(instance) for instance in instances],
            absent=[str(instance) for instance in instances if not _runs(fleet.instances.get(instance))],
        )

    async def watch(self, caller: Caller) -> AsyncGenerator[StoredLetter | None]:
        """The letters that the caller is to process once more, oldest first, now and whenever more are wanted.

        None says that nothing more is wanted for now. Ends when the caller has deregistered or exited.

        Raises:
            ControlPlaneUnreachableError: this registry stops serving.
        """
        await self._handlers.admit(caller)
        watcher = _Watcher()
        self._watchers.setdefault(caller.instance, []).append(watcher)
        told = False
        due: deque[int] = deque()
        try:
            while True:
                if self._closed:
                    raise ControlPlaneUnreachableError("this registry is stopping: watch again")
                rejected = admit(self._projection.fleet, caller)
                if rejected is not None and rejected.refusal == "superseded":
                    raise refusal(rejected)
                if rejected is not None:
                    return
                if not due:
                    due.extend(sorted(self._projection.fleet.instances[caller.instance].redriving - watcher.sent))
                if due:
                    told = False
                    number = due.popleft()
                    watcher.sent.add(number)
                    letter = await self._fetch(caller, number)
                    if letter is not None:
                        yield letter
                elif not told:
                    told = True
                    yield None
                else:
                    watcher.wake.clear()
                    await watcher.wake.wait()
        finally:
            watchers = self._watchers[caller.instance]
            watchers.remove(watcher)
            if not watchers:
                del self._watchers[caller.instance]

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.wake.set()

    async def _fetch(self, caller: Caller, number: int) -> StoredLetter | None:
        """The letter; None if it was purged, which settles it."""
        try:
            return await self._letters.get(number)
        except NotFoundError:
            gone = Outcome(number=number, delivered=False, error="the letter is not there any more")
            try:
                await self.settle(Settlement(caller=caller, outcomes=[gone]))
            except RefusedError:
                return None  # the caller has ended meanwhile, and the next one settles it
            return None

    def _on_entry(self, entry: Entry) -> None:
        if entry.aggregate is None or entry.aggregate.kind != "component":
            return
        for watcher in self._watchers.get(entry.aggregate.instance, ()):
            if isinstance(entry.event, ComponentLettersRedriven):
                watcher.sent.difference_update(entry.event.letters)
            watcher.wake.set()


class _Watcher:
    """One watch: the letters that it was sent and has not settled, and how to wake it."""

    def __init__(self) -> None:
        self.sent: set[int] = set()
        self.wake = asyncio.Event()


def _runs(instance: Instance | None) -> bool:
    return instance is not None and instance.run == "running"
