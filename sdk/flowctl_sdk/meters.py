"""The counters of one instance: for heartbeats, ``/metrics`` and the debug log."""

import logging

from flowctl.control.v1.control_pb2 import DIRECTION_IN, DIRECTION_OUT, EdgeMetrics, GroupMetrics
from flowctl_sdk.calls import Failures
from flowctl_sdk.context import Context
from flowctl_sdk.downstream import Edge
from flowctl_sdk.neighbours import Neighbours
from flowctl_sdk.outbox import Outbox
from flowctl_sdk.redrives import Redrives
from flowctl_sdk.windowed import WindowWork
from flowctl_sdk.work import ProcessorWork, SinkWork

_log = logging.getLogger("flowctl.stream")


class Meters:
    """Reads what the parts count."""

    def __init__(self, ctx: Context, neighbours: Neighbours, failures: Failures) -> None:
        self._ctx = ctx
        self._neighbours = neighbours
        self._failures = failures
        self.work: ProcessorWork | WindowWork | SinkWork | None = None
        self.redrives: Redrives | None = None
        self._told: dict[str, int] = {}

    def metrics(self) -> dict[str, float]:
        """Every counter and gauge by name; the author's own do not hide ours."""
        router, inbox, work = self._neighbours.router, self._neighbours.inbox, self.work
        return {
            **self._ctx.counters,
            "events_in_total": inbox.events_total,
            "events_out_total": router.dispatched_total,
            "filtered_total": work.filtered_total if work else 0,
            "dead_lettered_total": work.dead_lettered_total if work else 0,
            "redriven_total": self.redrives.total if self.redrives else 0,
            "processed_total": work.processed_total if work else 0,
            "in_hand": inbox.in_hand,
            "errors_total": self._failures.total,
            "dropped_total": sum(group.dropped_total for group in router.groups.values()),
            "resent_total": sum(outbox.resent_total for _, outbox in router.outboxes()),
            "in_flight": self._neighbours.in_flight,
        }

    def edges(self) -> list[EdgeMetrics]:
        """The counters of each connection."""
        router = self._neighbours.router
        outgoing = [self._out(f"{component}.{index}", outbox) for (component, index), outbox in router.outboxes()]
        return [*map(_in, self._neighbours.edges.values()), *outgoing]

    def groups(self) -> list[GroupMetrics]:
        """The counters of each downstream component."""
        return [
            GroupMetrics(
                component=component,
                offered_total=group.offered_total,
                acked_total=group.acked_total,
                in_flight=group.outstanding,
                dropped_total=group.dropped_total,
                skipped_total=group.skipped_total,
            )
            for component, group in self._neighbours.router.groups.items()
        ]

    def _out(self, peer: str, outbox: Outbox) -> EdgeMetrics:
        allowance = outbox.allowance
        return EdgeMetrics(
            peer=peer,
            direction=DIRECTION_OUT,
            events_total=outbox.events_total,
            bytes_total=outbox.bytes_total,
            in_flight=outbox.events,
            resent_total=outbox.resent_total,
            connected=outbox.connected,
            dropped_total=outbox.dropped_total,
            acked_total=outbox.acked_total,
            sender_incarnation=self._ctx.incarnation,
            epoch=outbox.epoch,
            next_offset=outbox.next_offset,
            done_offset=outbox.lowest,
            oldest_seconds=outbox.oldest_ns / 1e9,
            credit_events=allowance.events if allowance else 0,
            credit_bytes=max(0, allowance.size) if allowance else 0,
            delivery_buckets=outbox.delivery if outbox.acked_total else (),
            delivery_seconds_total=outbox.delivery_ns_total / 1e9,
        )

    def summary(self) -> str:
        """The totals in one phrase."""
        names = {"events_in_total": "events in", "events_out_total": "out", "filtered_total": "filtered"}
        totals = self.metrics()
        if totals["dead_lettered_total"]:
            names["dead_lettered_total"] = "dead letters"
        if totals["dropped_total"]:
            names["dropped_total"] = "dropped"
        return ", ".join(f"{totals[name]:.0f} {word}" for name, word in names.items())

    def narrate(self) -> None:
        """Log what has moved on each edge since the last time, and whether something holds it up."""
        for edge in self.edges():
            key = f"{edge.peer}/{edge.direction}"
            moved = edge.events_total - self._told.get(key, 0)
            if not moved:
                continue
            self._told[key] = edge.events_total
            verb, side = ("sending events", "to") if edge.direction == DIRECTION_OUT else ("received events", "from")
            left = f"{edge.in_flight} not acknowledged"
            _log.debug("%s: %d %s %s, %d in all, %s", verb, moved, side, edge.peer, edge.events_total, left)
        router = self._neighbours.router
        if router.known and router.groups and not router.ready:
            _log.debug("backpressure: waiting for room on the way to %s", ", ".join(router.waiting_for()))


def _in(edge: Edge) -> EdgeMetrics:
    events, size = edge.window.available if edge.window is not None and edge.connected else (0, 0)
    incarnation, epoch = edge.sequence
    return EdgeMetrics(
        peer=edge.name,
        direction=DIRECTION_IN,
        events_total=edge.events_total,
        bytes_total=edge.bytes_total,
        in_flight=edge.in_flight,
        connected=edge.connected,
        acked_total=edge.acked_total,
        superseded_total=edge.superseded_total,
        sender_incarnation=max(0, incarnation),
        epoch=max(0, epoch),
        next_offset=edge.next_offset,
        done_offset=edge.done_offset,
        source_lag_seconds=edge.source_lag_ns / 1e9,
        credit_events=events,
        credit_bytes=size,
    )
