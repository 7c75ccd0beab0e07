"""Is everything as the journal says? What ``flowctl verify`` finds out, from a running control plane or from entries alone.

Every projection is rebuilt from nothing: all services fold the same ``Fleet``, so one fold, stopped at the entries at which the
services said what they know, is compared with each of them.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Final

import msgspec
from msgspec import field

from flowctl import api, image
from flowctl.fleet import Fleet
from flowctl.journal import codec
from flowctl.journal.audit import Anchor, Audit, Difference
from flowctl.journal.log import Journal, Record
from flowctl.journal.snapshots import Snapshot, SnapshotHead, Snapshots
from flowctl.journal.transfer import Progress, silent

RECHECKS: Final = 5
RECHECK_S: Final = 0.4


class Compared(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that was compared with the fold at entry ``seq``, and whether it agreed."""

    what: str
    seq: int
    agrees: bool


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification found. ``anchor`` is worth keeping elsewhere; without differences everything is as it should be.

    ``sealed_upto`` is the last entry that a seal covers; ``foreign`` counts entries that nobody of flowctl wrote.
    """

    entries: int
    last_seq: int
    anchor: str
    state: str
    seals: int
    sealed_upto: int
    anchors_checked: int
    unknown: int
    poison: int
    foreign: int
    compared: list[Compared] = field(default_factory=list[Compared])
    differences_total: int = 0
    differences: list[Difference] = field(default_factory=list[Difference])


class State(msgspec.Struct, frozen=True):
    """What the fold was after an entry: that entry's hash, the digest of the whole state, and the SHA-256 (hex) of its image.

    A snapshot with the same image has the same state; only for one with another it must be restored to know.
    """

    entry_hash: str
    digest: str
    image: str


class Verifier:
    """Takes every entry once, in order; ``fleet`` is what they say. ``wanted`` are the services' answers to compare with.

    ``states`` says what the fold was after each of the entries ``keep``.
    """

    def __init__(
        self,
        *,
        anchors: Sequence[Anchor] = (),
        after: int = 0,
        digest: str = "",
        wanted: Iterable[api.DigestAnswer] = (),
        keep: Iterable[int] = (),
    ) -> None:
        self.audit = Audit(after=after, digest=digest, anchors=tuple(anchors))
        self.fleet = Fleet(seq=after, journal_digest=digest)
        self.compared: list[Compared] = []
        self.states: dict[int, State] = {}
        self._kept = frozenset(keep)
        self._wanted: dict[int, list[api.DigestAnswer]] = {}
        for answer in wanted:
            self._wanted.setdefault(answer.seq, []).append(answer)
        self._compare()

    def add(self, record: Record) -> None:
        """The next entry."""
        hashed = self.audit.add(record)
        entry = codec.decode(record.seq, record.time_ns, record.subject, record.headers, record.data, hashed=hashed)
        self.fleet.fold(entry)
        if record.seq in self._kept:
            self.states[record.seq] = State(entry.hash, self.fleet.digest(), _sum(image.pieces(self.fleet)))
        if record.seq in self._wanted:
            self._compare()

    def finish(self, *, last_seen: int = 0) -> None:
        """There are no more."""
        self.audit.finish(last_seen=last_seen)
        for seq, answers in sorted(self._wanted.items()):
            for answer in answers:
                detail = f"{_who(answer)} has read up to entry {seq}, and the journal ends at {self.fleet.seq}"
                self._differs(_who(answer), Difference("service", seq, detail, expected=str(self.fleet.seq), found=str(seq)))
        self._wanted.clear()

    def check_runs(self, answer: api.RunsAnswer) -> list[Difference]:
        """What the journal and a host's driver say differently, after all entries up to the answer's were added."""
        told = {
            (str(instance.id), instance.incarnation): instance
            for instance in self.fleet.instances.values()
            if instance.active and instance.run_host == answer.host
        }
        found = {(run.instance, run.incarnation): run for run in answer.runs}
        differences: list[Difference] = []
        for key, instance in sorted(told.items()):
            if key not in found and instance.run != "starting":  # it is claimed first, and started then
                name = f"{key[0]} (incarnation {key[1]})"
                detail = f"by the journal {name} is {instance.run} on host {answer.host}, and its driver runs no such thing"
                differences.append(Difference("runs", instance.seq, detail, f"component/{key[0]}", instance.run, "not running"))
        for key, run in sorted(found.items()):
            if key not in told:
                name = f"{key[0]} (incarnation {key[1]}, {run.handle})"
                detail = f"host {answer.host} runs {name}, and the journal does not know of it"
                differences.append(Difference("runs", answer.seq, detail, f"component/{key[0]}", "not running", "running"))
        return differences

    def check_snapshot(self, head: SnapshotHead, snapshot: Snapshot | None) -> None:
        """Whether a snapshot holds what the entries up to its own say, after all of them were added."""
        what, state = f"the snapshot at entry {head.seq}", self.states.get(head.seq)
        if state is None:
            detail = f"{what} is of an entry that the journal does not have"
            self._differs(what, Difference("snapshot", head.seq, detail))
        elif head.entry_hash != state.entry_hash:
            detail = f"{what} was taken of another entry than the journal has there"
            self._differs(what, Difference("snapshot", head.seq, detail, "", state.entry_hash, head.entry_hash))
        elif snapshot is None:
            self._differs(what, Difference("snapshot", head.seq, f"a part of {what} is gone"))
        else:
            try:
                data = snapshot.state()
                found = state.digest if _sum((data,)) == state.image else image.restored(data).digest()
            except ValueError as error:
                self._differs(what, Difference("snapshot", head.seq, f"{what} is damaged: {error}"))
                return
            if found == state.digest:
                self.compared.append(Compared(what, head.seq, agrees=True))
            else:
                detail = f"{what} holds another state than the journal says"
                self._differs(what, Difference("snapshot", head.seq, detail, "", state.digest, found))

    def report(self) -> Report:
        """What was found so far."""
        audit, fleet = self.audit, self.fleet
        return Report(
            entries=audit.entries,
            last_seq=audit.seq,
            anchor=str(audit.anchor),
            state=fleet.digest(),
            seals=audit.seals,
            sealed_upto=audit.sealed_upto,
            anchors_checked=audit.anchors,
            unknown=fleet.unknown_total,
            poison=fleet.poison_total,
            foreign=audit.foreign,
            compared=self.compared,
            differences_total=audit.differences_total,
            differences=audit.differences,
        )

    def _compare(self) -> None:
        answers = self._wanted.pop(self.fleet.seq, [])
        state = self.fleet.digest() if answers else ""
        for answer in answers:
            who = _who(answer)
            if answer.journal_digest != self.fleet.journal_digest:
                detail = f"{who} has read other entries up to {answer.seq} than are in the journal now: they were changed since"
                expected, found = self.fleet.journal_digest, answer.journal_digest
                self._differs(who, Difference("service", answer.seq, detail, "", expected, found, 1, answer.seq))
            elif answer.digest != state:
                detail = f"the live state of {who} after entry {answer.seq} is not what the journal says"
                self._differs(who, Difference("service", answer.seq, detail, "", state, answer.digest))
            else:
                self.compared.append(Compared(who, answer.seq, agrees=True))

    def _differs(self, who: str, difference: Difference) -> None:
        self.compared.append(Compared(who, difference.seq, agrees=False))
        self.audit.report(difference)


def _sum(parts: Iterable[bytes]) -> str:
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest()


def _who(answer: api.DigestAnswer) -> str:
    return f"{answer.service} {answer.name}"


async def verify_entries(verifier: Verifier, records: AsyncIterator[Record], *, upto: int, progress: Progress = silent) -> None:
    """Add all of these."""
    async for record in records:
        verifier.add(record)
        if record.seq % 1_000 == 0 or record.seq == upto:
            progress("verifying", record.seq, upto)


async def compare_snapshots(verifier: Verifier, snapshots: Snapshots, heads: Sequence[SnapshotHead]) -> None:
    """Compare each of these snapshots with the fold, whose ``keep`` had their sequences.

    Raises:
        JournalUnavailableError: the server does not answer.
    """
    for number, head in enumerate(heads):
        snapshot = await snapshots.get(head)
        if snapshot is None and number == 0 and len(heads) > 1:
            continue  # the oldest go, part by part, when there is no more room
        verifier.check_snapshot(head, snapshot)


async def compare_runs(
    verifier: Verifier,
    journal: Journal,
    ask: Callable[[], Awaitable[list[api.RunsAnswer]]],
    sleep: Callable[[float], Awaitable[None]],
) -> None:
    """Compare what the drivers run with the journal. What differs only while something starts or ends is no difference.

    Every agent is asked until it agrees, some times; each time the journal is read on to where the agent was.
    """
    open_hosts: set[str] | None = None
    remaining: dict[str, list[Difference]] = {}
    for attempt in range(RECHECKS):
        if attempt:
            await sleep(RECHECK_S)
        answers = [answer for answer in await ask() if open_hosts is None or answer.host in open_hosts]
        upto = max((answer.seq for answer in answers), default=0)
        if upto > verifier.fleet.seq:
            await verify_entries(verifier, journal.records(after=verifier.fleet.seq, upto=upto), upto=upto)
        remaining = {}
        for answer in answers:
            differences = verifier.check_runs(answer)
            if differences:
                remaining[answer.host] = differences
            else:
                verifier.compared.append(Compared(f"the driver of host {answer.host}", answer.seq, agrees=True))
        open_hosts = set(remaining)
        if not remaining:
            return
    for host, differences in remaining.items():
        verifier.compared.append(Compared(f"the driver of host {host}", verifier.fleet.seq, agrees=False))
        for difference in differences:
            verifier.audit.report(difference)
