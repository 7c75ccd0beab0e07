"""The checker of the counters: what adds up passes, and each way of losing an event is named with its numbers."""

import msgspec
import pytest

from flowctl.api import EdgeView, GroupView, LiveView
from flowctl.conservation import SKEW_S, edges, violations


def out(events: int = 100, *, acked: int = 100, **fields: int) -> EdgeView:
    """The sending end at ``a.0``."""
    known = {"next_offset": events, "done_offset": acked, "in_flight": events - acked, "acked_total": acked, **fields}
    return end("b.0", "out", events, known)


def into(events: int = 100, *, acked: int = 100, **fields: int) -> EdgeView:
    """The receiving end at ``b.0``."""
    known = {"next_offset": events, "done_offset": acked, "in_flight": events - acked, "acked_total": acked, **fields}
    return end("a.0", "in", events, known)


def end(peer: str, direction: str, events: int, fields: dict[str, int]) -> EdgeView:
    """One end of an edge of the first sequence of offsets."""
    plain = EdgeView(
        peer=peer, direction=direction, events_total=events, bytes_total=0, in_flight=0, resent_total=0, connected=True
    )
    return msgspec.structs.replace(plain, **{"sender_incarnation": 1, "epoch": 1, **fields})


def source(edge: EdgeView, *, age_s: float = 0.0, ending: str = "completed", dropped: int = 0) -> LiveView:
    """``a.0``, whose only group is ``b``."""
    group = GroupView(
        component="b",
        offered_total=edge.events_total + dropped,
        acked_total=edge.acked_total,
        in_flight=edge.in_flight,
        dropped_total=dropped,
    )
    metrics = {"events_out_total": float(edge.events_total + dropped)}
    return LiveView(
        instance="p.a.0", incarnation=1, heartbeat_age_s=age_s, metrics=metrics, edges=[edge], groups=[group], ending=ending
    )


def sink(edge: EdgeView, *, age_s: float = 0.0, ending: str = "completed", in_hand: int = 0) -> LiveView:
    """``b.0``."""
    into, held = float(edge.events_total), float(in_hand)
    metrics = {"events_in_total": into, "processed_total": into - held, "in_hand": held}
    return LiveView(instance="p.b.0", incarnation=1, heartbeat_age_s=age_s, metrics=metrics, edges=[edge], ending=ending)


def told(*views: LiveView) -> list[str]:
    """What is wrong, in words."""
    return [violation.detail for violation in violations(views)]


def test_a_completed_pipeline_balances():
    """Everything sent, received and acknowledged: exact."""
    views = [source(out()), sink(into())]
    assert told(*views) == []
    assert [(edge.sender, edge.receiver, edge.balance) for edge in edges(views)] == [("a.0", "b.0", "balanced")]


def test_dropped_events_are_accounted_for():
    """Dropped ones are not on the edge, and are in the group's balance."""
    assert told(source(out(40, acked=40), dropped=60), sink(into(40, acked=40))) == []


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ([source(out()), sink(into(99, acked=99))], "100 acknowledged to the sender, but 99 done by the receiver"),
        ([source(out()), sink(into(101, acked=101))], "101 received, but 100 sent"),
        ([source(out(acked_total=99)), sink(into())], "100 given, but 99 acknowledged + 0 in flight + 0 superseded"),
        ([source(out()), sink(into(superseded_total=3))], "100 received, but 100 acknowledged + 0 in flight + 3 superseded"),
        ([source(out(acked=90)), sink(into(acked=90))], "completed with 10 in flight to b"),
        ([source(out()), sink(into(), in_hand=2)], "completed with 2 in hand"),
    ],
)
def test_what_does_not_add_up_is_named(views: list[LiveView], words: str):
    """One event missing or too many anywhere, with the numbers."""
    assert words in told(*views)


def test_an_instance_accounts_for_its_inputs():
    """in = processed + filtered + dead-lettered + in hand."""
    metrics = {"events_in_total": 10.0, "processed_total": 5.0, "filtered_total": 3.0, "dead_lettered_total": 1.0, "in_hand": 0.0}
    view = LiveView(instance="p.b.0", incarnation=1, heartbeat_age_s=0, metrics=metrics)
    assert told(view) == ["10 in, but 5 processed + 3 filtered + 1 dead-lettered + 0 in hand"]
    assert told(msgspec.structs.replace(view, metrics={**metrics, "in_hand": 1.0})) == []


def test_heartbeats_of_different_moments_prove_nothing_wrongly():
    """While it runs, the receiver may have said more since the sender spoke; the other way round it is a loss."""
    sent, received = out(50, acked=40), into(70, acked=60)
    running = [source(sent, age_s=3, ending=""), sink(received, ending="")]
    assert told(*running) == []
    assert edges(running)[0].balance == "open"
    late = [source(sent, ending=""), sink(received, age_s=SKEW_S, ending="")]
    assert "70 received, but 50 sent" in told(*late)


def test_offsets_of_another_sequence_are_not_compared():
    """A sender that was restarted counts from 0 again; a receiver that has not met it yet still counts the old ones."""
    assert told(source(out(5, acked=5, sender_incarnation=2)), sink(into(90, acked=90))) == []


def test_an_end_that_says_nothing_is_not_judged():
    """A component in another language may count nothing: unknown, never wrong."""
    foreign = EdgeView(peer="a.0", direction="in", events_total=0, bytes_total=0, in_flight=0, resent_total=0, connected=True)
    view = LiveView(instance="p.b.0", incarnation=1, heartbeat_age_s=0, edges=[foreign])
    assert told(view) == []
    assert edges([view])[0].balance == "unknown"
