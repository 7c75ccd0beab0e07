"""Reading a file that somebody named: bounded, and never waiting for a device or a pipe."""

import difflib
import os
import stat
import sys
from pathlib import Path
from typing import Final

from flowctl.errors import UserError
from flowctl.spec.problems import printable

_NO_WAITING: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)

_OTHER_KINDS = (
    (stat.S_ISDIR, "a directory", "name the file in it"),
    (stat.S_ISFIFO, "a pipe", "use - to read standard input"),
    (stat.S_ISSOCK, "a socket", None),
    (stat.S_ISCHR, "a device", "use - to read standard input"),
    (stat.S_ISBLK, "a device", None),
)


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file of at most ``max_bytes``.

    Raises:
        UserError: if it is missing, unreadable, too large, or a directory, pipe, socket or device.
    """
    name = printable(str(path))
    try:
        # looked at before it is opened: opening a device can already have an effect
        _refuse_other_kinds(name, path.stat().st_mode)
        descriptor = os.open(path, _NO_WAITING)
        with os.fdopen(descriptor, "rb") as file:
            _refuse_other_kinds(name, os.fstat(descriptor).st_mode)
            content = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise UserError("there is no such file", place=name, hint=_near(path)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"the file cannot be read: {reason}", place=name) from error
    return _bounded(content, name, max_bytes)


def read_stdin(max_bytes: int) -> bytes:
    """Standard input until its end, at most ``max_bytes``.

    Raises:
        UserError: if there is more, or nothing can be read.
    """
    try:
        content = sys.stdin.buffer.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise UserError(f"standard input cannot be read: {error}", place="<stdin>") from error
    return _bounded(content, "<stdin>", max_bytes)


def _bounded(content: bytes, name: str, max_bytes: int) -> bytes:
    if len(content) > max_bytes:
        raise UserError(f"the file is larger than {max_bytes:,} bytes", place=name, hint="nothing of it was read")
    return content


def _refuse_other_kinds(name: str, mode: int) -> None:
    for is_kind, kind, hint in _OTHER_KINDS:
        if is_kind(mode):
            raise UserError(f"expected a file, found {kind}", place=name, hint=hint)


def _near(path: Path) -> str | None:
    """A file of the same directory with almost that name."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry, _ in zip(entries, range(1_000), strict=False)]
    except OSError:
        return None
    near = difflib.get_close_matches(path.name[:255], names, n=1, cutoff=0.7)
    return printable(f"did you mean {path.parent / near[0]}?") if near else None
