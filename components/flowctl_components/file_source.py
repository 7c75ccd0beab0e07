"""Source ``file``: the records of a file, once through or for as long as it grows.

Configuration::

    path: data/orders.csv
    format: lines               # lines | json (a JSON document on each line) | csv (objects with the header's names)
    follow: false               # true: wait for more, through rotation by rename and by truncation, as `tail -F` does
    delimiter: ","              # csv only
    columns: [id, total]        # csv only: the names, for a file without a header
    quoted: true                # csv only: false takes quotes as they are
    max_record_bytes: 1048576
    poll_s: 0.2                 # follow only: how often to look for more
    event_type: ""              # the events' type

CSV values are text (``to_number(total)`` in JMESPath makes a number); text is UTF-8. Blank lines count only in ``lines``.

Guarantee: a position is the offset of the record's last byte (counted on through rotated files), so that a restart goes on
at exactly the first record that is not yet safe in every sink. When the file was rotated while nothing ran, the rest of the
old file is looked for beside it, by its inode. A record that cannot be read ends the source with the file and line. One file
has one reader: ``replicas`` above 1 are refused.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, BinaryIO, Final, Literal

from msgspec import Meta

from flowctl.errors import ComponentError
from flowctl_components.config import Config, invalid, read_config
from flowctl_components.records import CsvRows, Entry, JsonLines, Lines, RecordError
from flowctl_components.tail import Place, Tracked, find_rotated
from flowctl_sdk import Context, Event, Source, run

_READ_BYTES: Final = 1 << 18


class FileSourceConfig(Config, frozen=True, kw_only=True):
    """See the module."""

    path: Annotated[str, Meta(min_length=1)]
    format: Literal["lines", "json", "csv"] = "lines"
    follow: bool = False
    delimiter: Annotated[str, Meta(min_length=1, max_length=1)] = ","
    columns: Annotated[list[str], Meta(min_length=1)] | None = None
    quoted: bool = True
    max_record_bytes: Annotated[int, Meta(ge=1, le=3_000_000)] = 1 << 20
    poll_s: Annotated[float, Meta(ge=0.01, le=60)] = 0.2
    event_type: str = ""


class FileSource(Source):
    """The records of a file, once through or for as long as it grows."""

    async def open(self, ctx: Context) -> None:
        """Read the configuration and see that the file can be read."""
        self._ctx = ctx
        self._config = config = read_config(ctx, FileSourceConfig)
        self._path = Path.cwd() / config.path
        if ctx.instance.index > 0:
            raise invalid(ctx, "", "a file has one reader: replicas must be 1")
        if config.format != "csv" and (config.columns is not None or config.delimiter != "," or not config.quoted):
            raise invalid(ctx, "format", f"'columns', 'delimiter' and 'quoted' go with format csv, and this is {config.format}")
        if config.columns is not None and len(set(config.columns)) != len(config.columns):
            raise invalid(ctx, "columns", "a column is named twice")
        if self._path.is_dir():
            raise invalid(ctx, "path", f"{self._path} is a directory")
        if not config.follow and not self._path.exists():
            raise invalid(ctx, "path", f"there is no file {self._path}")

    async def events(self) -> AsyncIterator[Event]:
        """The records from where the last incarnation left off."""
        checkpoint = self._ctx.checkpoint
        place = Place.read(checkpoint.cursor) if checkpoint is not None else Place()
        base, offset, ahead = place.base, self._ctx.resume_at - place.base, list[Path]()
        if self._config.follow and checkpoint is not None:
            ahead = find_rotated(self._path, place, offset)
            if ahead is None:
                self._ctx.log.warning("%s was replaced while nothing ran, and the old file is not beside it", self._path)
                base, offset, ahead = self._ctx.resume_at, 0, []
        while True:
            path = ahead.pop(0) if ahead else self._path
            file = await self._opened(path)
            if file is None:
                return
            with file:
                tracked = Tracked(file, path, base)
                if not self._config.follow and offset > tracked.size():
                    raise ComponentError(f"{path} is shorter than what was read of it before ({offset} bytes)")
                splitter = self._splitter(tracked, offset)
                async for event in self._records(tracked, splitter, grows=path == self._path):
                    yield event
                if not self._config.follow or self._ctx.stopping.is_set():
                    return
                base, offset = base + splitter.offset + len(splitter.unfinished), 0

    async def _records(self, tracked: Tracked, splitter: Lines, *, grows: bool) -> AsyncIterator[Event]:
        """The records of one file, until it ends or, if it ``grows``, has been rotated."""
        last_look = not (self._config.follow and grows)
        tracked.file.seek(splitter.offset)
        while not self._ctx.stopping.is_set():
            piece = await asyncio.to_thread(tracked.file.read, _READ_BYTES)
            if piece:
                for event in self._events(tracked, splitter, piece):
                    yield event
            elif last_look:
                for event in self._events(tracked, splitter, None):
                    yield event
                return
            elif tracked.is_truncated():
                self._ctx.log.warning("%s was truncated; going on at its beginning", tracked.path)
                return
            else:
                # After a rename the writer may still write into the old file for a moment: look once more after the pause.
                last_look = tracked.is_replaced()
                await self._pause()

    def _events(self, tracked: Tracked, splitter: Lines, piece: bytes | None) -> list[Event]:
        """Events of the records that are complete with ``piece``; of the last one if it is None."""
        try:
            entries: list[Entry] = splitter.finish() if piece is None else splitter.feed(piece)
        except RecordError as error:
            line = tracked.line_of(error.start)
            raise ComponentError(error.problem, place=f"{tracked.path}:{line}") from error
        if not entries:
            return []
        base, event_type, time_ns = tracked.base, self._config.event_type, time.time_ns()
        cursor = tracked.cursor() if self._config.follow else None
        return [Event(payload, time_ns, base + end, "", "", event_type, None, cursor) for payload, end in entries]

    def _splitter(self, tracked: Tracked, offset: int) -> Lines:
        config = self._config
        if config.format == "lines":
            return Lines(offset, limit_bytes=config.max_record_bytes)
        if config.format == "json":
            return JsonLines(offset, limit_bytes=config.max_record_bytes)
        columns = config.columns
        if columns is None and offset > 0:
            columns = self._header(tracked)
        return CsvRows(
            offset, columns=columns, delimiter=config.delimiter, quoted=config.quoted, limit_bytes=config.max_record_bytes
        )

    def _header(self, tracked: Tracked) -> list[str] | None:
        """The column names of a file that is entered in the middle."""
        splitter = CsvRows(0, delimiter=self._config.delimiter, quoted=self._config.quoted)
        tracked.file.seek(0)
        for line in tracked.file:
            self._events(tracked, splitter, line)
            if splitter.columns is not None:
                break
        return splitter.columns

    async def _opened(self, path: Path) -> BinaryIO | None:
        """The file, waiting for it to appear if it is followed; None when asked to stop before."""
        waiting = False
        while not self._ctx.stopping.is_set():
            try:
                return path.open("rb")
            except FileNotFoundError:
                if not self._config.follow:
                    raise
                if not waiting:
                    self._ctx.log.info("waiting for %s to appear", path)
                waiting = True
            except OSError as error:
                raise ComponentError(f"cannot read {path}: {error.strerror}") from error
            await self._pause()
        return None

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._ctx.stopping.wait(), self._config.poll_s)
        except TimeoutError:
            return


if __name__ == "__main__":
    run(FileSource())
