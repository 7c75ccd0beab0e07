"""The small file beside a sink's data that says what of it counts: how long it is, and which events are in it.

Each commit appends one line, ``<crc32> <json>``, after the data itself is on disk. At the next start, data behind the last
commit is cut off (its events were never acknowledged, so they come again), and events of the commits are not stored twice.
The file is locked for as long as the sink runs, so that two never write to one path.
"""

import fcntl
import os
import time
import zlib
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final

import msgspec

from flowctl_components.seen import Floor, Seen, Stream

_COMPACT_BYTES: Final = 8 << 20
_LOCK_POLL_S: Final = 0.05
_encode: Final = msgspec.json.Encoder().encode


class LockedError(Exception):
    """Another process holds the ledger."""


class Streak(msgspec.Struct, frozen=True, omit_defaults=True):
    """Stored events of one stream: the first position and the distances to the next ones."""

    origin: str
    path: str
    first: int
    steps: list[int] = []


class Below(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a stream's older events: see ``Floor``. ``holes`` has the first bound and the distances to the next ones.

    None: written by a version that kept no holes, so that there may be any.
    """

    origin: str
    path: str
    position: int
    holes: list[int] | None = None
    blind: int = -1


class Commit(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: of the data file with this inode, ``size`` bytes count, and ``stored`` came with this commit.

    ``snapshot`` says that the lines before do not matter; ``closed`` that the sink ended in order.
    """

    run: str
    inode: int
    size: int
    stored: list[Streak] = []
    floors: list[Below] = []
    snapshot: bool = False
    closed: bool = False


class Ledger:
    """The ledger of one data file, open and locked. ``last`` is its last commit, if there is one."""

    def __init__(self, path: Path, *, fsync: bool = True, lock_timeout_s: float = 10.0, window_events: int | None = None) -> None:
        """Open the ledger, waiting for whoever still holds it.

        Raises:
            LockedError: if that lasts longer than ``lock_timeout_s``.
            OSError: if it cannot be opened or read.
        """
        self.path = path
        self._fsync = fsync
        self._new_seen = (lambda: Seen(window_events)) if window_events is not None else Seen
        self.seen = self._new_seen()
        self.last: Commit | None = None
        self._descriptor = _locked(path, lock_timeout_s)
        self._size = self._read()

    def forget(self) -> None:
        """Events of the past are not repetitions any more: a new run begins."""
        self.seen = self._new_seen()

    def commit(self, run: str, inode: int, size: int, stored: dict[Stream, list[int]], *, closed: bool = False) -> None:
        """Write down that ``size`` bytes count and that these positions, none twice, are in them.

        Raises:
            OSError: if it could not be made durable; then nothing of it counts.
        """
        streaks = [_streak(stream, positions) for stream, positions in stored.items()]
        commit = Commit(run, inode, size, streaks, closed=closed)
        line = _line(commit)
        try:
            _write(self._descriptor, line, self._size)
            if self._fsync:
                os.fdatasync(self._descriptor)
        except OSError:
            # Half a line, or one that counts only by chance, must not be there when the same events come again.
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(line)
        self.last = commit
        for stream, positions in stored.items():
            self.seen.add(stream, positions)
        if self._size > _COMPACT_BYTES:
            self.compact(run, inode, size)

    def compact(self, run: str, inode: int, size: int) -> None:
        """Write everything that is still of use into a new file, and put that in the old one's place."""
        floors = [
            Below(*stream, floor.position, _distances(floor.holes), floor.blind) for stream, floor in self.seen.floors().items()
        ]
        streaks = [_streak(stream, list(positions)) for stream, positions in self.seen.recent()]
        self.last = Commit(run, inode, size, streaks, floors, snapshot=True)
        line = _line(self.last)
        fresh = self.path.with_name(self.path.name + ".new")
        descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _write(descriptor, line, 0)
        if self._fsync:
            os.fsync(descriptor)
        fresh.replace(self.path)
        if self._fsync:
            sync_directory(self.path.parent)
        os.close(self._descriptor)
        self._descriptor, self._size = descriptor, len(line)

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._descriptor)

    def _read(self) -> int:
        """Take in every line that is whole; returns where the next one goes, which is where the first broken one began."""
        size = 0
        with self.path.open("rb") as file:
            for line in file:
                commit = _parsed(line)
                if commit is None:
                    break
                size += len(line)
                if commit.snapshot or (self.last is not None and self.last.run != commit.run):
                    self.seen = self._new_seen()
                for below in commit.floors:
                    self.seen.restore((below.origin, below.path), _floor(below))
                for streak in commit.stored:
                    self.seen.add((streak.origin, streak.path), list(accumulate([streak.first, *streak.steps])))
                self.last = commit
        os.ftruncate(self._descriptor, size)
        return size


def sync_directory(path: Path) -> None:
    """Make renames in the directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _streak(stream: Stream, positions: list[int]) -> Streak:
    first, *steps = _distances(positions)
    return Streak(*stream, first, steps)


def _distances(numbers: list[int]) -> list[int]:
    """The first number, and from each to the next."""
    return [high - low for low, high in pairwise([0, *numbers])]


def _floor(below: Below) -> Floor:
    if below.holes is None:
        return Floor(below.position, [], blind=below.position)
    return Floor(below.position, list(accumulate(below.holes)), below.blind)


def _line(commit: Commit) -> bytes:
    body = _encode(commit)
    return b"%08x %b\n" % (zlib.crc32(body), body)


def _parsed(line: bytes) -> Commit | None:
    checksum, space, body = line.partition(b" ")
    if not space or not body.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(body[:-1]):
        return None
    try:
        return msgspec.json.decode(body, type=Commit)
    except msgspec.DecodeError:
        return None


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _locked(path: Path, timeout_s: float) -> int:
    """A descriptor of the file that ``path`` names, locked: compaction puts another file there."""
    deadline = time.monotonic() + timeout_s
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise LockedError(str(path)) from None
        except FileNotFoundError:
            pass
        os.close(descriptor)
        time.sleep(_LOCK_POLL_S)
