"""Is the journal what was written? The checks of ``flowctl verify`` that need the entries alone: an incremental, pure class.

Found without anything from outside: an entry that is missing, doubled or out of its place; one that does not continue its
aggregate's hash chain, because it or the one before it was changed; headers that contradict the entry; a seal that does not fit
what it seals; an end before what was seen. Whoever can rewrite everything from a point on, hashes and seals included, is found by
an ``anchor`` alone: a sequence with its digest, from an earlier verification, kept where that somebody cannot write.

Memory grows with the number of aggregates, not of entries.
"""

from collections import deque
from typing import Final, Literal

import msgspec

from flowctl.journal import codec, seals, subjects
from flowctl.journal.events import SealPlaced
from flowctl.journal.log import Poison, Record

MAX_DIFFERENCES: Final = 1_000
SEAL_REACH: Final = 100_000
"""How far back a seal may lie from what it seals: writers seal what they have just read."""

Check = Literal["sequence", "chain", "headers", "seal", "anchor", "end", "file", "state", "snapshot", "runs", "service"]


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is not as it should be.

    ``seq`` is the entry where it shows; the entry that was changed is one of ``first`` to ``last`` (0: ``seq`` itself).
    """

    check: Check
    seq: int
    detail: str
    aggregate: str = ""
    expected: str = ""
    found: str = ""
    first: int = 0
    last: int = 0

    def names(self, seq: int) -> bool:
        """Whether this points at entry ``seq``."""
        return seq == self.seq or self.first <= seq <= self.last


class Anchor(msgspec.Struct, frozen=True):
    """What the journal's digest was after an entry."""

    seq: int
    digest: str

    def __str__(self) -> str:
        return f"{self.seq}:{self.digest}"

    @classmethod
    def parse(cls, text: str) -> "Anchor | None":
        """The anchor that ``SEQ:DIGEST`` means, None if it is none."""
        seq, colon, digest = text.strip().partition(":")
        digest = digest.lower()
        if not (colon and seq.isascii() and seq.isdigit() and len(seq) < 20):
            return None
        return cls(int(seq), digest) if len(digest) == 64 and set(digest) <= set("0123456789abcdef") else None


class _ChainHead(msgspec.Struct, gc=False):
    seq: int
    hash: str


