"""The last heartbeat of every instance, and its rates since the one before. Follows the heartbeats of all replicas. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec

from flowctl.api import EdgeView, GroupView, LiveView
from flowctl.fleet import Fleet
from flowctl.ids import InstanceId
from flowctl.journal.heartbeats import EdgeCounters, GroupCounters, Heartbeat, StoredBeat
from flowctl.latency import quantile

COUNTER_SUFFIX: Final = "_total"


class Pulse(msgspec.Struct, frozen=True, gc=False):
    """A heartbeat, its server time in Unix nanoseconds, and the one before of the same incarnation."""

    time_ns: int
    beat: Heartbeat
    before_ns: int = 0
    before: Heartbeat | None = None


class Live:
    """The newest pulse of everybody."""

    def __init__(self) -> None:
        self._pulses: dict[InstanceId, Pulse] = {}

    @property
    def count(self) -> int:
        """How many instances have ever been heard."""
        return len(self._pulses)

    def apply(self, stored: StoredBeat) -> None:
        """Take in one heartbeat; one that is not newer than the known one changes nothing."""
        beat = stored.beat
        if not isinstance(beat, Heartbeat):
            return
        known = self._pulses.get(beat.instance)
        if known is None or beat.incarnation > known.beat.incarnation:
            self._pulses[beat.instance] = Pulse(stored.time_ns, beat)
        elif beat.incarnation == known.beat.incarnation and stored.time_ns > known.time_ns:
            self._pulses[beat.instance] = Pulse(stored.time_ns, beat, known.time_ns, known.beat)

    def last_heartbeat_ns(self, instance: InstanceId) -> int:
        """When the instance was last heard, Unix nanoseconds by the server; 0 if it was not."""
        pulse = self._pulses.get(instance)
        return pulse.time_ns if pulse is not None else 0

    def views(self, fleet: Fleet, pipeline: str | None, now_ns: int) -> Iterator[LiveView]:
        """What the instances said last, in order of their ids; nothing of incarnations that have been replaced."""
        for instance_id in sorted(self._pulses):
            if pipeline is not None and instance_id.pipeline != pipeline:
                continue
            pulse = self._pulses[instance_id]
            instance = fleet.instances.get(instance_id)
            if instance is not None and instance.incarnation == pulse.beat.incarnation:
                yield live_view(pulse, now_ns)


def live_view(pulse: Pulse, now_ns: int) -> LiveView:
    """One pulse as it is shown. Rates are a second, of counters (``…_total``) only, and absent before the second heartbeat."""
    seconds = (pulse.time_ns - pulse.before_ns) / 1e9
    before = pulse.before.metrics if pulse.before is not None else {}
    edges_before = {(edge.peer, edge.direction): edge for edge in pulse.before.edges} if pulse.before is not None else None
    return LiveView(
        instance=str(pulse.beat.instance),
        incarnation=pulse.beat.incarnation,
        heartbeat_age_s=max(0.0, (now_ns - pulse.time_ns) / 1e9),
        metrics=pulse.beat.metrics,
        rates={
            name: max(0.0, (value - before[name]) / seconds)
            for name, value in pulse.beat.metrics.items()
            if name.endswith(COUNTER_SUFFIX) and name in before
        },
        edges=[_edge_view(edge, edges_before, seconds) for edge in pulse.beat.edges],
        groups=[_group_view(group) for group in pulse.beat.groups],
        ending=pulse.beat.ending,
    )


def _edge_view(edge: EdgeCounters, earlier: Mapping[tuple[str, str], EdgeCounters] | None, seconds: float) -> EdgeView:
    # An edge that the beat before did not have began at zero since then.
    before = earlier.get((edge.peer, edge.direction)) if earlier is not None else None
    since, bytes_since = (before.events_total, before.bytes_total) if before is not None else (0, 0)
    counts = _lately(edge.delivery_buckets, before.delivery_buckets if before is not None else ())
    return EdgeView(
        peer=edge.peer,
        direction=edge.direction,
        events_total=edge.events_total,
        bytes_total=edge.bytes_total,
        in_flight=edge.in_flight,
        resent_total=edge.resent_total,
        connected=edge.connected,
        rate=max(0.0, (edge.events_total - since) / seconds) if earlier is not None else 0.0,
        bytes_rate=max(0.0, (edge.bytes_total - bytes_since) / seconds) if earlier is not None else 0.0,
        dropped_total=edge.dropped_total,
        acked_total=edge.acked_total,
        superseded_total=edge.superseded_total,
        sender_incarnation=edge.sender_incarnation,
        epoch=edge.epoch,
        next_offset=edge.next_offset,
        done_offset=edge.done_offset,
        oldest_s=edge.oldest_s,
        source_lag_s=edge.source_lag_s,
        credit_events=edge.credit_events,
        credit_bytes=edge.credit_bytes,
        delivery_buckets=edge.delivery_buckets,
        delivery_s_total=edge.delivery_s_total,
        delivery_p50_s=_quantile(counts, 0.5),
        delivery_p99_s=_quantile(counts, 0.99),
    )


def _lately(counts: Sequence[int], before: Sequence[int]) -> Sequence[int]:
    """What was counted between two heartbeats; everything if that is nothing."""
    if len(before) != len(counts):
        return counts
    lately = [max(0, now - then) for now, then in zip(counts, before, strict=True)]
    return lately if any(lately) else counts


def _quantile(counts: Sequence[int], share: float) -> float:
    """JSON knows no infinity: -1 says that the time lies above the last bound too."""
    seconds = quantile(counts, share)
    return seconds if math.isfinite(seconds) else -1.0


def _group_view(group: GroupCounters) -> GroupView:
    return GroupView(
        component=group.component,
        offered_total=group.offered_total,
        acked_total=group.acked_total,
        in_flight=group.in_flight,
        dropped_total=group.dropped_total,
        skipped_total=group.skipped_total,
    )
