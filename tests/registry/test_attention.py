"""How often heartbeats are wanted of those who are looked at."""

from hypothesis import given
from hypothesis import strategies as st

from flowctl.journal.heartbeats import EdgeCounters, Heartbeat, StoredBeat
from flowctl_registry.attention import LOOKING_S, SOON_S, Attention
from flowctl_registry.live import Live, Pulse, live_view
from support.stories import orders


def test_nobody_looks():
    """Without anybody who looks, heartbeats come as often as the setting says."""
    assert Attention().interval_s("orders", 10.0, now_s=100.0, instances=3) == 10.0


def test_somebody_looks():
    """Whoever is looked at says more often how it fares, for as long as somebody looks; the others do not."""
    attention = Attention()
    attention.paid("orders", 100.0)
    assert attention.interval_s("orders", 10.0, now_s=100.0 + LOOKING_S, instances=3) == SOON_S
    assert attention.interval_s("orders", 10.0, now_s=100.1 + LOOKING_S, instances=3) == 10.0
    assert attention.interval_s("invoices", 10.0, now_s=100.0, instances=3) == 10.0
    attention.paid(None, 101.0)
    assert attention.interval_s("invoices", 10.0, now_s=102.0, instances=3) == SOON_S


@given(usual_s=st.floats(0.05, 3600), instances=st.integers(0, 100_000))
def test_looking_costs_little(usual_s: float, instances: int):
    """Looking at a large fleet never makes more than some hundred heartbeats a second, and never slows them down."""
    attention = Attention()
    attention.paid(None, 0.0)
    interval_s = attention.interval_s("orders", usual_s, now_s=0.0, instances=instances)
    assert interval_s <= usual_s
    assert interval_s == usual_s or instances / interval_s <= 501


def beat(*edges: EdgeCounters) -> Heartbeat:
    """A heartbeat of ``orders.enrich.0``."""
    return Heartbeat(orders("enrich"), 1, {}, list(edges))


def edge(events: int) -> EdgeCounters:
    """An incoming edge that has carried so many events."""
    return EdgeCounters(
        peer="lines.0", direction="in", events_total=events, bytes_total=0, in_flight=0, resent_total=0, connected=True
    )


def test_an_edge_that_is_new():
    """An edge that was not there at the heartbeat before has carried all its events since then."""
    view = live_view(Pulse(4_000_000_000, beat(edge(300)), 2_000_000_000, beat()), now_ns=4_000_000_000)
    assert view.edges[0].rate == 150
    first = live_view(Pulse(4_000_000_000, beat(edge(300))), now_ns=4_000_000_000)
    assert first.edges[0].rate == 0, "one heartbeat makes no rate"


def test_everybody_who_was_heard_counts():
    """The count of instances is that of those with heartbeats."""
    live = Live()
    assert live.count == 0
    for at in (1, 2):
        live.apply(StoredBeat(seq=at, time_ns=at, beat=beat()))
    assert live.count == 1
