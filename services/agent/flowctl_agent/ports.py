"""Ports for components where a firewall lets only some through: free ones of a range, none given out twice in a row."""

import socket
from collections import deque
from typing import Final

from flowctl.errors import UserError

REST: Final = 64
"""So many ports that were given out last are not given out again while there are others: their programs may not listen yet."""


class PortRange:
    """The ports ``first`` to ``last`` of this machine. ``host`` is the address on which they will be listened to."""

    def __init__(self, first: int, last: int, host: str) -> None:
        self._ports = deque(range(first, last + 1))
        self._host = host.strip("[]")
        self._resting: deque[int] = deque(maxlen=min(REST, (last - first + 1) // 2))

    @classmethod
    def of(cls, text: str, host: str) -> "PortRange | None":
        """Of ``first-last``; None of an empty text."""
        if not text:
            return None
        first, last = text.split("-")
        return cls(int(first), int(last), host)

    def take(self) -> int:
        """A port that nothing listens on now.

        Raises:
            UserError: there is none.
        """
        for _ in range(len(self._ports)):
            port = self._ports[0]
            self._ports.rotate(-1)
            if port not in self._resting and _is_free(self._host, port):
                self._resting.append(port)
                return port
        raise UserError(f"no port from {min(self._ports)} to {max(self._ports)} is free on this host", hint="widen port_range")


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
