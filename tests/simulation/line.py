"""One process' line to the journal: the in-memory twin behind a network that delays, loses, repeats, conflicts and goes stale.

Requests and answers travel in the world's time: the store may have written what a process that is dead, paused or cut off never
hears of, and may write later what its sender has given up on.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from flowctl.clock import JournalClock
from flowctl.errors import ConflictError, FlowctlError, JournalCorruptError, JournalUnavailableError
from flowctl.ids import InstanceId
from flowctl.journal import subjects
from flowctl.journal.events import Aggregate
from flowctl.journal.heartbeats import Beat, Heartbeat, HostBeat, StoredBeat
from flowctl.journal.log import Draft, Entry, Head, Record, Subjects
from flowctl.journal.memory import MemoryHeartbeats, MemoryStore
from simulation.loop import Loop, LoopClock, Process

T = TypeVar("T")

MAX_STALE_NS = 1_000_000_000
TIMEOUT_S = 1.5
GONE = "the journal does not answer"


class Weather:
    """How likely what is: each a probability for one request. All zero is peace."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.slow = 0.0
        self.lost_answer = 0.0
        self.late_write = 0.0
        self.conflict = 0.0
        self.stale = 0.0
        self.twice = 0.0
        self.gap = 0.0

    def peace(self) -> None:
        """Nothing goes wrong any more."""
        self.slow = self.lost_answer = self.late_write = self.conflict = self.stale = self.twice = self.gap = 0.0

    def happens(self, probability: float) -> bool:
        """Whether it happens this time."""
        return probability > 0 and self.chance.random() < probability

    def travel_s(self) -> float:
        """How long a message is on its way."""
        usual = 0.0002 + 0.002 * self.chance.random()
        return usual + 1.2 * self.chance.random() if self.happens(self.slow) else usual


class Tape(MemoryHeartbeats):
    """The twin's heartbeats, readable from any place."""

    @property
    def stored(self) -> list[StoredBeat]:
        """All of them."""
        return self._beats


