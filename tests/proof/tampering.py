"""Random tampering with a journal's past, from a seed: what an attacker could do to a file, or to the store of a stopped server.

As a program it plays many and records the result: ``python -m proof.tampering --seed 1 --trials 1000 --record``.
"""

import argparse
import asyncio
import io
import random
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from flowctl.errors import DamagedFileError
from flowctl.journal.audit import Anchor, Audit, Difference
from flowctl.journal.blocks import StoredRecord, block_key, journal_dir, parse_block
from flowctl.journal.bundle import BundleReader, BundleWriter
from flowctl.journal.highway import HighwayHash
from flowctl.journal.log import Record
from support.nats import connect, nats_server
from support.records import journal
from support.reliability import write_section

FILE_KINDS: Final = ("data", "header", "header name", "time", "subject", "drop", "drop renumbered", "swap", "double", "truncate")
STORE_KINDS: Final = ("bit", "data", "header", "time", "drop", "swap", "truncate")


class Trial:
    """One act of tampering, and what came of it. ``found`` is the first difference that names an entry that was touched."""

    def __init__(self, kind: str, seqs: Sequence[int], differences: Sequence[Difference]) -> None:
        self.kind, self.seqs, self.differences = kind, tuple(seqs), tuple(differences)

    @property
    def found(self) -> Difference | None:
        """The difference that names it."""
        named = (each for each in self.differences if any(each.names(seq) for seq in self.seqs))
        return next(named, None)


def tampered(records: Sequence[Record], kind: str, rng: random.Random) -> tuple[list[Record], tuple[int, ...]]:
    """The records after one act somewhere in the past, and the sequences of what was touched."""
    changed = list(records)
    at = rng.randrange(len(records) - 2)
    record = records[at]
    if kind == "data":
        place = rng.randrange(len(record.data))
        other = rng.choice([byte for byte in b'az09{}",' if byte != record.data[place]])
        changed[at] = replace(record, data=record.data[:place] + bytes([other]) + record.data[place + 1 :])
    elif kind == "header":
        name = rng.choice(sorted(record.headers))
        changed[at] = replace(record, headers={**record.headers, name: record.headers[name] + rng.choice("x07")})
    elif kind == "header name":
        gone = rng.choice([name for name in sorted(record.headers) if record.headers[name]])
        changed[at] = replace(record, headers={name: value for name, value in record.headers.items() if name != gone})
    elif kind == "time":
        changed[at] = replace(record, time_ns=record.time_ns + rng.choice([-1, 1, 10**9]))
    elif kind == "subject":
        changed[at] = replace(record, subject=record.subject + "x")
    elif kind.startswith("drop"):
        del changed[at]
        if kind == "drop renumbered":
            changed = [replace(each, seq=seq) for seq, each in enumerate(changed, start=1)]
    elif kind == "swap":
        other = rng.choice([n for n in range(len(records) - 2) if n != at])
        changed[at] = replace(records[other], seq=record.seq)
        changed[other] = replace(record, seq=records[other].seq)
        return changed, (record.seq, records[other].seq)
    elif kind == "double":
        changed.insert(at, record)
        changed = [replace(each, seq=seq) for seq, each in enumerate(changed, start=1)]
    elif kind == "truncate":
        del changed[at:]
    return changed, (record.seq,)


def rewritten(records: Sequence[Record]) -> io.BytesIO | None:
    """A file of these with everything in it that is a checksum or digest right; None if the format itself cannot hold them."""
    file = io.BytesIO()
    writer = BundleWriter(file, chunk_lines=200)
    try:
        for record in records:
            writer.add(record)
    except ValueError:
        return None
    writer.close()
    return file


def in_a_file(records: Sequence[Record], kind: str, rng: random.Random, anchor: Anchor) -> Trial:
    """Tamper with an exported file. The anchor is needed for what is cut off at the end, and given for nothing else."""
    changed, seqs = tampered(records, kind, rng)
    file = rewritten(changed)
    if file is None:  # a gap: an attacker who leaves the numbers alone cannot even write the file with our writer
        return Trial(kind, seqs, audited(changed).differences)
    audit = Audit(anchors=(anchor,) if kind == "truncate" else ())
    with BundleReader(file) as reader:
        try:
            for record in reader.records():
                audit.add(record)
        except DamagedFileError as error:
            audit.report(Difference("file", audit.seq + 1, str(error)))
    audit.finish()
    return Trial(kind, seqs, audit.differences)


def audited(records: Sequence[Record], *anchors: Anchor) -> Audit:
    """The finished audit of these."""
    audit = Audit(anchors=anchors)
    for record in records:
        audit.add(record)
    audit.finish()
    return audit


