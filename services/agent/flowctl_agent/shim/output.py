"""The component's output: pipes cut into lines, lines written to rotated files as ``<RFC3339Nano> <stream> <text>``."""

# Lean on purpose: contextlib, pathlib and signal would double the shim's memory and its start.
# ruff: noqa: SIM105, PTH108

import os
import select
import time

MAX_LINE_BYTES = 32_768
READ_BYTES = 262_144
PARTIAL_LINE_S = 0.5
REDACTED = b"***"


class Output:
    """The component's output on disk: ``output-<offset>.log``, the offset counting the bytes written before that file.

    ``earlier`` are the files that are there already, and ``offset`` the bytes up to their end.
    """

    def __init__(self, directory: str, file_bytes: int, files: int, earlier: "list[str] | None" = None, offset: int = 0) -> None:
        self._directory = directory
        self._file_bytes = file_bytes
        self._files = files
        self._segments: list[str] = earlier or []
        self._fd = -1
        self._size = 0
        self._offset = offset
        self._torn = False
        self._lost = 0

    def write(self, data: bytes) -> None:
        """Append whole lines; a file ends at a line's end, before it would grow beyond its size."""
        while len(data) > self._file_bytes:
            end = data.rfind(b"\n", 0, self._file_bytes) + 1 or data.find(b"\n") + 1
            self._append(data[:end])
            data = data[end:]
        if data:
            self._append(data)

    def _append(self, data: bytes) -> None:
        """A full disk loses lines, and says how many bytes once there is room; it never stops a component."""
        if self._lost:
            data = _prefix(b"stderr") + b"[flowctl] %d bytes of output were lost: the disk was full\n" % self._lost + data
        if self._torn:
            data = b"\n" + data
        view = memoryview(data)
        try:
            if self._fd < 0 or (self._size and self._size + len(data) > self._file_bytes):
                self._rotate()
            while view:
                written = os.write(self._fd, view)
                self._size += written
                view = view[written:]
        except OSError:
            self._lost += len(view)
            self._torn = len(view) < len(data)
        else:
            self._lost, self._torn = 0, False

    def _rotate(self) -> None:
        offset = self._offset + self._size
        name = f"{self._directory}/output-{offset:020d}.log"
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._offset, self._size = fd, offset, 0
        self._segments.append(name)
        while len(self._segments) > self._files:
            os.unlink(self._segments.pop(0))

    def close(self) -> None:
        """Write no more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def sync(self) -> None:
        """Let the last words survive a power failure."""
        if self._fd >= 0:
            try:
                os.fsync(self._fd)
            except OSError:
                pass


class Stream:
    """One of the component's output pipes, cut into lines. ``secrets`` in them are never written."""

    def __init__(self, fd: int, name: bytes, output: Output, secrets: list[bytes]) -> None:
        self.fd = fd
        self._name = name
        self._output = output
        self._secrets = secrets
        self.partial = b""
        self.partial_until = 0.0

    def read(self) -> bool:
        """Take what is there; False once nothing more will come."""
        try:
            chunk = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not chunk:
            return False
        data = self.partial + chunk
        for secret in self._secrets:
            if secret in data:
                data = data.replace(secret, REDACTED)
        head, end, self.partial = data.rpartition(b"\n")
        lines = head.split(b"\n") if end else []
        if len(self.partial) > MAX_LINE_BYTES:
            *pieces, self.partial = cut(self.partial)
            lines += pieces
        if self.partial:
            self.partial_until = time.monotonic() + PARTIAL_LINE_S
        self._emit(lines)
        return True

    def drain(self) -> None:
        """Take everything that is in the pipe now; every writer is dead."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while poll.poll(0) and self.read():
            pass
        self.flush()

    def flush(self) -> None:
        """Write a line that has not been ended yet."""
        if self.partial:
            partial, self.partial = self.partial, b""
            self._emit([partial])

    def _emit(self, lines: list[bytes]) -> None:
        if not lines:
            return
        prefix = _prefix(self._name)
        text = _text(prefix, lines)
        try:
            text.decode()
        except UnicodeDecodeError:  # what cannot be decoded grows when it is replaced: it is cut afterwards
            text = _text(prefix, [line.decode("utf-8", "replace").encode() for line in lines])
        self._output.write(text)


def cut(line: bytes) -> list[bytes]:
    """Pieces of at most the longest line, cut between characters."""
    pieces: list[bytes] = []
    while len(line) > MAX_LINE_BYTES:
        at = MAX_LINE_BYTES
        while at > MAX_LINE_BYTES - 4 and line[at] & 0xC0 == 0x80:
            at -= 1
        pieces.append(line[:at])
        line = line[at:]
    return [*pieces, line]


def _text(prefix: bytes, lines: "list[bytes]") -> bytes:
    """The lines as they are written, none of them longer than the longest."""
    if max(map(len, lines)) > MAX_LINE_BYTES:
        lines = [piece for line in lines for piece in cut(line)]
    text = prefix + (b"\n" + prefix).join(lines) + b"\n"
    return text.replace(b"\r\n", b"\n") if b"\r\n" in text else text


def _prefix(name: bytes) -> bytes:
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z ".encode() + name + b" "
