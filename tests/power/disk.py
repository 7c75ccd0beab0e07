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
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

EXT4_IOC_SHUTDOWN: Final = 0x8004587D
NO_LOG_FLUSH: Final = 2
SIZE_BYTES: Final = 256 * 1024 * 1024
LET_GO_S: Final = 30.0


class Disk:
    """An image file and the folder on which it is mounted while it has power.

    Whoever enters a mount namespace of its own meanwhile (a container, a host of the cluster tests) takes a copy of the mount
    with it, and a file system that is still mounted anywhere is never read from its device again: the next mount would get the
    dead one. So the folder around it is shared, that the copies go when it goes (``mount_namespaces(7)``), and letting go waits
    for the last of them.
    """

    def __init__(self, directory: Path) -> None:
        self.image = directory / "disk.img"
        self._shared = directory / "shared"
        self.root = self._shared / "disk"
        self._shared.mkdir()
        _run("mount", "--bind", str(self._shared), str(self._shared))
        _run("mount", "--make-shared", str(self._shared))
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
        """Let go of the file system, and wait until the kernel has too; its writers must be gone.

        Raises:
            TimeoutError: somebody still holds it in a mount namespace of their own.
        """
        number = self.root.stat().st_dev
        device = Path(os.path.realpath(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")).name
        _run("umount", str(self.root))
        deadline = time.monotonic() + LET_GO_S
        while Path("/sys/fs/ext4", device).exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{device} is still mounted in another namespace, {LET_GO_S:g} s after it was unmounted here")
            time.sleep(0.01)

    def discard(self) -> None:
        """Leave nothing mounted."""
        if os.path.ismount(self.root):
            self.unmount()
        _run("umount", str(self._shared))


@contextlib.contextmanager
def disk() -> Generator[Disk]:
    """A new disk, with power."""
    with tempfile.TemporaryDirectory(prefix="flowctl-power-") as directory:
        made = Disk(Path(directory))
        try:
            made.mount()
            yield made
        finally:
            made.discard()


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
