"""The counters of one instance: for heartbeats, ``/metrics`` and the debug log."""

import logging

from flowctl.control.v1.control_pb2 import DIRECTION_IN, DIRECTION_OUT, EdgeMetrics
from flowctl_sdk.calls import Failures
from flowctl_sdk.context import Context
from flowctl_sdk.neighbours import Neighbours
from flowctl_sdk.production import Production
from flowctl_sdk.work import ProcessorWork

_log = logging.getLogger("flowctl.stream")


class Meters:
    """Reads what the parts count."""

    def __init__(self, ctx: Context, neighbours: Neighbours, failures: Failures) -> None:
        self._ctx = ctx
        self._neighbours = neighbours
        self._failures = failures
        self.production: Production | None = None
        self.work: ProcessorWork | None = None
        self._told: dict[str, int] = {}

    def metrics(self) -> dict[str, float]:
        """Every counter and gauge by name; the author's own do not hide ours."""
        outboxes = self._neighbours.router.outboxes()
        emitter = self.production or self.work
        return {
            **self._ctx.counters,
            "events_in_total": self._neighbours.inbox.events_total,
            "events_out_total": emitter.out_total if emitter else 0,
            "filtered_total": self.work.filtered_total if self.work else 0,
            "errors_total": self._failures.total,
            "dropped_total": sum(outbox.dropped_total for _, outbox in outboxes),
            "resent_total": sum(outbox.resent_total for _, outbox in outboxes),
            "in_flight": self._neighbours.in_flight,
        }

    def edges(self) -> list[EdgeMetrics]:
        """The counters of each connection."""
        outgoing = [
            EdgeMetrics(
                peer=f"{component}.{index}",
                direction=DIRECTION_OUT,
                events_total=outbox.events_total,
                bytes_total=outbox.bytes_total,
                in_flight=outbox.events,
                resent_total=outbox.resent_total,
                connected=outbox.connected,
            )
            for (component, index), outbox in self._neighbours.router.outboxes()
        ]
        incoming = [
            EdgeMetrics(
                peer=edge.name,
                direction=DIRECTION_IN,
                events_total=edge.events_total,
                bytes_total=edge.bytes_total,
                in_flight=edge.in_flight,
                connected=edge.connected,
            )
            for edge in self._neighbours.edges.values()
        ]
        return incoming + outgoing

    def summary(self) -> str:
        """The totals in one phrase."""
        names = {"events_in_total": "events in", "events_out_total": "out", "filtered_total": "filtered"}
        totals = self.metrics()
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
