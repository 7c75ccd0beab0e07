"""Being told when files in a directory grow: Linux' inotify through libc, so that quiet components cost nothing.

The only module that knows ctypes. Where there is no inotify, ``Inotify.open`` returns None and the caller looks now and then.
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

_IN_MODIFY: Final = 0x2
_IN_CREATE: Final = 0x100
_IN_Q_OVERFLOW: Final = 0x4000
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC
_EVENT: Final = struct.Struct("iIII")
QUIET_S: Final = 0.03
"""After an event, how long the next ones are gathered."""


class Inotify:
    """Watches the files called ``<prefix>…`` in directories.

    Calls ``listener`` with each directory that has news, or with None if all may have.
    """

    def __init__(self, fd: int, libc: ctypes.CDLL, prefix: str, listener: Callable[[Path | None], None]) -> None:
        self._fd = fd
        self._libc = libc
        self._prefix = prefix.encode()
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._paths: dict[int, Path] = {}
        self._watches: dict[Path, int] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._loop.add_reader(fd, self._readable)

    @classmethod
    def open(cls, prefix: str, listener: Callable[[Path | None], None]) -> "Inotify | None":
        """A watcher, or None where there is none to be had."""
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            fd = int(libc.inotify_init1(_FLAGS))
        except (OSError, AttributeError):
            return None
        return cls(fd, libc, prefix, listener) if fd >= 0 else None

    def add(self, directory: Path) -> bool:
        """Begin to watch; False if it cannot be done (the kernel's limit of watches)."""
        watch = int(self._libc.inotify_add_watch(self._fd, os.fsencode(directory), _IN_MODIFY | _IN_CREATE))
        if watch < 0:
            return False
        self._paths[watch] = directory
        self._watches[directory] = watch
        return True

    def remove(self, directory: Path) -> None:
        """Watch no more."""
        watch = self._watches.pop(directory, None)
        if watch is not None:
            self._paths.pop(watch, None)
            self._libc.inotify_rm_watch(self._fd, watch)

    def close(self) -> None:
        """Watch nothing any more."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, 65_536)
        except OSError:
            return
        # A component that writes all the time must not wake this process all the time.
        self._loop.remove_reader(self._fd)
        self._pause = self._loop.call_later(QUIET_S, self._resume)
        changed: set[Path] = set()
        at = 0
        while at + _EVENT.size <= len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            name = data[at : at + length]
            at += length
            if mask & _IN_Q_OVERFLOW:
                self._listener(None)
            elif name.startswith(self._prefix) and watch in self._paths:
                changed.add(self._paths[watch])
        for path in changed:
            self._listener(path)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._fd, self._readable)
