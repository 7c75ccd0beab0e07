"""Following a container's output into the files that the agent reads, each line once, whoever restarts in between.

The engine keeps the lines with their times; where the files end, following begins again, and what has the last time already is
not written a second time. One thread follows one container.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from flowctl_agent.drivers import segments
from flowctl_agent.drivers.docker.engine import Following, Frame
from flowctl_agent.drivers.docker.recipe import time_ns
from flowctl_agent.shim.output import MAX_LINE_BYTES, REDACTED, Output, cut

log = logging.getLogger("flowctl.agent.docker")

_TAIL_BYTES: Final = 262_144
_TIME_BYTES: Final = len("2026-01-01T00:00:00.000000000Z")

Follow = Callable[[str], tuple[Following, Iterator[Frame]]]
"""Asks the engine for the output from an instant on (``seconds.nanoseconds``)."""


class Follower:
    """Follows one container in a thread of its own until its output ends, the engine goes away, or ``stop``.

    ``wrote`` is called in the loop after lines, ``ended`` at the end.
    """

    def __init__(
        self,
        directory: Path,
        follow: Follow,
        *,
        file_bytes: int,
        files: int,
        secrets: list[str],
        wrote: Callable[[], object],
        ended: Callable[[], object],
    ) -> None:
        self._directory = directory
        self._follow = follow
        self._file_bytes = file_bytes
        self._files = files
        self._secrets = [secret.encode() for secret in secrets]
        self._wrote = wrote
        self._ended = ended
        self._told = False
        self._loop = asyncio.get_running_loop()
        self._following: Following | None = None
        self._stopped = False
        self._last = b""
        self._seen: set[bytes] = set()
        self._thread = threading.Thread(target=self._run, name=f"output-{directory.parent.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Follow no more; what is not written yet is found by the next one."""
        self._stopped = True
        if self._following is not None:
            self._following.close()

    def join(self, timeout_s: float) -> None:
        """Wait for the thread; call it from another one."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            offset, names, self._last, self._seen = _resume(self._directory)
            output = Output(str(self._directory), self._file_bytes, self._files, names, offset)
            try:
                self._following, frames = self._follow(_seconds(self._last) if self._last else "")
                if self._stopped:
                    self._following.close()
                self._copy(frames, output)
            finally:
                output.sync()
                output.close()
                if self._following is not None:
                    self._following.close()
        except Exception as error:  # noqa: BLE001  # the engine is away or the container is gone: whoever listens finds out
            log.debug("the output of %s ends: %s", self._directory, error)
        finally:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._ended)

    def _copy(self, frames: Iterator[Frame], output: Output) -> None:
        parts: dict[str, tuple[bytes, bytes]] = {}
        for frame in frames:
            time, part = parts.pop(frame.stream, (frame.time, b""))
            data = part + frame.data
            if not data.endswith(b"\n") and len(data) < MAX_LINE_BYTES:
                parts[frame.stream] = time, data
                continue
            self._write(output, time, frame.stream.encode(), data)
        for stream, (time, data) in parts.items():
            self._write(output, time, stream.encode(), data)

    def _write(self, output: Output, time: bytes, stream: bytes, data: bytes) -> None:
        if len(time) != _TIME_BYTES or time < self._last or (time == self._last and stream in self._seen):
            return  # it is in the files
        text = data.removesuffix(b"\n").removesuffix(b"\r")
        for secret in self._secrets:
            text = text.replace(secret, REDACTED)
        text = text.decode("utf-8", "replace").encode()
        for piece in cut(text):
            output.write(time + b" " + stream + b" " + piece + b"\n")
        if not self._told:
            self._told = True
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._told = False
        self._wrote()


def _resume(directory: Path) -> tuple[int, list[str], bytes, set[bytes]]:
    """Where the files end, which they are, the last line's time, and the streams that have a line of that time."""
    found = segments.segments(directory)
    end: int | None = None
    last, seen = b"", set[bytes]()
    for start, path in reversed(found):
        with path.open("r+b") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
            torn = len(tail) - (tail.rfind(b"\n") + 1)
            file.truncate(size - torn)  # written when the agent was killed; it comes again
        end = start + size - torn if end is None else end
        lines = tail[: len(tail) - torn].splitlines()
        if lines:
            last = lines[-1][:_TIME_BYTES]
            seen = {line[_TIME_BYTES + 1 :].partition(b" ")[0] for line in lines if line[:_TIME_BYTES] == last}
            break
    return end or 0, [str(each) for _, each in found], last, seen


def _seconds(time: bytes) -> str:
    """The engine's way to write an instant."""
    seconds, rest = divmod(time_ns(time.decode()), 1_000_000_000)
    return f"{seconds}.{rest:09d}"
