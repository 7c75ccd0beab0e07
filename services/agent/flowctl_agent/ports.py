"""Ports for components where a firewall lets only some through: free ones of a range, each for one program at a time."""

import socket
from collections import deque
from collections.abc import Mapping
from typing import Final

from flowctl.errors import UserError
from flowctl_agent.drivers import RunKey

UNSEEN_S: Final = (30.0, 2.0)
"""So long a port is kept for a run that its driver does not know of: it is about to start, or has ended and was tidied away. The
second is for when there is no other port."""


class PortRange:
    """The ports ``first`` to ``last`` of this machine. ``host`` is the address on which they will be listened to."""

    def __init__(self, first: int, last: int, host: str) -> None:
        self._shown = f"{first} to {last}"
        self._ports = deque(range(first, last + 1))
        self._host = host.strip("[]")
        self._holders: dict[int, tuple[RunKey, float]] = {}

    @classmethod
    def of(cls, text: str, host: str) -> "PortRange | None":
        """Of ``first-last``; None of an empty text."""
        if not text:
            return None
        first, last = text.split("-")
        return cls(int(first), int(last), host)

    def take(self, key: RunKey, runs: Mapping[RunKey, bool], now_s: float) -> int:
        """A port for a run that is about to start: nothing listens on it now, and it is no other run's.

        ``runs`` are those that the drivers know of, and whether each lives; ``now_s`` seconds by any clock that never goes back.

        Raises:
            UserError: there is none.
        """
        for unseen_s in UNSEEN_S:
            for _ in range(len(self._ports)):
                port = self._ports[0]
                self._ports.rotate(-1)
                if not self._is_held(port, runs, now_s - unseen_s) and _is_free(self._host, port):
                    self._holders[port] = (key, now_s)
                    return port
        raise UserError(
            f"no port from {self._shown} is free on this host, and each component needs two: its data's and its health's",
            hint="widen port_range",
        )

    def _is_held(self, port: int, runs: Mapping[RunKey, bool], since_s: float) -> bool:
        """Whether it was given to a run that lives, or to one that nobody knows, after ``since_s``."""
        if port not in self._holders:
            return False
        holder, given_s = self._holders[port]
        return runs.get(holder, given_s > since_s)


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