class Disk:
    """What is stored, and everybody who is connected. ``written`` is told of entries, in order, as they are written."""

    def __init__(self, loop: Loop, weather: Weather, written: Callable[[list[Entry]], None]) -> None:
        self.loop = loop
        self.weather = weather
        self.ids = 0
        self.store = MemoryStore(LoopClock(loop), new_id=self._id)
        self.tape = Tape(self.store)
        self.written = written
        self.entries: list[Entry] = []
        self.lines: list[Line] = []
        self.outages: list[tuple[int, int]] = []  # (begin, end) in ns; the last one's end is 0 while it lasts
        self.hosts_heard_ns: dict[str, deque[int]] = {}
        self.heard_ns: dict[tuple[InstanceId, int], deque[int]] = {}
        self.heads_matter = True

    def _id(self) -> str:
        self.ids += 1
        return f"{self.ids:032x}"

    @property
    def available(self) -> bool:
        """Whether the server is there."""
        return self.store.available

    def go_away(self) -> None:
        """The server stops to answer."""
        if self.store.available:
            self.store.available = False
            self.outages.append((self.loop.now_ns, 0))
            for line in self.lines:
                line.break_up()

    def come_back(self) -> None:
        """It answers again."""
        if not self.store.available:
            self.store.available = True
            self.outages[-1] = (self.outages[-1][0], self.loop.now_ns)
            for line in self.lines:
                line.hear_of_everything()

    def was_away(self, since_ns: int) -> bool:
        """Whether the server was away at any time since then."""
        return bool(self.outages) and (not self.outages[-1][1] or self.outages[-1][1] >= since_ns)

    def append(
        self, drafts: Sequence[Draft], actor: str, expect: Mapping[Aggregate, Head] | None, correlation: str
    ) -> list[Entry]:
        """Write, now."""
        if not self.heads_matter:
            expect = None
        entries = at_once(self.store.journal.append(drafts, actor=actor, expect=expect, correlation=correlation))
        self.entries += entries
        self.written(entries)
        for line in self.lines:
            line.tell_of_entries(entries[-1].seq)
        return entries

    def publish(self, beats: Sequence[Beat]) -> None:
        """Store heartbeats, now."""
        at_once(self.tape.publish(beats))
        count = len(self.tape.stored)
        for beat in beats:
            if isinstance(beat, HostBeat):
                self.hosts_heard_ns.setdefault(beat.host, deque(maxlen=8)).append(self.loop.now_ns)
            elif isinstance(beat, Heartbeat):
                heard = self.heard_ns.setdefault((beat.instance, beat.incarnation), deque(maxlen=8))
                heard.append(self.loop.now_ns)
        for line in self.lines:
            line.tell_of_beats(count)

    def last_sequence(self) -> int:
        """The sequence of the last entry; of a moment ago, if the one who answers is no longer the leader."""
        self.store.check()
        last = len(self.entries)
        if self.weather.happens(self.weather.stale):
            since_ns = self.loop.now_ns - int(MAX_STALE_NS * self.weather.chance.random())
            while last and self.entries[last - 1].time_ns > since_ns:
                last -= 1
        return last


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing but its turn."""
    while True:
        try:
            work.send(None)
        except StopIteration as stop:
            return stop.value


class Line:
    """A connection. Keeps the ``Store`` protocol. ``cut`` while the process is partitioned from the server."""

    def __init__(self, disk: Disk, process: Process, clock: LoopClock) -> None:
        self.disk = disk
        self.process = process
        self.cut = False
        self.seen_entries = 0
        self.seen_beats = 0
        self.breaks = 0
        self.journal = LineJournal(self, JournalClock(clock))
        self.heartbeats = LineHeartbeats(self)
        self.logs = disk.store.logs
        self.dead_letters = disk.store.dead_letters
        self.snapshots = disk.store.snapshots
        self.subscriptions = disk.store.subscriptions
        self.notices = disk.store.notices
        self._entry_news: list[asyncio.Future[None]] = []
        self._beat_news: list[asyncio.Future[None]] = []
        disk.lines.append(self)
        self.hear_of_everything()

    @property
    def connected(self) -> bool:
        """See ``Store``."""
        return self.reached

    @property
    def reached(self) -> bool:
        """Whether messages pass."""
        return not self.cut and self.disk.available

    async def close(self) -> None:
        """See ``Store``."""

    async def ask(self, serve: Callable[[], T], *, writes: bool = False) -> T:
        """Send a request, and return what the server says.

        Raises:
            JournalUnavailableError: no answer came in time; a write may be written all the same, even later.
        """
        loop, weather = self.disk.loop, self.disk.weather
        answer: asyncio.Future[T] = loop.create_future()
        if writes and weather.happens(weather.late_write):
            loop.at(weather.travel_s() + TIMEOUT_S, _fail, answer, JournalUnavailableError(GONE))
            loop.at(TIMEOUT_S + 3 * weather.chance.random(), self._serve, serve, answer, writes)
        else:
            loop.at(weather.travel_s(), self._serve, serve, answer, writes)
        return await answer

    def _serve(self, serve: Callable[[], T], answer: "asyncio.Future[T]", writes: bool) -> None:
        loop, weather = self.disk.loop, self.disk.weather
        if not self.reached:
            loop.at(TIMEOUT_S * weather.chance.random(), _fail, answer, JournalUnavailableError(GONE))
            return
        try:
            if writes and weather.happens(weather.conflict):
                raise ConflictError("the server takes nothing just now")
            result = serve()
        except FlowctlError as error:
            loop.at(weather.travel_s(), _fail, answer, error)
            return
        if weather.happens(weather.lost_answer):
            loop.at(TIMEOUT_S, _fail, answer, JournalUnavailableError("the answer was lost"))
        else:
            loop.at(weather.travel_s(), _succeed, answer, result)

    # --- news ----------------------------------------------------------------------------------------------------------------

    def hear_of_everything(self) -> None:
        """After an absence, or at the beginning."""
        self.tell_of_entries(len(self.disk.entries))
        self.tell_of_beats(len(self.disk.tape.stored))

    def tell_of_entries(self, upto: int) -> None:
        """There are entries up to this one."""
        if self.reached and self.process.state != "dead":
            self.disk.loop.at(self.disk.weather.travel_s(), self._entries_came, upto)

    def tell_of_beats(self, upto: int) -> None:
        """There are so many heartbeats."""
        if self._beat_news and self.reached:
            self.disk.loop.at(self.disk.weather.travel_s(), self._beats_came, upto)

    def _entries_came(self, upto: int) -> None:
        if self.reached and upto > self.seen_entries:
            self.seen_entries = upto
            _wake(self._entry_news)

    def _beats_came(self, upto: int) -> None:
        if self.reached and upto > self.seen_beats:
            self.seen_beats = upto
            _wake(self._beat_news)

    def break_up(self) -> None:
        """Whoever follows learns in a while that nothing comes any more."""
        self.disk.loop.at(TIMEOUT_S * self.disk.weather.chance.random(), self._broken)

    def _broken(self) -> None:
        self.breaks += 1
        _wake(self._entry_news)
        _wake(self._beat_news)

    async def entry_news(self) -> None:
        """Wait for entries, or for the line to break."""
        await _news(self.disk.loop, self._entry_news)

    async def beat_news(self) -> None:
        """Wait for heartbeats, or for the line to break."""
        self.hear_of_everything_missed()
        await _news(self.disk.loop, self._beat_news)

    def hear_of_everything_missed(self) -> None:
        """Heartbeats that came while nobody waited are told of, too."""
        if len(self.disk.tape.stored) > self.seen_beats and self.reached:
            self.disk.loop.at(self.disk.weather.travel_s(), self._beats_came, len(self.disk.tape.stored))


async def _news(loop: Loop, waiting: "list[asyncio.Future[None]]") -> None:
    future: asyncio.Future[None] = loop.create_future()
    waiting.append(future)
    await future


def _wake(waiting: "list[asyncio.Future[None]]") -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
    waiting.clear()


def _succeed(answer: "asyncio.Future[Any]", result: object) -> None:
    if not answer.done():
        answer.set_result(result)


def _fail(answer: "asyncio.Future[Any]", error: FlowctlError) -> None:
    if not answer.done():
        answer.set_exception(error)


class LineJournal:
    """See ``Journal``."""

    def __init__(self, line: Line, clock: JournalClock) -> None:
        self._line = line
        self._disk = line.disk
        self._clock = clock

    async def append(
        self,
        drafts: Sequence[Draft],
        *,
        actor: str,
        expect: Mapping[Aggregate, Head] | None = None,
        correlation: str = "",
    ) -> list[Entry]:
        """See ``Journal``."""
        known = dict(expect) if expect is not None else None
        entries = await self._line.ask(lambda: self._disk.append(drafts, actor, known, correlation), writes=True)
        self._clock.observe(entries[-1].time_ns)
        return entries

    async def head(self, aggregate: Aggregate) -> Head:
        """See ``Journal``."""
        return await self._line.ask(lambda: at_once(self._disk.store.journal.head(aggregate)))

    async def last_sequence(self) -> int:
        """See ``Journal``."""
        return await self._line.ask(self._disk.last_sequence)

    async def entry(self, seq: int) -> Entry:
        """See ``Journal``."""
        return await self._line.ask(lambda: at_once(self._disk.store.journal.entry(seq)))

    async def count(self, *, after: int = 0, subject: Subjects = None) -> int:
        """See ``Journal``."""
        return await self._line.ask(lambda: at_once(self._disk.store.journal.count(after=after, subject=subject)))

    async def read(self, *, after: int = 0, upto: int | None = None, subject: Subjects = None) -> AsyncIterator[Entry]:
        """See ``Journal``."""
        last = await self._line.ask(self._disk.last_sequence)
        async for entry in self._disk.store.journal.read(after=after, upto=last if upto is None else upto, subject=subject):
            yield entry

    async def records(self, *, after: int = 0, upto: int | None = None) -> AsyncIterator[Record]:
        """See ``Journal``."""
        last = await self._line.ask(self._disk.last_sequence)
        async for record in self._disk.store.journal.records(after=after, upto=last if upto is None else upto):
            yield record

    async def restore(self, records: Sequence[Record], *, upto: int) -> None:
        """See ``Journal``."""
        await self._line.ask(lambda: at_once(self._disk.store.journal.restore(records, upto=upto)), writes=True)

    async def follow(self, *, after: int = 0, subject: Subjects = None) -> AsyncIterator[Entry]:
        """See ``Journal``."""
        assert subject is None, "services follow everything"
        line, entries = self._line, self._disk.entries
        breaks = line.breaks
        last = await line.ask(lambda: len(entries))
        if after > last:
            raise JournalCorruptError(f"the journal ends at {last}, before {after}")
        while True:
            while after < line.seen_entries:
                entry = entries[after]
                after += 1
                self._clock.observe(entry.time_ns)
                yield entry
            if line.breaks != breaks:
                raise JournalUnavailableError(GONE)
            await line.entry_news()

    def now_ns(self) -> int:
        """See ``Journal``."""
        return self._clock.now_ns()


class LineHeartbeats:
    """See ``Heartbeats``."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._disk = line.disk

    async def publish(self, beats: Sequence[Beat], *, timeout_s: float | None = None) -> None:
        """See ``Heartbeats``. What is tried again is stored twice; how long that takes is the weather's."""
        del timeout_s
        disk = self._disk

        def store() -> None:
            disk.publish(beats)
            if disk.weather.happens(disk.weather.twice):
                disk.publish(beats)

        await self._line.ask(store)

    async def read(self, *, after: int = 0, since_ns: int = 0, subject: Subjects = None) -> AsyncIterator[StoredBeat]:
        """See ``Heartbeats``."""
        await self._line.ask(self._disk.store.check)
        async for stored in self._disk.tape.read(after=after, since_ns=since_ns, subject=subject):
            yield stored

    async def follow(self) -> AsyncIterator[StoredBeat]:
        """See ``Heartbeats``."""
        line, stored, weather = self._line, self._disk.tape.stored, self._disk.weather
        breaks = line.breaks
        at = await line.ask(lambda: len(stored))
        last = {subjects.beat_subject(each.beat): each for each in stored[:at]}
        for each in sorted(last.values(), key=lambda each: each.seq):
            yield each
        while True:
            while at < line.seen_beats:
                if weather.happens(weather.gap):
                    at = line.seen_beats - 1
                at += 1
                yield stored[at - 1]
            if line.breaks != breaks:
                raise JournalUnavailableError(GONE)
            await line.beat_news()
