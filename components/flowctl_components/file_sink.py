"""Sink ``file``: writes each event as a line of JSON, once.

Configuration::

    path: out/orders.jsonl      # `{index}` stands for the replica's number and is needed with replicas
    format: json                # lines: payloads as they are, one line each
    envelope: false             # true: {id, time, type, metadata, payload} in place of the payload
    mode: append                # replace: a new run of the pipeline begins with an empty file
    rotate_bytes: 100000000     # put the file aside as <path>.1, <path>.2, … when it has reached this size
    keep: 5                     # how many files put aside to keep; all of them if absent
    fsync: true                 # false: faster, and what the system had not written yet is lost with the power

In ``json``, a payload that is JSON is written as it is; other text becomes a JSON string, other bytes ``{"base64": "…"}``.

Guarantee: an event is acknowledged when it is on disk, together with the note that it is (``.<name>.flowctl`` beside the
file), so that after kill -9 of anything the file has every event of a run once: half-written data is cut off, and events
that come again are passed over. They are known by origin, path and position; another run (``FLOWCTL_RUN``, set by the agent)
has other events. The last 131,072 events are known one by one; of older ones the sink knows the gaps (events filtered, or with
another replica), so that a late one is told from a repetition. Of more than 65,536 gaps the oldest are forgotten: an event from
there is stored and counted (``uncertain``), because it may be new.
Without ``FLOWCTL_RUN`` events of the time before a restart are not recognised: every event is there at least once.
"""

import asyncio
import os
import secrets
from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta

from flowctl.errors import ComponentError
from flowctl_components.config import Config, invalid, read_config
from flowctl_components.ledger import Ledger, LockedError, sync_directory
from flowctl_components.line import envelope_line, payload_line
from flowctl_components.seen import Stream
from flowctl_sdk import Context, Event, Sink, run

_INDEX: Final = "{index}"


class FileSinkConfig(Config, frozen=True, kw_only=True):
    """See the module."""

    path: Annotated[str, Meta(min_length=1)]
    format: Literal["json", "lines"] = "json"
    envelope: bool = False
    mode: Literal["append", "replace"] = "append"
    rotate_bytes: Annotated[int, Meta(ge=1_000)] | None = None
    keep: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    fsync: bool = True


