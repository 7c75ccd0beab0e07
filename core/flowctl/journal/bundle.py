"""An exported journal in one file: what it holds, how it is written, how it is read back and told from a damaged one.

A ZIP archive, so that any part can be read without the rest and with anybody's tools:

``manifest.json``            what the file holds; written last
``journal/<seq>.jsonl``      entries in order, one JSON object a line, beginning with entry ``seq``
``heartbeats/<n>.jsonl``     heartbeats of the same time, if they were asked for
``snapshot.bin``             the state before the first entry, if that is not the journal's first

Reads and writes the file objects that it is given and nothing else. Every line carries the journal's digest after its entry
(``seals``), so damage is named with its line; whoever rewrites a file can rewrite all of these too, which only the hash chains,
seals and an anchor kept elsewhere show (``flowctl verify``).
"""

import contextlib
import hashlib
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Final, Literal, Self

import msgspec
from msgspec import field

from flowctl.errors import DamagedFileError
from flowctl.journal import bundle_lines, codec, seals
from flowctl.journal.bundle_lines import Line
from flowctl.journal.log import Record

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
SNAPSHOT: Final = "snapshot.bin"
CHUNK_LINES: Final = 10_000
MAX_MANIFEST_BYTES: Final = 64 * 1024 * 1024

Part = Literal["journal", "heartbeats", "snapshot"]


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of the archive. ``first`` and ``last`` are sequences, of the journal or of the heartbeats, 0 in a snapshot.

    ``digest`` is the journal's after the last entry, in members that hold entries.
    """

    name: str
    part: Part
    sha256: str
    size_bytes: int
    lines: int = 0
    first: int = 0
    last: int = 0
    digest: str = ""


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a file holds: entries ``first_seq`` to ``last_seq`` without a gap, stored between the two times (Unix nanoseconds).

    ``before`` is the journal's digest before the first of them, ``digest`` after the last. ``snapshot_seq`` is the entry after
    which the snapshot, if there is one, was the state; ``snapshot_schema`` names its shape.
    """

    format: int
    first_seq: int
    last_seq: int
    entries: int
    digest: str
    before: str = ""
    first_time_ns: int = 0
    last_time_ns: int = 0
    heartbeats: int = 0
    snapshot_seq: int = 0
    snapshot_schema: str = ""
    made_by: str = ""
    members: list[Member] = field(default_factory=list[Member])


_encode = msgspec.json.Encoder(order="deterministic").encode
_manifests: Final = msgspec.json.Decoder(Manifest)


class _Chunk:
    """A member that is being written."""

    def __init__(self, archive: zipfile.ZipFile, name: str, part: Part, first: int) -> None:
        # A fixed date: the same journal gives the same file.
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        self._file = archive.open(info, "w", force_zip64=True)
        self._name, self._first = name, first
        self._part: Part = part
        self._sha = hashlib.sha256()
        self._size = self.lines = 0

    def write(self, data: bytes, *, lines: int = 1) -> None:
        self._file.write(data)
        self._sha.update(data)
        self._size += len(data)
        self.lines += lines

    def abandon(self) -> None:
        with contextlib.suppress(OSError):  # what kept it from being written keeps its end from it too
            self._file.close()

    def close(self, last: int, digest: str = "") -> Member:
        self._file.close()
        return Member(self._name, self._part, self._sha.hexdigest(), self._size, self.lines, self._first, last, digest)


