"""What has been heard, and over which time it could have been heard. A pure fold of the heartbeat stream.

The stream is in order: once a registry's beat of 12:00:30 has been read, every heartbeat stored before it has been read too. So
silence is counted up to the newest sign of life of *any* registry and never up to a clock: a monitor that lags, a journal that
is away and a registry that is down only make the count stop. After a gap the count begins anew for everybody.
"""

from typing import Final

import msgspec
from msgspec import field

from flowctl.ids import InstanceId
from flowctl.journal.heartbeats import Heartbeat, HostBeat, ServiceBeat, StoredBeat

MAX_GAP_NS: Final = 2_500_000_000
"""In a longer gap between two signs of life of a registry (five of its beats) heartbeats of components may have been lost."""
REGISTRY: Final = "registry"


class Sign(msgspec.Struct, frozen=True, gc=False):
    """The last heartbeat of an instance: its incarnation, and the server's time of it in Unix nanoseconds."""

    incarnation: int
    time_ns: int


class Window(msgspec.Struct):
    """An unbroken time of observation in Unix nanoseconds by the server; ``since_ns`` is 0 while there is none."""

    since_ns: int = 0
    last_ns: int = 0

    @property
    def begin_ns(self) -> int:
        """The earliest time from which silence can count: the window's begin, or the end of the one before."""
        return self.since_ns or self.last_ns

    def extend(self, time_ns: int) -> None:
        """Something was heard at this time."""
        if self.since_ns == 0 or time_ns - self.last_ns > MAX_GAP_NS:
            self.since_ns = time_ns
        self.last_ns = max(self.last_ns, time_ns)

    def close(self) -> None:
        """Beats were missed: what comes next begins anew."""
        self.since_ns = 0


class Observed(msgspec.Struct):
    """The last sign of life of everybody. ``registry`` is the window for instances, ``stream`` the one for hosts."""

    registry: Window = field(default_factory=Window)
    stream: Window = field(default_factory=Window)
    instances: dict[InstanceId, Sign] = field(default_factory=dict[InstanceId, Sign])
    hosts: dict[str, int] = field(default_factory=dict[str, int])
    seq: int = 0

    def apply(self, stored: StoredBeat) -> None:
        """Fold one stored beat."""
        self._observe(stored)
        beat = stored.beat
        if isinstance(beat, Heartbeat):
            known = self.instances.get(beat.instance)
            if known is None or (beat.incarnation, stored.time_ns) > (known.incarnation, known.time_ns):
                self.instances[beat.instance] = Sign(beat.incarnation, stored.time_ns)
        elif isinstance(beat, HostBeat):
            self.hosts[beat.host] = max(stored.time_ns, self.hosts.get(beat.host, 0))

    def heard_ns(self, instance: InstanceId, incarnation: int) -> int:
        """When that incarnation was last heard, 0 if never."""
        sign = self.instances.get(instance)
        return sign.time_ns if sign is not None and sign.incarnation == incarnation else 0

    def _observe(self, stored: StoredBeat) -> None:
        """Move the windows on. Sequences say what was missed: following anew begins with the last beats of everybody."""
        if stored.seq <= self.seq and stored.time_ns <= self.stream.last_ns:
            return
        if stored.seq != self.seq + 1:
            self.registry.close()
            self.stream.close()
        self.seq = stored.seq
        self.stream.extend(stored.time_ns)
        beat = stored.beat
        if isinstance(beat, Heartbeat) or (isinstance(beat, ServiceBeat) and beat.service == REGISTRY):
            self.registry.extend(stored.time_ns)
