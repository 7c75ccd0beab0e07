"""A disk that can lose its power: ext4 on a loop device, shut down under its writers by ``EXT4_IOC_SHUTDOWN``.

What the file system had not sent to the device by then is gone, as after a power cut; kill -9 proves nothing, because the page
cache survives it. ``fs/ext4/ioctl.c`` of the Linux kernel: the ioctl is ``_IOR('X', 125, __u32)``, its flag 2 flushes nothing.
"""

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Final

EXT4_IOC_SHUTDOWN: Final = 0x8004587D
NO_LOG_FLUSH: Final = 2
SIZE_BYTES: Final = 256 * 1024 * 1024


class Disk:
    """An image file and the folder on which it is mounted while it has power."""

    def __init__(self, directory: Path) -> None:
        self.image = directory / "disk.img"
        self.root = directory / "disk"
        self.root.mkdir()
        with self.image.open("wb") as file:
            file.truncate(SIZE_BYTES)
        _run("mkfs.ext4", "-q", "-F", str(self.image))

    def mount(self) -> None:
        """Give it power; ext4 recovers from its own log."""
        _run("mount", "-o", "loop", str(self.image), str(self.root))

    def cut(self) -> None:
        """Take its power away, now: nothing that is not on the device gets there any more."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def unmount(self) -> None:
        """Let go of the dead file system; its writers must be gone."""
        _run("umount", str(self.root))


@contextlib.contextmanager
def disk() -> Generator[Disk]:
    """A new disk, with power."""
    with tempfile.TemporaryDirectory(prefix="flowctl-power-") as directory:
        made = Disk(Path(directory))
        made.mount()
        try:
            yield made
        finally:
            if os.path.ismount(made.root):
                made.unmount()


def why_not() -> str:
    """Why no disk can be made here; empty if one can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    for program in ("mkfs.ext4", "mount", "umount", "losetup"):
        if shutil.which(program) is None:
            return f"there is no {program} on the PATH"
    try:
        with disk() as tried:
            tried.cut()
    except (subprocess.CalledProcessError, OSError) as error:
        detail = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        return f"a loop device with ext4 cannot be mounted and shut down: {detail}"
    return ""


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True, timeout=60)
