"""The furthest that this host has ever seen of the journal, remembered over restarts in the state directory.

A store that lost its end (bit rot, a restored backup, somebody's scissors) looks like any other, only shorter, and would give
sequences that were seen to other entries. So each process that follows the journal writes down how far it came, with the digest
there, and the next one refuses a journal that ends before, that is another one, or in which something before that point is other
than it was.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
from pathlib import Path
from typing import Final

import msgspec

from flowctl.errors import JournalCorruptError
from flowctl.fleet import Fleet
from flowctl.projection import Projection

EVERY_S: Final = 1.0

log = logging.getLogger("flowctl.seen")


class Seen(msgspec.Struct, frozen=True):
    """How far the journal that was made at ``created`` was seen: its digest was ``digest`` after entry ``seq``."""

    created: str
    seq: int
    digest: str


class SeenFile:
    """What is remembered of one journal; ``server`` tells it from those of other servers (empty: the embedded one)."""

    def __init__(self, state_dir: Path, server: str = "") -> None:
        name = f"seen-{hashlib.sha256(server.encode()).hexdigest()[:12]}.json" if server else "seen.json"
        self.path = state_dir / name

    def read(self) -> Seen | None:
        """What was seen; None if nothing ever was.

        Raises:
            JournalCorruptError: it cannot be read, so nobody knows what was seen.
        """
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(error.strerror or str(error)) from error
        try:
            return msgspec.json.decode(raw, type=Seen)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._unreadable(str(error)) from error

    def write(self, seen: Seen) -> None:
        """Remember it: on disk when this returns.

        Raises:
            OSError: it cannot be written.
        """
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(seen))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def check_end(self, created: str, last: int) -> None:
        """Refuse a journal that is another one or shorter than what was seen.

        Raises:
            JournalCorruptError: it is; the message says what to do.
        """
        seen = self.read()
        if seen is None:
            return
        if created != seen.created and seen.created:
            raise JournalCorruptError(
                f"the journal was made at {created or 'an unknown time'}, and the one that was seen here, up to entry {seen.seq},"
                f" at {seen.created}: it is another one",
                hint=self._way_out,
            )
        if last < seen.seq:
            raise JournalCorruptError(
                f"the journal ends at {last}, and entry {seen.seq} was seen here before: entries are gone", hint=self._way_out
            )

    def check_digest(self, seq: int, digest: str) -> None:
        """Refuse a journal whose digest after the entry that was seen is another than it was.

        Raises:
            JournalCorruptError: it is.
        """
        seen = self.read()
        if seen is not None and seen.seq == seq and seen.digest != digest:
            raise JournalCorruptError(
                f"the journal up to entry {seq} is not the one that was seen here before: something in it was changed",
                hint=f"`flowctl verify --anchor {seen.seq}:{seen.digest}` looks for the place; {self._way_out}",
            )

    @property
    def _way_out(self) -> str:
        return f"restore the server's store from a copy; to accept this journal as it is, remove {self.path}"

    def _unreadable(self, why: str) -> JournalCorruptError:
        return JournalCorruptError(f"how far the journal was seen cannot be read: {why}", hint=f"remove {self.path}")


class Memory:
    """Keeps the file up to date while a projection follows the journal."""

    def __init__(self, file: SeenFile, projection: Projection, created: str) -> None:
        self._file = file
        self._projection = projection
        self._created = created
        self._written = 0
        self._failed = False

    async def run(self) -> None:
        """Write at most once a second, when there is something new, until cancelled; and then once more."""
        try:
            while True:
                self.keep()
                await asyncio.sleep(EVERY_S)
                while self._projection.fleet.seq <= self._written:
                    await self._projection.changed()
        finally:
            self.keep()

    def keep(self) -> None:
        """Write down how far the projection is. A disk that cannot be written is told once, and stops nobody."""
        fleet: Fleet = self._projection.fleet
        if self._projection.corrupt is not None or fleet.seq <= self._written:
            return
        try:
            with contextlib.suppress(JournalCorruptError):
                before = self._file.read()
                if before is not None and before.created == self._created and before.seq > fleet.seq:
                    return  # another process on this state directory is further
            self._file.write(Seen(self._created, fleet.seq, fleet.journal_digest))
        except OSError as error:
            if not self._failed:
                log.warning("how far the journal was seen cannot be remembered in %s: %s", self._file.path, error)
            self._failed = True
        else:
            self._written, self._failed = fleet.seq, False
