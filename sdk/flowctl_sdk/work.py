"""The working loop of a processor and of a sink: take what has arrived, call the author's code, pass on, let go."""

import time
from collections.abc import Sequence
from typing import cast

from flowctl_sdk.acks import Held
from flowctl_sdk.author import FunctionSink, Processor, Sink
from flowctl_sdk.batching import GATHER_EVENTS, GATHER_NS
from flowctl_sdk.calls import BatchCall, BatchFailedError, EachCall, Failures
from flowctl_sdk.columns import Columns
from flowctl_sdk.derive import derive, derive_batch
from flowctl_sdk.event import Event
from flowctl_sdk.faults import EventFailedError
from flowctl_sdk.inbox import Arrival, Inbox
from flowctl_sdk.passing import pass_on
from flowctl_sdk.routing import Router
from flowctl_sdk.signals import Bell

SINK_EVENTS = 4 * GATHER_EVENTS


class Transform:
    """An author's processor as a function of columns."""

    def __init__(self, processor: Processor, component: str, failures: Failures) -> None:
        self._suffix = f"/{component}"
        self._failures = failures
        self.put_aside = 0
        self._batch = processor.batch
        call = BatchCall if processor.batch else EachCall
        self._call: BatchCall | EachCall = call(processor.process, failures, blocking=processor.blocking)

    async def __call__(self, columns: Columns) -> tuple[Columns | None, int]:
        """The outputs, and the number of inputs that gave none. ``put_aside`` is how many became dead letters instead.

        Raises:
            EventFailedError: if the author's code raised for good, or returned what no event can be made of.
        """
        before = self._failures.put_aside_total
        outputs, without = await self._outputs(columns)
        self.put_aside = self._failures.put_aside_total - before
        return outputs, without - self.put_aside

    async def _outputs(self, columns: Columns) -> tuple[Columns | None, int]:
        events = columns.events()
        try:
            results = await self._call(events)
        except BatchFailedError:
            return await self._one_by_one(columns)
        try:
            return self._derived(columns, events, results)
        except (TypeError, ValueError) as error:
            what = f"process() {_what(error)}"
            if not self._failures.puts_aside:
                place = self._culprit(columns, cast("Sequence[object]", results))
                raise EventFailedError(f"event {events[place].id}: {what}") from error
            if not self._batch:
                return await self._each_derived(columns, events, cast("Sequence[object]", results))
            if len(events) > 1:
                return await self._one_by_one(columns)
            await self._failures.put_aside(events[0], what, 1)
            return None, 1

    async def _one_by_one(self, columns: Columns) -> tuple[Columns | None, int]:
        """Call again with each event alone, to find those that fail."""
        parts: list[Columns] = []
        without = 0
        for event in range(len(columns)):
            outputs, none = await self._outputs(columns.select([event]))
            without += none
            if outputs is not None:
                parts.append(outputs)
        return (Columns.merged(parts) if parts else None), without

    async def _each_derived(self, columns: Columns, events: list[Event], results: Sequence[object]) -> tuple[Columns | None, int]:
        """The outputs of those events whose results can be used; the others are put aside, and none is called again."""
        parts: list[Columns] = []
        without = 0
        for place, (event, result) in enumerate(zip(events, results, strict=True)):
            try:
                outputs, none = derive(columns.select([place]), [result], self._suffix)
            except (TypeError, ValueError) as error:
                await self._failures.put_aside(event, f"process() {_what(error)}", 1)
                outputs, none = None, 1
            without += none
            if outputs is not None:
                parts.append(outputs)
        return (Columns.merged(parts) if parts else None), without

    def _derived(self, columns: Columns, events: list[Event], results: object) -> tuple[Columns | None, int]:
        if self._batch:
            listed = [] if results is None else list(cast("Sequence[object]", results))
            return derive_batch(columns, events, listed, self._suffix)
        return derive(columns, cast("Sequence[object]", results), self._suffix)

    def _culprit(self, columns: Columns, results: Sequence[object]) -> int:
        """The first event whose result cannot be used; the first of all if none alone is at fault."""
        if self._batch:
            return 0
        for event, result in enumerate(results):
            try:
                derive(columns.select([event]), [result], self._suffix)
            except (TypeError, ValueError):
                return event
        return 0