class Audit:
    """Give it every entry in stored order, then ``finish``.

    ``after`` and ``digest`` are where the entries begin, if that is not the journal's beginning; chains that began before are
    then taken up where they are first met. ``anchors`` are what is known from outside.
    """

    def __init__(self, *, after: int = 0, digest: str = seals.NOTHING, anchors: tuple[Anchor, ...] = ()) -> None:
        self.seq = self._begin = after
        self.digest = digest
        self.entries = self.seals = self.anchors = self.foreign = 0
        self.sealed_upto = 0
        self.differences: list[Difference] = []
        self.differences_total = 0
        self._anchors = {anchor.seq: anchor.digest for anchor in anchors}
        self._chains: dict[str, _ChainHead] = {}
        self._recent: deque[str] = deque([digest], maxlen=SEAL_REACH)
        self._recent_end = after

    @property
    def anchor(self) -> Anchor:
        """What to keep elsewhere, to prove later that this much of the journal is still what it is now."""
        return Anchor(self.seq, self.digest)

    def add(self, record: Record) -> str:
        """Check the next entry; returns its hash."""
        self.entries += 1
        if record.seq != self.seq + 1:
            self._out_of_sequence(record)
        hashed = codec.entry_hash(record.subject, record.headers, record.data)
        self._check_chain(record, hashed)
        if record.subject == _SEAL_SUBJECT:
            self._check_seal(record)
        self.seq = record.seq
        self.digest = seals.advance(self.digest, hashed, record.time_ns)
        self._recent.append(self.digest)
        self._recent_end = record.seq
        if record.seq in self._anchors:
            self._check_anchor(record.seq)
        return hashed

    def finish(self, *, last_seen: int = 0) -> None:
        """There are no more entries; ``last_seen`` is the highest sequence that anybody has ever seen of this journal."""
        if self.seq < last_seen:
            detail = f"the journal ends at {self.seq}, and entry {last_seen} was seen: entries are gone"
            self.report(Difference("end", self.seq + 1, detail, "", str(last_seen), str(self.seq), self.seq + 1, last_seen))
        for seq, digest in sorted(self._anchors.items()):
            if seq == 0 and self._begin == 0:
                if digest != seals.NOTHING:
                    self.report(Difference("anchor", 0, "an empty journal has no digest", expected=digest))
            elif seq > self.seq:
                detail = f"the journal ends at {self.seq}, before the anchor {seq}: entries are gone"
                self.report(Difference("anchor", self.seq + 1, detail, "", digest, "", self.seq + 1, seq))
            elif seq <= self._begin:
                detail = f"the anchor {seq} lies before the first entry that is here, {self._begin + 1}"
                self.report(Difference("anchor", seq, detail, expected=digest))

    def report(self, difference: Difference) -> None:
        """Count a difference, and keep it while there is room."""
        self.differences_total += 1
        if len(self.differences) < MAX_DIFFERENCES:
            self.differences.append(difference)

    # --- the checks --------------------------------------------------------------------------------------------------------

    def _out_of_sequence(self, record: Record) -> None:
        expected = self.seq + 1
        if record.seq > expected:
            last = record.seq - 1
            what = f"entry {expected} is" if last == expected else f"entries {expected} to {last} are"
            detail = f"{what} missing: after {self.seq} comes {record.seq}"
            self.report(Difference("sequence", expected, detail, "", str(expected), str(record.seq), expected, last))
        else:
            detail = f"entry {record.seq} comes after {self.seq}: it is doubled, or out of its place"
            self.report(Difference("sequence", record.seq, detail, "", str(expected), str(record.seq), record.seq, expected))

    def _check_chain(self, record: Record, hashed: str) -> None:
        aggregate, _, _ = record.subject.rpartition(".")
        previous = self._chains.get(aggregate)
        carried = record.headers.get(subjects.CE_PREVIOUS_HASH)
        expected = previous.hash if previous is not None else ""
        if carried is None or subjects.CE_ID not in record.headers:
            self.foreign += 1
        else:
            if carried != expected and not (previous is None and self._begin) and not _is_poison(record):
                self._broken_chain(record, aggregate, previous, carried)
            if not _has_implied(record, aggregate) and not _is_poison(record):
                self._foreign_headers(record, aggregate)
        if previous is None:
            self._chains[aggregate] = _ChainHead(record.seq, hashed)
        else:
            previous.seq, previous.hash = record.seq, hashed

    def _broken_chain(self, record: Record, aggregate: str, previous: _ChainHead | None, carried: str) -> None:
        expected = previous.hash if previous is not None else ""
        if previous is None:
            detail = f"entry {record.seq} continues a chain, and nothing of {_shown(aggregate)} comes before it"
            first = self._begin + 1
        else:
            detail = (
                f"entry {record.seq} does not continue {_shown(aggregate)} after entry {previous.seq}:"
                " one of the two was changed, or one between them is gone"
            )
            first = previous.seq
        named = Difference("chain", record.seq, detail, _shown(aggregate), expected, carried, first, record.seq)
        self.report(named)

    def _foreign_headers(self, record: Record, aggregate: str) -> None:
        for name, wanted in _implied(aggregate).items():
            if record.headers.get(name) != wanted:
                found = record.headers.get(name, "no such header")
                detail = f"the header {name} of entry {record.seq} is not what belongs to the entry"
                self.report(Difference("headers", record.seq, detail, _shown(aggregate), wanted, found))
        for name in sorted(record.headers.keys() - _KNOWN):
            detail = f"entry {record.seq} carries a header {name!r} that flowctl does not write"
            self.report(Difference("headers", record.seq, detail, _shown(aggregate), "", name))

    def _check_seal(self, record: Record) -> None:
        event = codec.decode(record.seq, record.time_ns, record.subject, record.headers, record.data).event
        if not isinstance(event, SealPlaced):
            return
        self.seals += 1
        back = self._recent_end - event.upto
        if event.upto <= self._begin:
            return
        if not 0 <= back < len(self._recent):
            first = self.sealed_upto + 1
            detail = (
                f"the seal {record.seq} speaks of entry {event.upto}, which does not lie shortly before it:"
                f" one of entries {first} to {record.seq} was removed, or the seal was changed or moved"
            )
            self.report(Difference("seal", record.seq, detail, "seal/journal", "", str(event.upto), first, record.seq))
            return
        found = self._recent[-1 - back]
        if found != event.digest:
            detail = (
                f"the seal {record.seq} does not fit entries {self.sealed_upto + 1} to {event.upto}:"
                " one of them was changed, moved or removed, or the seal was"
            )
            first = self.sealed_upto + 1
            self.report(
                Difference("seal", record.seq, detail, "seal/journal", event.digest, found, first, max(event.upto, first))
            )
            if back == 0:  # go on from what the seal says, so that one change is not a difference of every seal after it
                self.digest = event.digest
        self.sealed_upto = event.upto

    def _check_anchor(self, seq: int) -> None:
        self.anchors += 1
        if self._anchors[seq] != self.digest:
            detail = f"the journal up to entry {seq} is not the one that the anchor was taken of: something in it was changed"
            first = max(1, self._begin + 1)
            self.report(Difference("anchor", seq, detail, "", self._anchors[seq], self.digest, first, seq))


