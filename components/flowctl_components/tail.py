"""Which file it is that is read: identity, rotation and truncation of a file that a path names now or once named."""

import os
import zlib
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

_HEAD_BYTES: Final = 256
_COMPRESSED: Final = {".gz", ".bz2", ".xz", ".zst"}


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file among those that one path has named: what its first byte counts as (``base``), and how to know it again.

    ``head_crc`` is the checksum of its first ``head_bytes`` bytes: an inode is used again, and a truncated file keeps its own.
    """

    base: int = 0
    device: int = 0
    inode: int = 0
    head_bytes: int = 0
    head_crc: int = 0

    @staticmethod
    def read(cursor: bytes) -> "Place":
        """The place that a checkpoint's cursor tells; an empty one tells of the first file."""
        return msgspec.json.decode(cursor, type=Place) if cursor else Place()

    def names(self, path: Path, offset: int) -> bool:
        """Whether the file at ``path`` is this one and still has ``offset`` bytes."""
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                head = file.read(self.head_bytes)
        except OSError:
            return False
        return (
            (status.st_dev, status.st_ino) == (self.device, self.inode)
            and status.st_size >= offset
            and zlib.crc32(head) == self.head_crc
        )


class Tracked:
    """An open file, and the path that it was opened by."""

    def __init__(self, file: BinaryIO, path: Path, base: int) -> None:
        status = os.fstat(file.fileno())
        self.file = file
        self.path = path
        self.base = base
        self._identity = (status.st_dev, status.st_ino)
        self._head = b""
        self._cursor = b""

    def size(self) -> int:
        """Bytes in the file now."""
        return os.fstat(self.file.fileno()).st_size

    def is_truncated(self) -> bool:
        """Whether the file is shorter than what was read of it."""
        return self.size() < self.file.tell()

    def is_replaced(self) -> bool:
        """Whether the path names another file now, or none."""
        try:
            status = self.path.stat()
        except OSError:
            return True
        return (status.st_dev, status.st_ino) != self._identity

    def cursor(self) -> bytes:
        """The ``Place`` of this file, as a checkpoint keeps it."""
        if len(self._head) < _HEAD_BYTES:
            head = os.pread(self.file.fileno(), _HEAD_BYTES, 0)
            if head != self._head or not self._cursor:
                self._head = head
                place = Place(self.base, *self._identity, len(head), zlib.crc32(head))
                self._cursor = msgspec.json.encode(place)
        return self._cursor

    def line_of(self, offset: int) -> int:
        """The number of the line that starts at ``offset``, counting from 1."""
        lines, at = 1, 0
        while at < offset and (piece := os.pread(self.file.fileno(), min(1 << 20, offset - at), at)):
            lines += piece.count(b"\n")
            at += len(piece)
        return lines


def find_rotated(path: Path, place: Place, offset: int) -> list[Path] | None:
    """The files to read before ``path`` to go on at ``offset`` of ``place``, oldest first; None if that file is not there.

    Empty if ``path`` itself is the one. A rotated file is one beside it whose name begins with the same name.
    """
    if place.names(path, offset):
        return []
    try:
        beside = [other for other in path.parent.iterdir() if other != path and other.name.startswith(path.name)]
        beside = [other for other in beside if other.is_file() and other.suffix not in _COMPRESSED]
    except OSError:
        return None
    beside.sort(key=lambda other: other.stat().st_mtime_ns)
    for number, other in enumerate(beside):
        if place.names(other, offset):
            return beside[number:]
    return None
