"""Where the hosts of a test are: network namespaces with addresses of their own, or loopback addresses of this machine.

Namespaces need root and iproute2. They hang on a bridge in a namespace of its own, so a host can be cut off as a pulled cable
would do it: nothing arrives, nothing is refused, no connection is reset.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path

import msgspec

NETS = "10.213"
"""Each run takes a free /24 of these addresses, so that several runs on one machine do not meet."""


class Place(msgspec.Struct, frozen=True):
    """One host: its name, its address, and what a command must begin with to run there."""

    name: str
    address: str
    prefix: tuple[str, ...] = ()


class Network:
    """The hosts; ``cut`` and ``heal`` work on namespaces only."""

    def __init__(self, places: list[Place], switch: str = "") -> None:
        self.places = places
        self._switch = switch

    @property
    def can_cut(self) -> bool:
        """Whether a host can be cut off."""
        return bool(self._switch)

    def cut(self, place: Place) -> None:
        """Pull the host's cable."""
        _ip("-n", self._switch, "link", "set", f"p-{place.name}", "down")

    def heal(self, place: Place) -> None:
        """Plug it in again."""
        _ip("-n", self._switch, "link", "set", f"p-{place.name}", "up")


def why_no_namespaces() -> str | None:
    """Why there can be no namespaces here; None if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2"
    probe = f"fc{os.getpid()}-probe"
    done = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "delete", probe], capture_output=True, check=False)
    return f"network namespaces cannot be made: {done.stderr.strip()}" if done.returncode else None


def loopback(count: int) -> Network:
    """Hosts on loopback addresses: all on one machine, without root."""
    return Network([Place(f"h{number}", f"127.0.1.{number}") for number in range(1, count + 1)])


@contextlib.contextmanager
def namespaces(count: int) -> Generator[Network]:
    """Hosts in namespaces, and this process attached to their switch as the operator."""
    own = f"fc{os.getpid()}"
    switch = f"{own}-sw"
    subnet = _free_subnet()
    places = [
        Place(f"h{number}", f"{subnet}.{number}", ("ip", "netns", "exec", f"{own}-h{number}")) for number in range(1, count + 1)
    ]
    made: list[str] = []
    operator = f"o{os.getpid()}"
    try:
        _ip("netns", "add", switch)
        made.append(switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for place in places:
            space = place.prefix[-1]
            _ip("netns", "add", space)
            made.append(space)
            _ip("link", "add", "eth0", "netns", space, "type", "veth", "peer", "name", f"p-{place.name}", "netns", switch)
            _ip("-n", space, "address", "add", f"{place.address}/24", "dev", "eth0")
            _plug(switch, f"p-{place.name}")
            for device in ("lo", "eth0"):
                _ip("-n", space, "link", "set", device, "up")
        _ip("link", "add", operator, "type", "veth", "peer", "name", "p-operator", "netns", switch)
        _plug(switch, "p-operator")
        _ip("address", "add", f"{subnet}.254/24", "dev", operator)
        _ip("link", "set", operator, "up")
        yield Network(places, switch)
    finally:
        subprocess.run(["ip", "link", "delete", operator], capture_output=True, check=False)
        for space in reversed(made):
            for pid in pids_in(space):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)


def _free_subnet() -> str:
    taken = subprocess.run(["ip", "-oneline", "-4", "address"], capture_output=True, text=True, check=True).stdout
    for offset in range(250):
        subnet = f"{NETS}.{1 + (os.getpid() + offset) % 250}"
        if f" {subnet}." not in taken:
            return subnet
    raise RuntimeError(f"every network of {NETS} is taken")


def pids_in(space: str) -> list[int]:
    """The processes in a namespace."""
    done = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False)
    return [int(word) for word in done.stdout.split()]


def _plug(switch: str, port: str) -> None:
    _ip("-n", switch, "link", "set", port, "master", "bridge")
    _ip("-n", switch, "link", "set", port, "up")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def on(place: Place, argv: list[str], *, environment: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a program on a host, its output into ``log``, in a session of its own."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [*place.prefix, *argv], env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
