"""The signs of life of instances, hosts and services, and the Protocol of their stream."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec
from msgspec import field

from flowctl.ids import InstanceId
from flowctl.journal.log import Subjects


class Heartbeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an instance said of itself. ``metrics`` are counters and gauges by name.

    ``ending`` is why it ends, in the last one of an instance that ends on purpose: its counters change no more.
    """

    instance: InstanceId
    incarnation: int
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    edges: list["EdgeCounters"] = field(default_factory=list["EdgeCounters"])
    groups: list["GroupCounters"] = field(default_factory=list["GroupCounters"])
    ending: str = ""


class EdgeCounters(msgspec.Struct, frozen=True, omit_defaults=True):
    """One end of an edge: ``peer`` is ``<component>.<index>``, ``direction`` ``in`` or ``out``; cf. ``EdgeMetrics``."""

    peer: str
    direction: str
    events_total: int = 0
    bytes_total: int = 0
    in_flight: int = 0
    resent_total: int = 0
    connected: bool = False
    dropped_total: int = 0
    acked_total: int = 0
    superseded_total: int = 0
    sender_incarnation: int = 0
    epoch: int = 0
    next_offset: int = 0
    done_offset: int = 0
    oldest_s: float = 0.0
    source_lag_s: float = 0.0
    credit_events: int = 0
    credit_bytes: int = 0
    delivery_buckets: list[int] = field(default_factory=list[int])
    delivery_s_total: float = 0.0


class GroupCounters(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a downstream component was given, over all its instances; see ``GroupMetrics`` in the contract."""

    component: str
    offered_total: int = 0
    acked_total: int = 0
    in_flight: int = 0
    dropped_total: int = 0
    skipped_total: int = 0


class HostBeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """An agent's sign of life."""

    host: str
    agent: str = ""
    instances: int = 0


class ServiceBeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """A service's sign of life: while no registry is alive, the components' silence means nothing."""

    service: str
    name: str


Beat = Heartbeat | HostBeat | ServiceBeat


class StoredBeat(msgspec.Struct, frozen=True):
    """A heartbeat with the server's time of it, Unix nanoseconds, and its sequence in the heartbeat stream."""

    seq: int
    time_ns: int
    beat: Beat


class Heartbeats(Protocol):
    """The signs of life: many, small, kept for hours."""

    async def publish(self, beats: Sequence[Beat], *, timeout_s: float | None = None) -> None:
        """Store all of them, within ``timeout_s`` if that is shorter than a request may take anyway.

        Raises:
            JournalUnavailableError: some may not have been stored.
        """
        ...

    def read(self, *, after: int = 0, since_ns: int = 0, subject: Subjects = None) -> AsyncIterator[StoredBeat]:
        """The stored beats after a sequence, or from a time (Unix nanoseconds) on, in order, up to what is there now.

        ``subject`` filters as in ``Journal.read``; the oldest beats may be gone.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...

    def follow(self) -> AsyncIterator[StoredBeat]:
        """The last stored beat of everybody, then every new one, for ever. A gap is possible; the newest is never skipped.

        Raises:
            JournalUnavailableError: the server does not answer.
        """
        ...
