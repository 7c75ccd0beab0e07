"""The files of a stopped nats-server's journal, read without the server.

A server that finds a damaged message on disk goes on without it and everything after it, silently, and reuses the sequences
(docs/decisions/006); so whoever asks what is on the disk must not start one. Only reads.

Each ``<n>.blk`` holds records one after another, integers lowest byte first: length (4 bytes, the highest bit says that there are
headers), sequence (8), time (8), length of the subject (2), the subject, length of the headers (4) and the headers if there are
any, the data, and a HighwayHash-64 of all but the lengths under a key made of the stream's name and the block's number.
Source: nats-server 2.15, server/filestore.go (``writeMsgRecordLocked``, ``msgFromBufEx``).
"""

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from flowctl.errors import UserError
from flowctl.journal import codec, subjects
from flowctl.journal.audit import Difference
from flowctl.journal.highway import HighwayHash
from flowctl.journal.log import Record

_HEAD: Final = struct.Struct("<IQQH")
_HEADERS: Final = 1 << 31
_ERASED: Final = 3 << 62
CHECKSUM_BYTES: Final = 8
MAX_RECORD_BYTES: Final = 64 * 1024 * 1024


class _Meta(msgspec.Struct):
    created: str = msgspec.field(name="Created", default="")


class StoredRecord(msgspec.Struct, frozen=True):
    """One record of a block: where it lies, and what is in it; ``intact`` says whether its checksum is right."""

    record: Record
    block: int
    offset: int
    length: int
    intact: bool


def journal_dir(nats_dir: Path) -> Path:
    """Where the journal's blocks lie in the directory of an embedded server.

    Raises:
        UserError: there is no journal, or more than one.
    """
    found = sorted(nats_dir.glob(f"**/streams/{subjects.JOURNAL_STREAM}/msgs"))
    if len(found) != 1:
        what = "no journal" if not found else f"{len(found)} journals"
        raise UserError(f"there is {what} in it", place=str(nats_dir), hint="name the state directory with --state-dir")
    return found[0]


def created(directory: Path) -> str:
    """When the stream was made, as its server wrote it down; empty if that cannot be read."""
    try:
        return msgspec.json.decode((directory.parent / "meta.inf").read_bytes(), type=_Meta).created
    except (OSError, msgspec.MsgspecError):
        return ""


def read_blocks(directory: Path) -> Iterator[StoredRecord | Difference]:
    """Every record in the order of the blocks, and what could not be read. After damage the rest of its block is skipped.

    Raises:
        UserError: the files cannot be read.
    """
    try:
        blocks = sorted((int(path.stem), path) for path in directory.glob("*.blk") if path.stem.isdigit())
        last = 0
        for number, path in blocks:
            data = path.read_bytes()
            for found in parse_block(data, number, after=last):
                if isinstance(found, StoredRecord):
                    last = found.record.seq
                yield found
    except OSError as error:
        raise UserError(f"the server's files cannot be read: {error}") from error


def parse_block(data: bytes, number: int, *, after: int = 0) -> Iterator[StoredRecord | Difference]:
    """The records of one block. ``after`` is the last sequence before it."""
    hasher = HighwayHash(block_key(number))
    at = 0
    while at < len(data):
        found = _parse(data, at, number, hasher)
        if found is None:
            detail = f"block {number}.blk cannot be read from byte {at} on: entry {after + 1}, or what was written over it"
            yield Difference("file", after + 1, detail)
            return
        length, stored = found
        if stored is not None:
            after = stored.record.seq
            yield stored
            if not stored.intact:
                detail = f"entry {after} in block {number}.blk is not what the server wrote: its checksum is wrong"
                yield Difference("file", after, detail)
        at += length


def block_key(number: int) -> bytes:
    """The key of a block's checksums."""
    return hashlib.sha256(f"{subjects.JOURNAL_STREAM}-{number}".encode()).digest()


def _parse(data: bytes, at: int, number: int, hasher: HighwayHash) -> tuple[int, StoredRecord | None] | None:
    """Length and content of the record there; no content for one that the server erased; None if there is no record."""
    if at + _HEAD.size > len(data):
        return None
    length, seq, time_ns, subject_length = _HEAD.unpack_from(data, at)
    has_headers, length = bool(length & _HEADERS), length & ~_HEADERS
    least = _HEAD.size + subject_length + (4 if has_headers else 0) + CHECKSUM_BYTES
    if not least <= length <= MAX_RECORD_BYTES or at + length > len(data):
        return None
    if seq & _ERASED:
        return length, None
    body_at = at + _HEAD.size + subject_length
    subject = data[at + _HEAD.size : body_at]
    end = at + length - CHECKSUM_BYTES
    header_block = b""
    if has_headers:
        header_length = int.from_bytes(data[body_at : body_at + 4], "little")
        body_at += 4
        if body_at + header_length > end:
            return None
        header_block = data[body_at : body_at + header_length]
        body_at += header_length
    body = data[body_at:end]
    hashed = hasher.digest(data[at + 4 : at + 20] + subject + header_block + body)
    headers = parse_header_block(header_block)
    record = codec.record(seq, time_ns, subject.decode("utf-8", "replace"), headers, body)
    return length, StoredRecord(record, number, at, length, hashed == data[end : end + CHECKSUM_BYTES])


def parse_header_block(block: bytes) -> dict[str, str]:
    """The headers of ``NATS/1.0`` and ``Name: value`` lines, read as the client reads them (``jetstream.client``)."""
    headers: dict[str, str] = {}
    for line in block.partition(b"\r\n")[2].decode("utf-8", "replace").split("\r\n"):
        name, colon, value = line.partition(":")
        name = name.strip(_SPACE)
        if colon and name.isascii() and not any(letter.isspace() for letter in name):
            headers[name] = value.strip(_SPACE)
    return headers


_SPACE: Final = " \t\r\n\x0b\x0c"
