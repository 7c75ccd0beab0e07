"""When is an instance or a host judged, and when is it not?"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl.ids import InstanceId
from flowctl.journal.events import (
    Aggregate,
    ComponentDeregistered,
    ComponentExited,
    ComponentProbed,
    ComponentStatusChanged,
    HostJoined,
    HostLeft,
    HostLost,
    HostRecovered,
)
from flowctl.journal.heartbeats import Beat, Heartbeat, HostBeat, ServiceBeat, StoredBeat
from flowctl_health.deadlines import Deadlines
from flowctl_health.decide import BACK, Patience, deadline_ns, judge
from flowctl_health.observed import Observed
from support.stories import EPOCH_NS, SECOND_NS, Story, orders

NUMBERS = orders("numbers")
REGISTRY = ServiceBeat("registry", "r1")
SILENCE_S = 30.0


class Scene:
    """A story and what was heard during it; ``verdicts`` are journalled as the service would."""

    def __init__(self) -> None:
        self.story = Story()
        self.observed = Observed()
        self.seq = 0

    def hear(self, at_s: float, beat: Beat = REGISTRY, *, skip: int = 0) -> None:
        """A beat is stored; ``skip`` others before it are not read."""
        self.seq += 1 + skip
        self.observed.apply(StoredBeat(self.seq, EPOCH_NS + round(at_s * SECOND_NS), beat))

    def registry(self, from_s: float, to_s: float) -> None:
        """A registry beats every half second in ``[from_s, to_s]``."""
        for half in range(round(from_s * 2), round(to_s * 2) + 1):
            self.hear(half / 2)

    def verdicts(self) -> list[str]:
        """The verdicts now, journalled a millisecond later."""
        fleet = self.story.fleet
        drafts = judge(self.observed, fleet, [*fleet.instances, *fleet.hosts], Patience.of(SILENCE_S))
        last_s = (max(self.observed.stream.last_ns, self.story.now_ns) - EPOCH_NS) / SECOND_NS
        told: list[str] = []
        for draft in drafts:
            self.story.tell(draft.aggregate, draft.event, at_s=last_s + 0.001)
            event = draft.event
            told.append(event.status if isinstance(event, ComponentStatusChanged) else type(event).__name__)
        return told


@pytest.fixture
def scene() -> Scene:
    """``orders.numbers.0`` registers at second 0 under the eyes of a registry."""
    scene = Scene()
    scene.registry(-2, 0)
    scene.story.register(NUMBERS, "source", at_s=0)
    return scene


def test_exactly_the_silence_is_not_too_long(scene: Scene):
    """Thirty seconds are allowed; anything longer is not, and the evidence says how long and since when."""
    scene.hear(0.25, Heartbeat(NUMBERS, 1))
    scene.registry(0.5, 30)
    scene.hear(30.25)
    assert scene.verdicts() == []
    scene.hear(30.2501)
    drafts = judge(scene.observed, scene.story.fleet, [NUMBERS], Patience.of(SILENCE_S))
    event = drafts[0].event
    assert isinstance(event, ComponentStatusChanged)
    assert (event.status, event.previous, event.reason) == ("unhealthy", "healthy", "no heartbeat for 30.0 s")
    assert event.last_heartbeat_ms == (EPOCH_NS + SECOND_NS // 4) // 1_000_000
    assert event.silence_s == 30.0


def test_one_change_one_verdict(scene: Scene):
    """Silence is told once, its end once, and so on for as long as it flaps."""
    at_s = 0.0
    for _ in range(3):
        scene.registry(at_s + 0.5, at_s + 31)
        assert scene.verdicts() == ["unhealthy"]
        assert scene.verdicts() == []
        scene.registry(at_s + 31.5, at_s + 40)
        assert scene.verdicts() == []
        at_s += 40.5
        scene.hear(at_s, Heartbeat(NUMBERS, 1))
        assert scene.verdicts() == ["healthy"]
        assert scene.verdicts() == []


def test_what_another_monitor_has_heard_counts(scene: Scene):
    """A monitor that reads of a recovery before it reads the heartbeat behind it does not take the recovery back."""
    scene.registry(0.5, 31)
    assert scene.verdicts() == ["unhealthy"]
    scene.registry(31.5, 40)
    recovered = ComponentStatusChanged(incarnation=1, status="healthy", previous="unhealthy", reason=BACK)
    scene.story.tell(Aggregate.of_instance(NUMBERS), recovered, at_s=39.9)
    assert scene.verdicts() == []
    scene.registry(40.5, 69.5)
    assert scene.verdicts() == []
    scene.registry(70, 70)
    assert scene.verdicts() == ["unhealthy"]


def test_registering_counts_as_a_sign_of_life(scene: Scene):
    """A program that never sends a heartbeat is found thirty seconds after it registered."""
    scene.registry(0.5, 30)
    assert scene.verdicts() == []
    scene.hear(30.5)
    assert scene.verdicts() == ["unhealthy"]


def test_no_registry_no_silence(scene: Scene):
    """Nobody is judged for a time in which no registry took heartbeats, and everybody gets a full window after it."""
    scene.registry(0.5, 20)
    for second in range(21, 100):
        scene.hear(second, ServiceBeat("health", "h1"))
        assert scene.verdicts() == []
    scene.registry(100, 130)
    assert scene.verdicts() == []
    scene.hear(130.5)
    assert scene.verdicts() == ["unhealthy"]


def test_another_registry_is_a_registry(scene: Scene):
    """One of two registries dying changes nothing: heartbeats could still arrive."""
    scene.registry(0.5, 10)
    for second in range(11, 32):
        scene.hear(second, ServiceBeat("registry", "r2"))
    assert scene.verdicts() == ["unhealthy"]


def test_missed_beats_begin_a_new_window(scene: Scene):
    """What was not read cannot be held against anybody."""
    scene.registry(0.5, 25)
    scene.hear(25.5, skip=3)
    scene.registry(26, 55.5)
    assert scene.verdicts() == []
    scene.hear(56)
    assert scene.verdicts() == ["unhealthy"]


def test_a_window_begun_anew_does_not_heal(scene: Scene):
    """Silence that was found stays found until a heartbeat comes, whatever happens to the registry meanwhile."""
    scene.registry(0.5, 31)
    assert scene.verdicts() == ["unhealthy"]
    scene.registry(60, 70)
    assert scene.verdicts() == []
    scene.hear(70.1, Heartbeat(NUMBERS, 1))
    assert scene.verdicts() == ["healthy"]


def test_following_anew_repeats_no_history(scene: Scene):
    """After a reconnection the last beats of everybody come again; they neither break the window nor move anything back."""
    scene.hear(1, Heartbeat(NUMBERS, 1))
    before = scene.observed.registry.since_ns
    scene.observed.apply(StoredBeat(2, EPOCH_NS - SECOND_NS, REGISTRY))
    scene.observed.apply(StoredBeat(scene.seq, EPOCH_NS + SECOND_NS, Heartbeat(NUMBERS, 1)))
    assert scene.observed.registry.since_ns == before
    assert scene.observed.heard_ns(NUMBERS, 1) == EPOCH_NS + SECOND_NS


def test_a_recreated_stream_begins_anew(scene: Scene):
    """Sequences that start over are not taken for old news."""
    scene.observed.apply(StoredBeat(1, EPOCH_NS + 10 * SECOND_NS, Heartbeat(NUMBERS, 1)))
    assert scene.observed.seq == 1
    assert scene.observed.registry.since_ns == EPOCH_NS + 10 * SECOND_NS


@pytest.mark.parametrize(
    "end",
    [
        ComponentDeregistered(incarnation=1, reason="completed"),
        ComponentDeregistered(incarnation=1, reason="stopped"),
        ComponentExited(host="h1", incarnation=1, assignment=0, code=1),
    ],
)
def test_the_ended_are_not_judged(scene: Scene, end: ComponentDeregistered | ComponentExited):
    """Who has said good-bye, or is known to be gone, may be silent."""
    scene.story.of(NUMBERS, end)
    scene.registry(0.5, 60)
    assert scene.verdicts() == []
    assert deadline_ns(scene.observed, scene.story.fleet, NUMBERS, Patience.of(SILENCE_S)) is None


def test_a_zombie_does_not_speak_for_its_successor(scene: Scene):
    """Heartbeats of an older incarnation are nothing to the newest one."""
    scene.story.register(NUMBERS, "source", incarnation=2, at_s=1)
    for second in range(1, 33):
        scene.hear(second, Heartbeat(NUMBERS, 1))
    assert scene.verdicts() == ["unhealthy"]
    scene.hear(33, Heartbeat(NUMBERS, 2))
    assert scene.verdicts() == ["healthy"]
    scene.hear(34, Heartbeat(NUMBERS, 1))
    assert scene.observed.heard_ns(NUMBERS, 2) == EPOCH_NS + 33 * SECOND_NS


def test_failing_probe(scene: Scene):
    """A failing probe makes unhealthy at once, with its words; its recovery makes healthy at once if heartbeats arrive."""
    scene.hear(1, Heartbeat(NUMBERS, 1))
    scene.story.of(NUMBERS, ComponentProbed(incarnation=1, healthy=False, detail="503 from /health"))
    assert scene.verdicts() == ["unhealthy"]
    assert scene.story.fleet.instances[NUMBERS].status_reason == "the probe fails: 503 from /health"
    scene.hear(2, Heartbeat(NUMBERS, 1))
    assert scene.verdicts() == []
    scene.story.of(NUMBERS, ComponentProbed(incarnation=1, healthy=True))
    assert scene.verdicts() == ["healthy"]


def test_the_reason_follows_the_cause(scene: Scene):
    """Silent, then heard again while the probe fails: still unhealthy, but no longer because of silence."""
    scene.registry(0.5, 31)
    assert scene.verdicts() == ["unhealthy"]
    scene.story.of(NUMBERS, ComponentProbed(incarnation=1, healthy=False))
    assert scene.verdicts() == []
    scene.hear(31.5, Heartbeat(NUMBERS, 1))
    assert scene.verdicts() == ["unhealthy"]
    assert scene.story.fleet.instances[NUMBERS].status_reason == "the probe fails"


def test_hosts_are_lost_and_come_back():
    """A host is lost after the same silence, whether or not a registry lives, and back with its next heartbeat."""
    scene = Scene()
    scene.story.tell(Aggregate.of_host("h1"), HostJoined(agent="a", address="10.0.0.1", drivers=["process"]), at_s=0)
    scene.hear(0, HostBeat("h1"))
    for second in range(1, 31):
        scene.hear(second, ServiceBeat("health", "m1"))
    assert scene.verdicts() == []
    scene.hear(30.5, ServiceBeat("health", "m1"))
    assert scene.verdicts() == ["HostLost"]
    assert scene.verdicts() == []
    scene.hear(31, HostBeat("h1"))
    assert scene.verdicts() == ["HostRecovered"]
    assert scene.verdicts() == []


def test_hosts_that_left_are_not_lost():
    """An agent that was stopped on purpose is not missed."""
    scene = Scene()
    host = Aggregate.of_host("h1")
    scene.story.tell(host, HostJoined(agent="a", address="10.0.0.1", drivers=["process"]), at_s=0)
    scene.story.tell(host, HostLeft(), at_s=1)
    scene.registry(0, 60)
    assert scene.verdicts() == []
    assert {HostLost, HostRecovered}.isdisjoint({type(head) for head in scene.story.fleet.hosts.values()})


@given(
    beats=st.lists(st.tuples(st.floats(0.01, 50.0), st.booleans(), st.integers(0, 2)), max_size=60),
    silence_s=st.floats(1.0, 40.0),
)
def test_never_early(beats: list[tuple[float, bool, int]], silence_s: float):
    """Whatever arrives when: who is judged has been silent for longer than allowed while a registry was heard without a gap."""
    story, observed = Story(), Observed()
    story.register(NUMBERS, "source", at_s=0)
    heard_s, registry_s, since_s, now_s, seq = 0.0, None, 0.0, 0.0, 0
    for wait_s, own, skip in beats:
        now_s = round(now_s + wait_s, 6)
        seq += 1 + skip
        if registry_s is None or skip or now_s - registry_s > 2.5:
            since_s = now_s
        registry_s = now_s
        if own:
            heard_s = now_s
        beat: Beat = Heartbeat(NUMBERS, 1) if own else REGISTRY
        observed.apply(StoredBeat(seq, EPOCH_NS + round(now_s * SECOND_NS), beat))
        counted_s = now_s - max(heard_s, since_s)
        verdict = judge(observed, story.fleet, [NUMBERS], Patience.of(silence_s))
        if abs(counted_s - silence_s) > 1e-6:
            assert bool(verdict) == (counted_s > silence_s)
        look_ns = deadline_ns(observed, story.fleet, NUMBERS, Patience.of(silence_s))
        assert look_ns is not None
        assert bool(verdict) == (look_ns < observed.registry.last_ns)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 100)), max_size=100), st.integers(0, 100))
def test_deadlines_come_due_once_and_in_order(sets: list[tuple[int, int]], now: int):
    """A key is due once, at the earliest of the times that were set for it."""
    deadlines: Deadlines[int] = Deadlines()
    earliest: dict[int, int] = {}
    for key, time_ns in sets:
        deadlines.set(key, time_ns)
        earliest[key] = min(time_ns, earliest.get(key, time_ns))
    due = deadlines.due(now)
    assert sorted(due) == sorted(key for key, time_ns in earliest.items() if time_ns < now)
    assert [earliest[key] for key in due] == sorted(earliest[key] for key in due)
    assert deadlines.due(now) == []
    assert len(deadlines) == len(earliest) - len(due)


def test_ten_thousand_are_cheap():
    """A heartbeat touches no heap; only those whose time is over are looked at."""
    deadlines: Deadlines[InstanceId] = Deadlines()
    for number in range(10_000):
        deadlines.set(InstanceId("p", f"c{number}", 0), number)
    assert len(deadlines.due(10)) == 10
    assert deadlines.next_ns() == 10


def test_hosts_may_have_less_patience_than_instances():
    """A host is lost after its own time of silence, while the instances on it still have theirs."""
    scene = Scene()
    scene.story.tell(Aggregate.of_host("h1"), HostJoined(agent="a", address="127.0.0.1", drivers=["process"]), at_s=0)
    for tenth in range(0, 70, 5):
        scene.hear(tenth / 10)
    patience = Patience.of(30.0, 5.0)
    assert deadline_ns(scene.observed, scene.story.fleet, "h1", patience) == EPOCH_NS + 5 * SECOND_NS
    drafts = judge(scene.observed, scene.story.fleet, ["h1"], patience)
    assert [type(draft.event) for draft in drafts] == [HostLost]
    assert judge(scene.observed, scene.story.fleet, ["h1"], Patience.of(30.0)) == []


def test_a_monitor_that_lags_takes_nothing_back():
    """What another one has missed is back with a beat after that, not with one before it that is still fresh to a slow reader."""
    scene = Scene()
    scene.story.start(NUMBERS, "source")
    scene.story.register(NUMBERS, "source", at_s=0)
    host = Aggregate.of_host("h1")
    scene.story.tell(host, HostJoined(agent="a", address="127.0.0.1", drivers=["process"]), at_s=0)
    for second in range(20):
        scene.hear(second)
        scene.hear(second, HostBeat("h1"))
        scene.hear(second, Heartbeat(NUMBERS, 1))
    # the other monitor has read on until second 50, this one has not
    missed = ComponentStatusChanged(
        incarnation=1, status="unhealthy", previous="healthy", reason="no heartbeat for 30.1 s", silence_s=30.1
    )
    scene.story.of(NUMBERS, missed, at_s=50)
    scene.story.tell(host, HostLost(silence_s=30.1), at_s=50)
    patience = Patience.of(30.0)
    assert judge(scene.observed, scene.story.fleet, [NUMBERS, "h1"], patience) == []
    for second in (50, 51):
        scene.hear(second)
    scene.hear(51, HostBeat("h1"))
    scene.hear(51, Heartbeat(NUMBERS, 1))
    drafts = judge(scene.observed, scene.story.fleet, [NUMBERS, "h1"], patience)
    assert [type(draft.event) for draft in drafts] == [ComponentStatusChanged, HostRecovered]
