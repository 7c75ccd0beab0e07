"""Who may register, beat, deregister and commit, and what the journal is told of it."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl.decision import Rejected
from flowctl.ids import InstanceId
from flowctl.journal.events import (
    Aggregate,
    CheckpointCommitted,
    ComponentDeregistered,
    ComponentExited,
    ComponentRegistered,
    ComponentUnassigned,
    DeregisterReason,
    PipelineScaled,
    PipelineStatusChanged,
)
from flowctl.spec.model import Kind
from flowctl_registry.decide import admit, commit_checkpoint, deregister, register
from flowctl_registry.requests import Caller, Commit, Deregister, Register
from support.stories import Story, orders

NUMBERS = orders("numbers")
STRAY = InstanceId("stray", "tool", 0)


def registration(
    instance: InstanceId, kind: Kind = "source", *, incarnation: int = 1, boot_id: str = "boot-1", address: str = "10.0.0.1:5000"
) -> Register:
    """What a program says of itself."""
    return Register(caller=Caller(instance, incarnation), kind=kind, boot_id=boot_id, address=address)


def refusal(story: Story, request: Register) -> str | None:
    """Why it may not register; None if it may (and what is appended is then folded)."""
    decision = register(story.fleet, request)
    if isinstance(decision, Rejected):
        return decision.refusal
    for draft in decision:
        story.tell(draft.aggregate, draft.event)
    return None


@pytest.fixture
def story() -> Story:
    """Pipeline ``orders`` with ``numbers.0`` started as incarnation 1."""
    story = Story()
    story.submit()
    story.start(NUMBERS, "source")
    return story


def test_the_started_incarnation_registers(story: Story):
    """What the agent started may register; the entry names the assignment that caused it."""
    decision = register(story.fleet, registration(NUMBERS))
    assert not isinstance(decision, Rejected)
    [draft] = decision
    assert draft.event == ComponentRegistered(incarnation=1, kind="source", boot_id="boot-1", address="10.0.0.1:5000")
    assert draft.causation == story.fleet.instances[NUMBERS].run_assignment


def test_registering_again_is_no_news(story: Story):
    """The same run of the program after a lost connection: accepted, and not journalled twice; a new address is."""
    assert refusal(story, registration(NUMBERS)) is None
    assert register(story.fleet, registration(NUMBERS)) == []
    assert refusal(story, registration(NUMBERS, address="10.0.0.1:6000")) is None
    assert story.fleet.instances[NUMBERS].address == "10.0.0.1:6000"


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (registration(NUMBERS, incarnation=2), "precondition"),
        (registration(NUMBERS, "sink"), "invalid"),
        (registration(orders("nobody")), "not_found"),
        (registration(orders("numbers", 1)), "not_found"),
        (registration(orders("double", 2), "processor"), "not_found"),
        (registration(orders("double", 0), "processor"), "precondition"),
        (registration(orders("double", 0), "sink"), "invalid"),
    ],
)
def test_no_place_in_the_pipeline(story: Story, request_: Register, why: str):
    """A live pipeline takes only the instances that it has, of the right kind, and only what its agents have started."""
    assert refusal(story, request_) == why


def test_an_older_incarnation_is_superseded(story: Story):
    """The zombie learns which incarnation is in its place."""
    story.start(NUMBERS, "source", incarnation=3)
    decision = register(story.fleet, registration(NUMBERS, incarnation=2))
    assert decision == Rejected("superseded", "orders.numbers.0 is superseded by incarnation 3")


def test_another_program_with_the_same_incarnation(story: Story):
    """Of a managed instance there is one program per incarnation; of an external one the latest counts."""
    assert refusal(story, registration(NUMBERS)) is None
    assert refusal(story, registration(NUMBERS, boot_id="boot-2")) == "exists"
    assert refusal(story, registration(STRAY)) is None
    assert refusal(story, registration(STRAY, boot_id="boot-2")) is None
    found = story.fleet.instances[STRAY].registration
    assert found is not None
    assert found.event.boot_id == "boot-2"


@pytest.mark.parametrize("reason", ["completed", "stopped", "failed"])
def test_after_deregistering(story: Story, reason: DeregisterReason):
    """A late repetition of a registration cannot undo the farewell; an external program may be started anew."""
    for instance in (NUMBERS, STRAY):
        assert refusal(story, registration(instance)) is None
        story.of(instance, ComponentDeregistered(incarnation=1, reason=reason))
        assert refusal(story, registration(instance)) == "precondition"
    assert refusal(story, registration(NUMBERS, boot_id="boot-2")) == "exists"
    assert refusal(story, registration(STRAY, boot_id="boot-2")) is None


def test_after_exiting(story: Story):
    """An incarnation that was seen to exit is over."""
    story.of(NUMBERS, ComponentExited(host="h1", incarnation=1, assignment=2, code=1))
    assert refusal(story, registration(NUMBERS)) == "precondition"


def test_scaled_away_but_alive(story: Story):
    """An instance that is to go keeps its registration until it has drained."""
    instance = orders("double", 1)
    story.start(instance, "processor")
    story.tell(Aggregate.of_pipeline("orders"), PipelineScaled(component="double", replicas=1))
    story.of(instance, ComponentUnassigned())
    assert refusal(story, registration(instance, "processor")) is None
    assert admit(story.fleet, Caller(instance, 1)) is None


def test_an_ended_pipeline_binds_nobody(story: Story):
    """The name of an ended pipeline can be used by hand, with a newer incarnation than the last."""
    story.of(NUMBERS, ComponentExited(host="h1", incarnation=1, assignment=2, code=0))
    story.of(NUMBERS, ComponentUnassigned())
    story.tell(Aggregate.of_pipeline("orders"), PipelineStatusChanged(status="stopped"))
    assert refusal(story, registration(NUMBERS)) == "precondition"
    assert refusal(story, registration(NUMBERS, incarnation=2)) is None
    assert refusal(story, registration(orders("anything"))) is None


def test_admission(story: Story):
    """Only the registered, newest, not yet ended incarnation may speak."""
    assert _why(admit(story.fleet, Caller(orders("keep"), 1))) == "not_found"
    assert _why(admit(story.fleet, Caller(NUMBERS, 1))) == "not_found"
    story.register(NUMBERS, "source")
    assert admit(story.fleet, Caller(NUMBERS, 1)) is None
    assert _why(admit(story.fleet, Caller(NUMBERS, 2))) == "not_found"
    story.of(NUMBERS, ComponentDeregistered(incarnation=1, reason="stopped"))
    assert _why(admit(story.fleet, Caller(NUMBERS, 1))) == "precondition"
    story.of(NUMBERS, ComponentExited(host="h1", incarnation=1, assignment=2, code=0))
    assert _why(admit(story.fleet, Caller(NUMBERS, 1))) == "precondition"
    story.start(NUMBERS, "source", incarnation=2)
    assert _why(admit(story.fleet, Caller(NUMBERS, 1))) == "superseded"


def _why(rejected: Rejected | None) -> str | None:
    return rejected.refusal if rejected is not None else None


def test_deregistering(story: Story):
    """Once is journalled, twice is no error, twice with different reasons is."""
    story.register(NUMBERS, "source")
    completed = Deregister(caller=Caller(NUMBERS, 1), reason="completed", detail="done")
    decision = deregister(story.fleet, completed)
    assert not isinstance(decision, Rejected)
    assert [draft.event for draft in decision] == [ComponentDeregistered(incarnation=1, reason="completed", detail="done")]
    story.of(NUMBERS, decision[0].event)  # type: ignore[arg-type]
    assert deregister(story.fleet, completed) == []
    other = deregister(story.fleet, Deregister(caller=Caller(NUMBERS, 1), reason="failed"))
    assert isinstance(other, Rejected)
    assert other.refusal == "precondition"


def committed(story: Story, position: int, *, incarnation: int = 1, cursor: bytes = b"") -> str | None:
    """Commit; None if it was accepted, else why not."""
    decision = commit_checkpoint(story.fleet, Commit(caller=Caller(NUMBERS, incarnation), position=position, cursor=cursor))
    if isinstance(decision, Rejected):
        return decision.refusal
    for draft in decision:
        story.tell(draft.aggregate, draft.event)
    return None


def test_checkpoints_go_forward(story: Story):
    """Within an incarnation a position never goes back; the next incarnation may begin where it must."""
    story.register(NUMBERS, "source")
    assert committed(story, 10, cursor=b"\x00line 10") is None
    seq = story.fleet.seq
    assert committed(story, 10, cursor=b"\x00line 10") is None
    assert story.fleet.seq == seq
    assert committed(story, 9) == "invalid"
    assert committed(story, 11) is None
    story.start(NUMBERS, "source", incarnation=2)
    story.register(NUMBERS, "source", incarnation=2, boot_id="boot-2")
    assert committed(story, 12, incarnation=1) == "superseded"
    assert committed(story, 5, incarnation=2) is None
    assert committed(story, 4, incarnation=2) == "invalid"


def test_an_earlier_run_is_superseded(story: Story):
    """Once the pipeline has begun anew, what is left of the run before may say good-bye, and nothing else."""
    story.register(NUMBERS, "source")
    assert committed(story, 5) is None
    story.submit(run=2)
    assert _why(admit(story.fleet, Caller(NUMBERS, 1))) == "superseded"
    assert refusal(story, registration(NUMBERS)) == "superseded"
    assert committed(story, 6) == "superseded"
    story.assign(NUMBERS, "source")
    assert committed(story, 6) == "superseded"
    decision = deregister(story.fleet, Deregister(caller=Caller(NUMBERS, 1), reason="stopped"))
    assert not isinstance(decision, Rejected)
    assert len(decision) == 1
    story.start(NUMBERS, "source", incarnation=2)
    assert refusal(story, registration(NUMBERS, incarnation=2, boot_id="boot-2")) is None
    assert committed(story, 0, incarnation=2) is None


def test_the_cursor_is_journalled_as_base64(story: Story):
    """A cursor is opaque bytes; the journal's JSON carries them."""
    story.register(NUMBERS, "source")
    decision = commit_checkpoint(story.fleet, Commit(caller=Caller(NUMBERS, 1), position=1, cursor=b"\xff\x00"))
    assert not isinstance(decision, Rejected)
    event = decision[0].event
    assert isinstance(event, CheckpointCommitted)
    assert base64.b64decode(event.cursor) == b"\xff\x00"