_SEAL_SUBJECT: Final = f"{subjects.JOURNAL_ROOT}.seal.journal.placed"
_KNOWN: Final = frozenset(
    {
        subjects.CE_SPECVERSION,
        subjects.CE_ID,
        subjects.CE_TYPE,
        subjects.CE_SOURCE,
        subjects.CE_SUBJECT,
        subjects.CE_TIME,
        subjects.CE_ACTOR,
        subjects.CE_CORRELATION,
        subjects.CE_CAUSATION,
        subjects.CE_PREVIOUS_HASH,
        subjects.CONTENT_TYPE,
    }
)


def _is_poison(record: Record) -> bool:
    """Whether it cannot be read: then nobody of flowctl wrote it, and it need not continue anything."""
    entry = codec.decode(record.seq, record.time_ns, record.subject, record.headers, record.data)
    return isinstance(entry.event, Poison)


def _implied(aggregate: str) -> dict[str, str]:
    """The headers that follow from the rest of a readable entry, and that its hash does not cover."""
    return {
        subjects.CE_SPECVERSION: "1.0",
        subjects.CE_SUBJECT: aggregate.split(".", 3)[3] if aggregate.count(".") > 2 else "",
        subjects.CONTENT_TYPE: "application/json",
    }


def _has_implied(record: Record, aggregate: str) -> bool:
    """Whether the entry has the headers that it must have, and no other."""
    headers = record.headers
    return (
        len(headers) == len(_KNOWN)
        and _KNOWN.issuperset(headers)
        and headers[subjects.CE_SPECVERSION] == "1.0"
        and headers[subjects.CONTENT_TYPE] == "application/json"
        and aggregate.endswith(f".{headers[subjects.CE_SUBJECT]}")
        and aggregate.count(".") == 3 + headers[subjects.CE_SUBJECT].count(".")
    )


def _shown(aggregate: str) -> str:
    """``pipeline/orders`` for the subject ``flowctl.journal.pipeline.orders``."""
    parts = aggregate.split(".", 3)
    return f"{parts[2]}/{parts[3]}" if len(parts) == 4 else aggregate