def in_the_store(block: bytes, kind: str, rng: random.Random, last_seen: int) -> Trial:
    """Tamper with the only block of a stopped server's journal; but for single bits with the server's checksum put right."""
    stored = [each for each in parse_block(block, 1) if isinstance(each, StoredRecord)]
    at = rng.randrange(len(stored) - 2)
    one, after = stored[at], stored[at + 1]
    first, end, seqs = one.offset, one.offset + one.length, (one.record.seq,)
    raw = bytearray(block[first:end])
    if kind == "bit":
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == "drop":
        raw = bytearray()
    elif kind == "truncate":
        raw, end = raw[: rng.randrange(len(raw))], len(block)
    elif kind == "swap":
        raw = bytearray(block[after.offset : after.offset + after.length]) + raw
        raw[4:12], raw[after.length + 4 : after.length + 12] = struct.pack("<Q", seqs[0]), struct.pack("<Q", seqs[0] + 1)
        raw = bytearray(_checksummed(bytes(raw[: after.length])) + _checksummed(bytes(raw[after.length :])))
        end, seqs = after.offset + after.length, (seqs[0], seqs[0] + 1)
    elif kind == "time":
        # The store was filled by an import, so the time of an entry is in a header.
        place = bytes(raw).index(str(one.record.time_ns).encode()) + rng.randrange(1, 19)
        raw[place] = rng.choice([digit for digit in b"0123456789" if digit != raw[place]])
        raw = bytearray(_checksummed(bytes(raw)))
    else:
        data = one.record.data if kind == "data" else one.record.headers["ce-actor"].encode()
        place = bytes(raw).index(data) + rng.randrange(len(data))
        raw[place] = rng.choice([byte for byte in b"az09" if byte != raw[place]])
        raw = bytearray(_checksummed(bytes(raw)))
    audit = Audit()
    for found in parse_block(block[:first] + bytes(raw) + block[end:], 1):
        if isinstance(found, StoredRecord):
            audit.add(found.record)
        else:
            audit.report(found)
    audit.finish(last_seen=last_seen)
    return Trial(kind, seqs, audit.differences)


def _checksummed(raw: bytes) -> bytes:
    """The record with the checksum that the server would have written."""
    subject_length = struct.unpack_from("<H", raw, 20)[0]
    headers_at = 22 + subject_length
    body = raw[22:headers_at] + raw[headers_at + 4 : -8]
    return raw[:-8] + HighwayHash(block_key(1)).digest(raw[4:20] + body)


async def stored_block(records: Sequence[Record]) -> bytes:
    """What a real server, stopped since, has on its disk of these."""
    with tempfile.TemporaryDirectory(prefix="flowctl-proof-") as directory:
        async with nats_server(Path(directory)) as server:
            store = await connect(server)
            await store.journal.restore(records, upto=records[-1].seq)
            await store.close()
        [block] = sorted(journal_dir(Path(directory)).glob("*.blk"))
        return block.read_bytes()


def campaign(seed: int, trials: int, entries: int) -> tuple[list[Trial], list[Trial]]:
    """So many acts on a file, and so many on a store."""
    rng, records = random.Random(seed), journal(entries, seed=seed)
    anchor = audited(records).anchor
    block = asyncio.run(stored_block(records))
    files = [in_a_file(records, rng.choice(FILE_KINDS), rng, anchor) for _ in range(trials)]
    stores = [in_the_store(block, rng.choice(STORE_KINDS), rng, entries) for _ in range(trials)]
    return files, stores


def main() -> int:
    """Play a campaign; the exit code says whether all was found."""
    parser = argparse.ArgumentParser(prog="python -m proof.tampering")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trials", type=int, default=1_000)
    parser.add_argument("--entries", type=int, default=300)
    parser.add_argument("--record", action="store_true")
    chosen = parser.parse_args()
    files, stores = campaign(chosen.seed, chosen.trials, chosen.entries)
    lines = ["| where | what | times | found, naming the entry |", "|---|---|---|---|"]
    for where, played in (("an exported file, its checksums recomputed", files), ("a stopped server's `.blk` file", stores)):
        times = Counter(trial.kind for trial in played)
        found = Counter(trial.kind for trial in played if trial.found is not None)
        lines += [f"| {where} | {kind} | {count} | {found[kind]} |" for kind, count in sorted(times.items())]
    missed = [trial for trial in [*files, *stores] if trial.found is None]
    for trial in missed[:20]:
        sys.stdout.write(f"NOT FOUND: {trial.kind} at {trial.seqs}: {trial.differences[:3]}\n")
    head = (
        f"Seed {chosen.seed}: {chosen.trials} acts of tampering with the past of a journal of {chosen.entries} entries (sealed"
        " every 100 and at its end) in an exported file, and as many in the store of a stopped nats-server."
    )
    tail = (
        "In the file every checksum and digest was recomputed by the attacker; a cut end was found by an anchor from before. In"
        " the store the server's own checksums were recomputed for all but single bits; a cut end was found by what was seen"
        f" before. Missed: {len(missed)}."
    )
    again = f"Again: `PYTHONPATH=tests python -m proof.tampering --seed {chosen.seed} --trials {chosen.trials}`."
    text = "\n\n".join([head, "\n".join(lines), tail, again])
    sys.stdout.write(text + "\n")
    if chosen.record:
        write_section("Tampering with the journal", text)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