def test_only_sources_commit(story: Story):
    """A sink has nothing to resume."""
    keep = orders("keep")
    story.start(keep, "sink")
    story.register(keep, "sink")
    decision = commit_checkpoint(story.fleet, Commit(caller=Caller(keep, 1), position=1))
    assert isinstance(decision, Rejected)
    assert decision.refusal == "invalid"


@given(
    st.lists(
        st.tuples(st.sampled_from(["register", "start", "exit", "deregister"]), st.integers(1, 4), st.sampled_from("ab")),
        max_size=30,
    )
)
def test_the_incarnation_never_goes_back(steps: list[tuple[str, int, str]]):
    """Whatever is asked in whatever order, what is accepted never lowers an incarnation, and asking twice appends once."""
    story = Story()
    story.submit()
    highest = 0
    for what, incarnation, boot_id in steps:
        if what == "start":
            story.start(NUMBERS, "source", incarnation=incarnation)
        elif what == "exit":
            story.of(NUMBERS, ComponentExited(host="h1", incarnation=incarnation, assignment=0, code=1))
        elif what == "deregister":
            decision = deregister(story.fleet, Deregister(caller=Caller(NUMBERS, incarnation), reason="stopped"))
            if not isinstance(decision, Rejected):
                for draft in decision:
                    story.tell(draft.aggregate, draft.event)
        else:
            request = registration(NUMBERS, incarnation=incarnation, boot_id=boot_id)
            if refusal(story, request) is None:
                assert incarnation == story.fleet.instances[NUMBERS].incarnation
                assert register(story.fleet, request) == []
        known = story.fleet.instances.get(NUMBERS)
        assert (known.incarnation if known else 0) >= highest
        highest = known.incarnation if known else 0