class BundleWriter:
    """Writes one file: entries in order, then heartbeats, then ``close``; a file that was not closed is none.

    ``before`` is the journal's digest before the first entry. The file object needs no ``seek``. Leaving its block without
    ``close`` abandons the file.
    """

    def __init__(
        self, file: IO[bytes], *, before: str = seals.NOTHING, made_by: str = "", chunk_lines: int = CHUNK_LINES
    ) -> None:
        self._archive = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6)
        self._before = self._digest = before
        self._made_by = made_by
        self._chunk_lines = chunk_lines
        self._members: list[Member] = []
        self._chunk: _Chunk | None = None
        self._part: Part = "journal"
        self._first: Record | None = None
        self._last: Record | None = None
        self._last_beat = 0
        self._entries = self._beats = 0
        self._snapshot: tuple[int, str] = (0, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._chunk is not None:
            self._chunk.abandon()
        self._archive.fp = None  # else the archive writes its end whenever it is freed, to a file that is closed by then

    def add(self, record: Record) -> None:
        """Write the next entry.

        Raises:
            ValueError: it does not follow the one before, or heartbeats were written already.
            UserError: it is so large that it could not be read back.
        """
        if self._part != "journal" or (self._last is not None and record.seq != self._last.seq + 1):
            raise ValueError(f"entry {record.seq} does not follow {self._last.seq if self._last else 'the heartbeats'}")
        if self._chunk is not None and self._chunk.lines >= self._chunk_lines:
            self._finish()
        hashed = codec.entry_hash(record.subject, record.headers, record.data)
        digest = seals.advance(self._digest, hashed, record.time_ns)
        self._put(record, digest)
        self._digest = digest
        self._first = self._first or record
        self._last = record
        self._entries += 1

    def add_heartbeat(self, record: Record) -> None:
        """Write the next heartbeat, by ascending sequence; after all the entries.

        Raises:
            UserError: it is so large that it could not be read back.
        """
        if self._part == "journal" or (self._chunk is not None and self._chunk.lines >= self._chunk_lines):
            self._finish()
            self._part = "heartbeats"
        self._put(record, "")
        self._last_beat = record.seq
        self._beats += 1

    def add_snapshot(self, seq: int, schema: str, data: bytes) -> None:
        """Write the state after entry ``seq``; any time before ``close``."""
        self._finish()
        chunk = _Chunk(self._archive, SNAPSHOT, "snapshot", 0)
        chunk.write(data, lines=0)
        self._members.append(chunk.close(0))
        self._snapshot = (seq, schema)

    def close(self) -> Manifest:
        """Write the manifest, which makes the file whole."""
        self._finish()
        first, last = self._first, self._last
        manifest = Manifest(
            format=FORMAT,
            first_seq=first.seq if first else 0,
            last_seq=last.seq if last else 0,
            entries=self._entries,
            digest=self._digest,
            before=self._before,
            first_time_ns=first.time_ns if first else 0,
            last_time_ns=last.time_ns if last else 0,
            heartbeats=self._beats,
            snapshot_seq=self._snapshot[0],
            snapshot_schema=self._snapshot[1],
            made_by=self._made_by,
            members=self._members,
        )
        info = zipfile.ZipInfo(MANIFEST)
        info.compress_type = zipfile.ZIP_DEFLATED
        self._archive.writestr(info, msgspec.json.format(_encode(manifest), indent=2) + b"\n")
        self._archive.close()
        return manifest

    def _put(self, record: Record, digest: str) -> None:
        line = bundle_lines.encoded(record, digest)
        if self._chunk is None:
            name = f"{self._part}/{record.seq:012d}.jsonl"
            self._chunk = _Chunk(self._archive, name, self._part, record.seq)
        self._chunk.write(line)

    def _finish(self) -> None:
        """Close the member that is being written, if there is one."""
        if self._chunk is None:
            return
        if self._part == "journal" and self._last is not None:
            self._members.append(self._chunk.close(self._last.seq, self._digest))
        else:
            self._members.append(self._chunk.close(self._last_beat))
        self._chunk = None


class BundleReader:
    """Reads one file; ``name`` is what errors call it.

    Raises:
        DamagedFileError: it is no such file, is cut off, or of a format that this release does not know.
    """

    def __init__(self, file: IO[bytes], *, name: str = "the file") -> None:
        self._name = name
        try:
            self._archive = zipfile.ZipFile(file)
            info = self._archive.getinfo(MANIFEST)
            if info.file_size > MAX_MANIFEST_BYTES:
                raise self._damaged("the manifest is too large", MANIFEST)
            raw = self._archive.read(MANIFEST)
        except KeyError:
            raise self._damaged("it holds no manifest.json: it is no exported journal") from None
        except _BROKEN as error:
            raise self._damaged(f"it is no whole ZIP archive ({error}): it is damaged, cut off, or no exported journal") from None
        try:
            self.manifest = _manifests.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._damaged(f"the manifest cannot be read: {error}", MANIFEST) from None
        if self.manifest.format != FORMAT:
            raise self._damaged(f"its format is {self.manifest.format}, and this release of flowctl reads {FORMAT}", MANIFEST)
        self._check_members()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def records(self, *, after: int = 0, upto: int | None = None) -> Iterator[Record]:
        """The entries with ``after < seq <= upto`` in order; only the members that hold them are read.

        Raises:
            DamagedFileError: a line is not what was written, named with its member and number.
        """
        for member in self._of("journal"):
            if member.last <= after or (upto is not None and member.first > upto):
                continue
            for line in self._read(member):
                if line.seq > after and (upto is None or line.seq <= upto):
                    yield line.record

    def heartbeats(self) -> Iterator[Record]:
        """The heartbeats in order, their data as published.

        Raises:
            DamagedFileError: see ``records``.
        """
        for member in self._of("heartbeats"):
            for line in self._read(member):
                yield line.record

    def snapshot(self) -> bytes | None:
        """The state after entry ``manifest.snapshot_seq``, None if the file holds none.

        Raises:
            DamagedFileError: it is not what was written.
        """
        for member in self._of("snapshot"):
            data = self._whole(member)
            if hashlib.sha256(data).hexdigest() != member.sha256:
                raise self._damaged("its checksum is another than the manifest's", member.name)
            return data
        return None

    def check(self) -> Iterator[int]:
        """Read everything, and yield the number of entries that were read so far, now and then.

        Raises:
            DamagedFileError: see ``records``.
        """
        count = 0
        for record in self.records():
            count += 1
            if count % 1000 == 0:
                yield count
            del record
        for _ in self.heartbeats():
            pass
        self.snapshot()
        yield count

    # --- members -----------------------------------------------------------------------------------------------------------

    def _of(self, part: Part) -> list[Member]:
        return [member for member in self.manifest.members if member.part == part]

    def _check_members(self) -> None:
        """The archive holds what the manifest names, and nothing else; the entries are as many as the range says."""
        manifest = self.manifest
        named = [MANIFEST, *(member.name for member in manifest.members)]
        held = self._archive.namelist()
        for name in named:
            if held.count(name) != 1 or named.count(name) != 1:
                raise self._damaged("the manifest names it, and the archive does not hold it once", name)
        for name in held:
            if name not in named:
                raise self._damaged("the manifest does not name it", name)
        at = manifest.first_seq
        for member in self._of("journal"):
            if member.first != at or member.last - member.first + 1 != member.lines:
                raise self._damaged(f"it should begin with entry {at}, and the manifest says {member.first}", MANIFEST)
            at = member.last + 1
        if manifest.digest != [manifest.before, *(member.digest for member in self._of("journal"))][-1]:
            raise self._damaged("the digest at the end is not that of the last member", MANIFEST)
        if manifest.entries != sum(member.lines for member in self._of("journal")) or (
            manifest.entries and manifest.last_seq != at - 1
        ):
            raise self._damaged(f"the members end at entry {at - 1}, and the manifest says {manifest.last_seq}", MANIFEST)

    def _read(self, member: Member) -> Iterator[Line]:
        journal = self._of("journal")
        at = journal.index(member) if member.part == "journal" else 0
        digest = journal[at - 1].digest if at else self.manifest.before
        sha = hashlib.sha256()
        number, previous = 0, member.first - 1
        for raw in self._raw_lines(member):
            number += 1
            sha.update(raw)
            line = self._decode(raw, member, number)
            if line.seq != previous + 1 if member.part == "journal" else line.seq <= previous:
                raise self._damaged(f"entry {line.seq} stands where {previous + 1} should", member.name, number)
            previous = line.seq
            if member.part == "journal":
                record = line.record
                hashed = codec.entry_hash(record.subject, record.headers, record.data)
                digest = seals.advance(digest, hashed, record.time_ns)
                if digest != line.digest:
                    raise self._damaged(f"entry {line.seq} is not what was written: its digest is another", member.name, number)
            yield line
        if number != member.lines or previous != member.last:
            raise self._damaged(f"it ends with entry {previous}, and the manifest says {member.last}", member.name, number)
        if sha.hexdigest() != member.sha256:
            raise self._damaged("its checksum is another than the manifest's", member.name)
        if member.part == "journal" and digest != member.digest:
            raise self._damaged(f"the digest after entry {previous} is another than the manifest's", MANIFEST)

    def _decode(self, raw: bytes, member: Member, number: int) -> Line:
        try:
            return bundle_lines.decoded(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._damaged(f"the line cannot be read: {error}", member.name, number) from None

    def _raw_lines(self, member: Member) -> Iterator[bytes]:
        number = 0
        try:
            with self._archive.open(member.name) as file:
                while raw := file.readline(bundle_lines.MAX_LINE_BYTES):
                    number += 1
                    if not raw.endswith(b"\n"):
                        raise self._damaged("the line is cut off, or too long", member.name, number)
                    yield raw
        except _BROKEN as error:
            raise self._damaged(f"it cannot be unpacked: {error}", member.name, number + 1) from None

    def _whole(self, member: Member) -> bytes:
        try:
            return self._archive.read(member.name)
        except _BROKEN as error:
            raise self._damaged(f"it cannot be unpacked: {error}", member.name) from None

    def _damaged(self, message: str, member: str = "", line: int = 0) -> DamagedFileError:
        return DamagedFileError(message, place=":".join(str(part) for part in (self._name, member, line) if part))


_BROKEN: Final = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, ValueError, RuntimeError)
