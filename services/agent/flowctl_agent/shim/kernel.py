"""What the shim asks of the kernel without the standard library's larger half. The agent asks here too."""

# Lean on purpose: contextlib, pathlib and signal would double the shim's memory and its start.
# ruff: noqa: SIM105, PTH123, PTH208

import os


class Prctl:
    """``prctl(2)`` without importing ctypes, whose Python half costs more than all the rest of this program."""

    def __init__(self) -> None:
        import _ctypes

        self._call = _ctypes.call_function
        self._address = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]  # None: this program itself

    def __call__(self, option: int, value: int) -> None:
        """Set a process attribute."""
        self._call(self._address, (option, int(value), 0, 0, 0))


class NoPrctl(Prctl):
    """Where there is no prctl: the component is killed by the agent instead when the shim is gone."""

    def __init__(self) -> None:
        pass

    def __call__(self, option: int, value: int) -> None:
        """Do nothing."""


def find_prctl() -> Prctl:
    """``prctl(2)``, or what stands in for it."""
    try:
        return Prctl()
    except (ImportError, OSError, AttributeError):
        return NoPrctl()


def close_others(first: int) -> None:
    """Close every descriptor from ``first`` on."""
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        numbers = list(range(1024))
    for fd in numbers:
        if fd >= first:
            try:
                os.close(fd)
            except OSError:
                pass


def children() -> list[int]:
    """The pids of this process's children, dead ones included."""
    me = os.getpid()
    try:
        with open(f"/proc/{me}/task/{me}/children", "rb") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def start_ticks(pid: int) -> int:
    """When the process was started, in clock ticks since boot; 0 if that cannot be known. Tells apart two with one pid."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def boot_id() -> str:
    """What names this run of the kernel, empty if that cannot be known."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""
