"""An instance's counters, and those of its edges, in Prometheus's text format."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Final

from flowctl.control.v1.control_pb2 import DIRECTION_IN, DIRECTION_OUT, EdgeMetrics
from flowctl.latency import BOUNDS_S

_LABELS: Final = ("component", "peer", "direction")
_DIRECTIONS: Final[dict[int, str]] = {DIRECTION_IN: "in", DIRECTION_OUT: "out"}
_LE: Final = (*map(str, BOUNDS_S), "+Inf")

_COUNTERS: Final[dict[str, tuple[str, Callable[[EdgeMetrics], float]]]] = {
    "events_total": ("events given to (out) or received from (in) the peer", lambda edge: edge.events_total),
    "bytes_total": ("bytes of these events", lambda edge: edge.bytes_total),
    "acked_total": ("events acknowledged by (out) or to (in) the peer", lambda edge: edge.acked_total),
    "resent_total": ("events sent again after a reconnect", lambda edge: edge.resent_total),
    "dropped_total": ("events dropped because the edge was full", lambda edge: edge.dropped_total),
    "superseded_total": ("events received that the peer sends again", lambda edge: edge.superseded_total),
}
_GAUGES: Final[dict[str, tuple[str, Callable[[EdgeMetrics], float]]]] = {
    "in_flight": ("events not acknowledged", lambda edge: edge.in_flight),
    "connected": ("whether a stream is open", lambda edge: edge.connected),
    "oldest_seconds": ("how long the oldest unacknowledged event has been waiting", lambda edge: edge.oldest_seconds),
    "source_lag_seconds": ("how old the newest event was when it arrived", lambda edge: edge.source_lag_seconds),
    "credit_events": ("events that may still be sent", lambda edge: edge.credit_events),
    "credit_bytes": ("bytes that may still be sent", lambda edge: edge.credit_bytes),
}


def exposition(component: str, metrics: Mapping[str, float], edges: Sequence[EdgeMetrics]) -> bytes:
    """Everything as text; ``component`` is ``<component>.<index>``."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

    families: list[Metric] = []
    for name, value in metrics.items():
        family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        metric = family(f"flowctl_{name}", name.replace("_", " "), labels=["component"])
        metric.add_metric([component], value)
        families.append(metric)
    labelled = [([component, edge.peer, _DIRECTIONS[edge.direction]], edge) for edge in edges]
    for family, rows in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
        for name, (words, read) in rows.items():
            metric = family(f"flowctl_edge_{name}", words, labels=_LABELS)
            for labels, edge in labelled:
                metric.add_metric(labels, read(edge))
            families.append(metric)
    delivery = HistogramMetricFamily(
        "flowctl_edge_delivery_seconds", "from being given to the edge to being acknowledged", labels=_LABELS
    )
    for labels, edge in labelled:
        if edge.delivery_buckets:
            buckets = [(bound, float(total)) for bound, total in zip(_LE, accumulate(edge.delivery_buckets), strict=True)]
            delivery.add_metric(labels, buckets, edge.delivery_seconds_total)
    families.append(delivery)

    class Current:
        def collect(self) -> list[Metric]:
            return families

    registry = CollectorRegistry()
    registry.register(Current())  # pyright: ignore[reportArgumentType]
    return generate_latest(registry)