class FileSink(Sink):
    """Writes each event as a line of JSON, once."""

    _opened: Ledger | None = None
    _file = _inode = _size = -1

    async def open(self, ctx: Context) -> None:
        """Lock the file, and cut off what a crash left of an unfinished write."""
        self._ctx = ctx
        self._config = config = read_config(ctx, FileSinkConfig)
        if config.keep is not None and config.rotate_bytes is None:
            raise invalid(ctx, "keep", "it goes with 'rotate_bytes', which is not there")
        if config.envelope and config.format == "lines":
            raise invalid(ctx, "envelope", "it goes with format json, and this is lines")
        if ctx.instance.index > 0 and _INDEX not in config.path:
            raise invalid(
                ctx, "path", "replicas cannot share a file", hint=f"put {_INDEX} into the path, for example part-{_INDEX}.jsonl"
            )
        self._path = Path.cwd() / config.path.replace(_INDEX, str(ctx.instance.index))
        if self._path.is_dir():
            raise invalid(ctx, "path", f"{self._path} is a directory")
        run_of_pipeline = os.environ.get("FLOWCTL_RUN", "")
        if config.mode == "replace" and not run_of_pipeline and "FLOWCTL_ENDPOINT" in os.environ:
            raise invalid(ctx, "mode", "'replace' needs to know when a new run begins, and FLOWCTL_RUN is not set")
        self._run = f"{ctx.instance}/{run_of_pipeline}/{_mark(ctx.state_dir)}" if run_of_pipeline else ""
        await asyncio.to_thread(self._open)

    async def write(self, events: list[Event]) -> None:
        """Append the batch, less what is in the file already; returns when that is on disk."""
        await asyncio.to_thread(self._append, events)

    async def close(self) -> None:
        """Leave a note that the file is whole."""
        if self._opened is not None:
            last = self._opened.last
            if last is not None and (last.inode, last.size) == (self._inode, self._size):
                self._opened.commit(self._run, self._inode, self._size, {}, closed=True)
            if self._file >= 0:
                os.close(self._file)
            self._opened.close()

    @property
    def _ledger(self) -> Ledger:
        if self._opened is None:
            raise RuntimeError("write() before open()")
        return self._opened

    def _open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._opened = ledger = Ledger(self._path.with_name(f".{self._path.name}.flowctl"), fsync=self._config.fsync)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except LockedError:
            raise ComponentError(f"{self._path} is being written by another sink") from None
        except OSError as error:
            raise ComponentError(f"cannot write {self._path}: {error.strerror}") from error
        status = os.fstat(self._file)
        self._inode, self._size = status.st_ino, status.st_size
        last = ledger.last
        same_run = last is not None and self._run != "" and last.run == self._run
        if last is not None and not last.closed and last.inode == self._inode and last.size < self._size:
            self._cut(last.size)
        else:
            self._end_line()
        if not same_run:
            ledger.forget()
            if self._config.mode == "replace":
                self._cut(0)
        ledger.compact(self._run, self._inode, self._size)

    def _append(self, events: list[Event]) -> None:
        fresh, stored = self._unseen(events)
        if not fresh:
            return
        data = b"".join([line + b"\n" for line in map(self._line, fresh)])
        try:
            self._write(data)
            self._ledger.commit(self._run, self._inode, self._size, stored)
            if self._config.rotate_bytes is not None and self._size >= self._config.rotate_bytes:
                self._rotate()
        except OSError as error:
            # What is written and not in the ledger would be followed by the next try's data.
            committed = self._ledger.last
            if committed is not None and committed.inode == self._inode:
                self._cut(committed.size)
            raise ComponentError(f"cannot write {self._path}: {error.strerror}") from error

    def _unseen(self, events: list[Event]) -> tuple[list[Event], dict[Stream, list[int]]]:
        """The events that are not in the file, in order, and their positions by stream."""
        seen = self._ledger.seen
        streams: dict[Stream, list[int]] = {}
        for index, event in enumerate(events):
            streams.setdefault((event.origin, event.path), []).append(index)
        stored: dict[Stream, list[int]] = {}
        kept: list[int] = []
        uncertain = seen.uncertain
        for stream, indexes in streams.items():
            positions = [events[index].position for index in indexes]
            new = seen.new(stream, positions)
            if new:
                stored[stream] = [positions[place] for place in new]
                kept.extend(indexes[place] for place in new)
        if seen.uncertain > uncertain:
            self._ctx.counter("uncertain", seen.uncertain - uncertain)
        if len(kept) == len(events):
            return events, stored
        self._ctx.counter("repeated", len(events) - len(kept))
        return [events[index] for index in sorted(kept)], stored

    def _line(self, event: Event) -> bytes:
        if self._config.envelope:
            return envelope_line(event)
        if self._config.format == "json":
            return payload_line(event.payload)
        if b"\n" in event.payload:
            raise ValueError(f"the payload of event {event.id} has a line break, which format lines cannot write")
        return event.payload

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file, view, self._size)
            view = view[written:]
            self._size += written
        if self._config.fsync:
            os.fdatasync(self._file)

    def _cut(self, size: int) -> None:
        os.ftruncate(self._file, size)
        self._size = size

    def _end_line(self) -> None:
        """What somebody else wrote stays, and does not run into our first line."""
        if self._size > 0 and os.pread(self._file, 1, self._size - 1) != b"\n":
            os.pwrite(self._file, b"\n", self._size)
            self._size += 1

    def _rotate(self) -> None:
        """Put the file aside as ``.1``, and those before it one further. Everything in it is committed."""
        aside = 1
        while self._aside(aside).exists():
            aside += 1
        for number in range(aside, 1, -1):
            self._aside(number - 1).replace(self._aside(number))
        self._path.replace(self._aside(1))
        fresh = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        os.close(self._file)
        self._file = fresh
        self._inode, self._size = os.fstat(self._file).st_ino, 0
        if self._config.fsync:
            sync_directory(self._path.parent)
        self._ledger.commit(self._run, self._inode, 0, {})
        if self._config.keep is not None:
            for number in range(self._config.keep + 1, aside + 1):
                self._aside(number).unlink(missing_ok=True)

    def _aside(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def _mark(state_dir: Path) -> str:
    """A word that is drawn once per state directory: numbers of runs begin anew where that was deleted."""
    state_dir.mkdir(parents=True, exist_ok=True)
    path = state_dir / "mark"
    if not path.exists():
        draft = path.with_name("mark.new")
        draft.write_text(secrets.token_hex(8))
        draft.replace(path)
    return path.read_text()


if __name__ == "__main__":
    run(FileSink())