def _what(error: Exception) -> str:
    text = str(error)
    return text if text.startswith("returned") else f"returned something that is no event: {text}"


class ProcessorWork:
    """Runs a processor. ``filtered_total`` counts inputs without output, ``processed_total`` those with any."""

    def __init__(self, transform: Transform, inbox: Inbox, router: Router, room: Bell) -> None:
        self._transform = transform
        self._inbox = inbox
        self._router = router
        self._room = room
        self.filtered_total = 0
        self.dead_lettered_total = 0
        self.processed_total = 0

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            EventFailedError: see ``Transform``.
            EventTooLargeError: if an output does not fit into a message.
        """
        await self._inbox.serve(self._handle)

    async def _handle(self, arrival: Arrival) -> None:
        outputs, filtered = await self._transform(arrival.columns)
        self._count(arrival, filtered)
        if outputs is None:
            arrival.pending.release()
            return
        pendings = [arrival.pending]
        if len(outputs) < GATHER_EVENTS and len(self._inbox):
            outputs = await self._gather(outputs, pendings)
        await pass_on(self._router, self._room, outputs, pendings)
        for pending in pendings:
            pending.release()

    async def _gather(self, first: Columns, pendings: list[Held]) -> Columns:
        """Add the outputs of what else has arrived, for at most a millisecond, so that small batches become larger ones."""
        parts, count = [first], len(first)
        deadline = time.monotonic_ns() + GATHER_NS
        while count < GATHER_EVENTS and time.monotonic_ns() < deadline:
            arrival = self._inbox.get_nowait()
            if arrival is None:
                break
            outputs, filtered = await self._transform(arrival.columns)
            self._count(arrival, filtered)
            pendings.append(arrival.pending)
            if outputs is not None:
                parts.append(outputs)
                count += len(outputs)
        return Columns.merged(parts)

    def _count(self, arrival: Arrival, filtered: int) -> None:
        """The outcome of a batch, all at once, so that the counters add up whenever they are looked at."""
        count = len(arrival.columns)
        self.filtered_total += filtered
        self.dead_lettered_total += self._transform.put_aside
        self.processed_total += count - filtered - self._transform.put_aside
        self._inbox.finish(count)


class SinkWork:
    """Runs a sink: everything that has arrived, up to a limit, is one write. ``processed_total`` counts what was written."""

    filtered_total = 0

    def __init__(self, sink: Sink, inbox: Inbox, failures: Failures) -> None:
        if isinstance(sink, FunctionSink):
            self._call: BatchCall | EachCall = (
                BatchCall(sink.function, failures, blocking=sink.blocking)
                if sink.batch
                else EachCall(sink.function, failures, blocking=sink.blocking, stores=True)
            )
        else:
            self._call = BatchCall(sink.write, failures, blocking=sink.blocking)
        self._inbox = inbox
        self._failures = failures
        self.dead_lettered_total = 0
        self.processed_total = 0

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            EventFailedError: if the author's code raised for good.
        """
        await self._inbox.serve(self._handle)

    async def _handle(self, arrival: Arrival) -> None:
        arrivals = [arrival]
        events = arrival.columns.events()
        while len(events) < SINK_EVENTS:
            more = self._inbox.get_nowait()
            if more is None:
                break
            arrivals.append(more)
            events.extend(more.columns.events())
        count = len(events)
        before = self._failures.put_aside_total
        await self.write(events)
        put_aside = self._failures.put_aside_total - before
        self.dead_lettered_total += put_aside
        self.processed_total += count - put_aside
        self._inbox.finish(count)
        for done in arrivals:
            done.pending.release()

    async def write(self, events: list[Event]) -> None:
        """Have the author's code store these events.

        Raises:
            EventFailedError: if it raised for good.
        """
        try:
            await self._call(events)
        except BatchFailedError:
            for event in events:
                await self._call([event])
