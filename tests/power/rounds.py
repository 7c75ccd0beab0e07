"""One round: write through the real journal, cut the power in the middle, restart, and look for what was acknowledged."""

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from flowctl.errors import FlowctlError, JournalCorruptError, JournalMisconfiguredError
from flowctl.ids import InstanceId
from flowctl.journal.embedded import EmbeddedNats
from flowctl.journal.events import Aggregate, CheckpointCommitted
from flowctl.journal.jetstream import JetStreamStore
from flowctl.journal.letters import DeadLetter
from flowctl.journal.log import Draft
from power.disk import Disk
from support.journals import check_chains

WRITERS: Final = 8
MAX_DRAFTS: Final = 20
MAX_WRITING_S: Final = 1.2
PIPELINE: Final = "power"


class CutNats(EmbeddedNats):
    """A server that can be ended on the spot."""

    def kill(self) -> None:
        """SIGKILL; returns when it is gone, and no task of this program has run meanwhile."""
        assert self._child is not None
        self._child.kill()
        self._child.wait(10)


class LazyNats(CutNats):
    """The same server with nats-server's own default: an fsync every two minutes. The positive control."""

    def _config(self, state: Any) -> bytes:
        config = msgspec.json.decode(super()._config(state))
        del config["jetstream"]["sync_interval"]
        return msgspec.json.encode(config)


