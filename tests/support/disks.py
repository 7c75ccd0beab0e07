"""Small file systems of a test's own, to be filled: tmpfs, so root is needed."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

DISK_BYTES = 24 * 1024 * 1024
BALLAST = "ballast"


@contextlib.contextmanager
def small_disk(directory: Path, size_bytes: int = DISK_BYTES) -> Generator[Path]:
    """A file system of that size on a directory that is made for it."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def why_no_disks() -> str | None:
    """Why no file system can be mounted here; None if one can."""
    if os.geteuid() != 0:
        return "mounting a small disk needs root"
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", directory], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return f"a tmpfs cannot be mounted: {done.stderr.strip()}"
        subprocess.run(["umount", "--lazy", directory], check=True)
    return None


def fill(disk: Path) -> None:
    """Write until nothing more goes in, not even a byte."""
    with (disk / BALLAST).open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)


def make_room(disk: Path) -> None:
    """Undo it."""
    (disk / BALLAST).unlink()
