"""Reading a run's output back from the files that the shim writes: ``output-<offset>.log``, lines of time, stream and text.

A position is a byte offset into everything that the run ever wrote, so it outlives rotation.
"""

import datetime as dt
import re
from pathlib import Path
from typing import BinaryIO, Final

from flowctl_agent.drivers import OutputChunk, OutputLine

_SEGMENT: Final = re.compile(r"\Aoutput-([0-9]+)\.log\Z")
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_TIME_LENGTH: Final = len("2026-01-01T00:00:00.000000000Z")
_MAX_LINE_BYTES: Final = 65_536
"""More than the shim writes in one line; one that is longer was written by an older one, and is read all the same."""


def segments(directory: Path) -> list[tuple[int, Path]]:
    """The files with the offsets at which they begin, in order."""
    try:
        names = [
            name for name in (entry.name for entry in directory.iterdir()) if name.startswith("output-") and name.endswith(".log")
        ]
    except OSError:
        return []
    return sorted((int(name[7:-4]), directory / name) for name in names if name[7:-4].isdecimal())


def read(directory: Path, position: int, limit_bytes: int) -> OutputChunk:
    """Whole lines from ``position`` on; what was rotated away before they were read is counted, never skipped silently."""
    lost = 0
    for start, path in segments(directory):
        if position < start:
            lost += start - position
            position = start
        try:
            with path.open("rb") as file:
                file.seek(position - start)
                data = _whole_lines(file, max(limit_bytes, _MAX_LINE_BYTES))
        except OSError:
            continue
        if data:
            return OutputChunk(_lines(data, position), position + len(data), lost)
    return OutputChunk([], position, lost)


def last_words(directory: Path, count: int, limit_bytes: int) -> list[str]:
    """The last lines on stderr, at most ``count`` of them and together ``limit_bytes``."""
    found = segments(directory)
    if not found:
        return []
    start, path = found[-1]
    try:
        size = path.stat().st_size
    except OSError:
        return []
    back = max(start, start + size - 4 * limit_bytes)
    lines = [line.text[:limit_bytes] for line in read(directory, back, 4 * limit_bytes).lines if line.stream == "stderr"]
    kept: list[str] = []
    for text in reversed(lines[-count:]):
        limit_bytes -= len(text.encode())
        if limit_bytes < 0:
            break
        kept.insert(0, text)
    return kept


def _whole_lines(file: BinaryIO, size: int) -> bytes:
    """Lines of together about ``size`` bytes; at least one if it has an end, however long it is."""
    data = file.read(size)
    if b"\n" not in data and len(data) == size:
        data += file.readline()
    return data[: data.rfind(b"\n") + 1]


def _lines(data: bytes, position: int) -> list[OutputLine]:
    lines: list[OutputLine] = []
    for raw in data.split(b"\n")[:-1]:
        line = _line(raw, position)
        if line is not None:
            lines.append(line)
        position += len(raw) + 1
    return lines


def _line(raw: bytes, position: int) -> OutputLine | None:
    """One line, or None for one that was torn by a full disk or a crash."""
    stamp = raw[:_TIME_LENGTH].decode("ascii", "replace")
    stream, _, text = raw[_TIME_LENGTH + 1 :].decode("utf-8", "replace").partition(" ")
    if stream not in ("stdout", "stderr") or not stamp.endswith("Z"):
        return None
    try:
        whole = dt.datetime.fromisoformat(stamp[:19] + "+00:00")
        time_ns = int((whole - _EPOCH).total_seconds()) * 1_000_000_000 + int(stamp[20:29])
    except ValueError:
        return None
    return OutputLine(position, stream, text, time_ns)