class Ledger(msgspec.Struct):
    """What was acknowledged: entry hashes by sequence, dead letters by number."""

    entries: dict[int, str] = msgspec.field(default_factory=dict[int, str])
    letters: dict[int, str] = msgspec.field(default_factory=dict[int, str])


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one round. ``lost`` counts what was acknowledged, in this round or one before on this disk, and is not there.

    ``noticed`` is whether the journal's client refuses a server that lost entries which it has seen.
    """

    seed: int
    round: int
    lazy: bool
    writing_s: float
    acknowledged: int
    letters: int
    unacknowledged_found: int
    lost: int
    lost_letters: int
    first_lost: int = 0
    noticed: bool = False
    problem: str = ""

    @property
    def kept(self) -> bool:
        """Whether all is there that must be, in unbroken chains."""
        return not (self.lost or self.lost_letters or self.problem)


async def play(disk: Disk, ledger: Ledger, *, seed: int, number: int, lazy: bool = False) -> Outcome:
    """Play one round on a mounted disk; it is mounted again afterwards. The moment of the cut comes from seed and number."""
    rng = random.Random(f"{seed}/{number}")
    writing_s = rng.uniform(0.01, MAX_WRITING_S)
    entries_before, letters_before = len(ledger.entries), len(ledger.letters)
    server = await _start(disk, lazy=lazy)
    store = await _connect(server, lazy=lazy)
    writers = [
        asyncio.create_task(_write(store, ledger, n, number, random.Random(f"{seed}/{number}/{n}"))) for n in range(WRITERS)
    ]
    writers.append(asyncio.create_task(_put_letters(store, ledger, number)))
    await asyncio.sleep(writing_s)
    # Nothing of this program runs between the cut and the end of the server: what counts was acknowledged before.
    disk.cut()
    server.kill()
    known = Ledger(dict(ledger.entries), dict(ledger.letters))
    for writer in writers:
        writer.cancel()
    await asyncio.gather(*writers, return_exceptions=True)
    await store.close()
    ledger.entries, ledger.letters = known.entries, known.letters
    disk.unmount()
    disk.mount()
    server = await _start(disk, lazy=lazy)
    try:
        found = await _look(server, ledger, lazy=lazy)
    finally:
        await server.stop()
    entries, letters, noticed, problem = found
    lost = sorted(seq for seq, digest in ledger.entries.items() if entries.get(seq) != digest)
    return Outcome(
        seed=seed,
        round=number,
        lazy=lazy,
        writing_s=round(writing_s, 3),
        acknowledged=len(ledger.entries) - entries_before,
        letters=len(ledger.letters) - letters_before,
        unacknowledged_found=len(set(entries) - set(ledger.entries)),
        lost=len(lost),
        lost_letters=sum(letters.get(at) != event for at, event in ledger.letters.items()),
        first_lost=lost[0] if lost else 0,
        noticed=noticed,
        problem=problem,
    )


async def _start(disk: Disk, *, lazy: bool) -> CutNats:
    server = (LazyNats if lazy else CutNats)(Path(disk.root) / "nats")
    await server.start()
    await server.release()  # it is this harness that ends it, and nothing may start it again meanwhile
    return server


async def _connect(server: EmbeddedNats, *, lazy: bool) -> JetStreamStore:
    """As a service connects: it demands the proof of the fsync setting, unless this is the control."""
    return await JetStreamStore.connect(
        server.url,
        name="power",
        monitor_url=None if lazy else server.monitor_url,
        assume_synced=lazy,
        request_timeout_s=2.0,
    )


async def _write(store: JetStreamStore, ledger: Ledger, writer: int, number: int, rng: random.Random) -> None:
    """Append checkpoints of one source, a few at a time, for ever; note down what was acknowledged."""
    aggregate = Aggregate.of_instance(InstanceId(PIPELINE, f"source-{writer}", 0))
    position = 0
    while True:
        drafts: list[Draft] = []
        for _ in range(rng.randint(1, MAX_DRAFTS)):
            position += 1
            cursor = "x" * rng.randint(0, 400)
            drafts.append(Draft(aggregate, CheckpointCommitted(incarnation=number + 1, position=position, cursor=cursor)))
        for entry in await store.journal.append(drafts, actor="registry"):
            ledger.entries[entry.seq] = entry.hash


async def _put_letters(store: JetStreamStore, ledger: Ledger, number: int) -> None:
    """Put dead letters one after the other, for ever."""
    position = 0
    while True:
        position += 1
        letter = DeadLetter(
            instance=InstanceId(PIPELINE, "sink", 0), incarnation=number + 1, origin=f"round-{number}", position=position
        )
        ledger.letters[await store.dead_letters.put(letter, b"payload")] = letter.event_id


async def _look(server: EmbeddedNats, ledger: Ledger, *, lazy: bool) -> tuple[Mapping[int, str], Mapping[int, str], bool, str]:
    """What is there after the restart: entries, letters, whether the client would refuse this journal, and what is wrong else."""
    noticed, problem = False, ""
    try:
        store = await _connect(server, lazy=lazy)
        try:
            seen = max(ledger.entries, default=0)
            noticed = await store.end_beyond(seen) < seen
        finally:
            await store.close()
    except (JournalCorruptError, JournalMisconfiguredError):
        noticed = True
    entries: dict[int, str] = {}
    letters: dict[int, str] = {}
    try:
        store = await _connect(server, lazy=lazy)
    except FlowctlError as error:
        return entries, letters, noticed, "" if lazy else str(error)
    try:
        read = [entry async for entry in store.journal.read()]
        check_chains(read)
        if [entry.seq for entry in read] != list(range(1, len(read) + 1)):
            problem = "the sequences have a gap"
        entries = {entry.seq: entry.hash for entry in read}
        letters = {stored.number: stored.letter.event_id async for stored in store.dead_letters.read(PIPELINE)}
    except (FlowctlError, AssertionError) as error:
        problem = str(error).partition("\n")[0]
    finally:
        await store.close()
    return entries, letters, noticed, problem


async def campaign(disk: Disk, *, seed: int, numbers: range, lazy: bool = False) -> list[Outcome]:
    """Rounds one after the other on one disk; each looks for what all of them wrote. A control ends with its first loss."""
    ledger = Ledger()
    outcomes: list[Outcome] = []
    for number in numbers:
        async with asyncio.timeout(100):
            outcomes.append(await play(disk, ledger, seed=seed, number=number, lazy=lazy))
        if not outcomes[-1].kept:
            break
    return outcomes
