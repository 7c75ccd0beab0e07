"""Every writer says which entry led to what it writes, and which command it came of: `why` has nothing else to go by."""

from flowctl import api
from flowctl.decision import Decision, Rejected
from flowctl.journal.events import (
    Aggregate,
    ComponentDeregistered,
    ComponentExited,
    ComponentFailed,
    ComponentProbed,
    HostJoined,
    HostLost,
)
from flowctl.journal.log import Draft
from flowctl_agent import plan as agent
from flowctl_agent.drivers import Run, RunKey
from flowctl_agent.presence import join, reconnected
from flowctl_agent.probe import probed
from flowctl_cli.plane import signed
from flowctl_health.decide import Patience, judge
from flowctl_health.observed import Observed, Window
from flowctl_registry.decide import commit_checkpoint, deregister
from flowctl_registry.requests import Caller, Commit, Deregister
from support.stories import EPOCH_NS, SECOND_NS, Story, orders

NUMBERS = orders("numbers")
DOUBLE = orders("double")


def told(*, running: bool = True) -> tuple[Story, int]:
    """A pipeline whose source runs; the source's assignment."""
    story = Story()
    story.submit()
    assignment = story.start(NUMBERS, "source")
    if running:
        story.register(NUMBERS, "source")
    return story, assignment


def written(decision: Decision) -> list[Draft]:
    """The drafts of a decision that is no refusal."""
    assert not isinstance(decision, Rejected), decision
    return list(decision)


def ended(assignment: int, *, code: int | None = None, signal: int | None = None) -> Run:
    """How the source's program ended."""
    return Run(key=RunKey(NUMBERS, 1), assignment=assignment, state="exited", code=code, signal=signal)


def test_an_exit_came_of_the_assignment():
    """It says too how long ago the program ended, so that the time to detect is known."""
    story, assignment = told()
    [draft] = written(agent.exit_of(story.fleet, "h1", ended(assignment, signal=9), story.now_ns, 1, ended_ago_s=0.02))
    assert isinstance(draft.event, ComponentExited)
    assert (draft.causation, draft.event.ended_ago_s) == (assignment, 0.02)


def test_a_failure_came_of_the_assignment():
    """Both entries of one append."""
    story, assignment = told()
    drafts = written(agent.exit_of(story.fleet, "h1", ended(assignment, code=2), story.now_ns, 1))
    assert [type(draft.event) for draft in drafts] == [ComponentExited, ComponentFailed]
    assert {draft.causation for draft in drafts} == {assignment}


def test_a_good_bye_came_of_what_asked_for_it():
    """Of the assignment for a source that has nothing more to do, of its input's completion for who reads from it."""
    story, assignment = told()
    [draft] = written(deregister(story.fleet, Deregister(caller=Caller(NUMBERS, 1), reason="completed")))
    assert draft.causation == assignment
    completed = story.of(NUMBERS, ComponentDeregistered(incarnation=1, reason="completed"))
    story.start(DOUBLE, "processor")
    story.register(DOUBLE, "processor")
    [draft] = written(deregister(story.fleet, Deregister(caller=Caller(DOUBLE, 1), reason="completed")))
    assert draft.causation == completed


def test_a_checkpoint_came_of_the_assignment():
    """Of the one that its program was started for."""
    story, assignment = told()
    [draft] = written(commit_checkpoint(story.fleet, Commit(caller=Caller(NUMBERS, 1), position=7)))
    assert draft.causation == assignment


def test_a_judgement_came_of_the_probe_or_of_the_judgement_that_it_takes_back():
    """A failing probe makes it unhealthy, the succeeding one healthy again."""
    story, _ = told()
    observed = Observed(registry=Window(EPOCH_NS, EPOCH_NS + 10 * SECOND_NS))

    def judged() -> Draft:
        [draft] = judge(observed, story.fleet, [NUMBERS], Patience.of(30.0))
        story.of(NUMBERS, draft.event)  # type: ignore[arg-type]
        return draft

    failing = story.of(NUMBERS, ComponentProbed(incarnation=1, healthy=False, detail="500"))
    assert judged().causation == failing
    [again] = written(probed(story.fleet, RunKey(NUMBERS, 1), None))
    assert again.causation == failing
    well = story.of(NUMBERS, ComponentProbed(incarnation=1, healthy=True))
    assert judged().causation == well


def test_a_host_that_joins_again_does_so_because_it_was_given_up():
    """Another agent joins of its own accord."""
    story = Story()
    host = Aggregate.of_host("h1")
    joined = HostJoined(agent="a", address="127.0.0.1", drivers=["process"])
    story.tell(host, joined)
    lost = story.tell(host, HostLost(silence_s=31))
    [again] = written(join(story.fleet, "h1", joined))
    [other] = written(join(story.fleet, "h1", HostJoined(agent="b", address="127.0.0.1", drivers=["process"])))
    assert (again.causation, other.causation) == (lost, 0)


def test_an_absence_of_the_journal_is_told_by_the_agent_that_is_there():
    """Blinks are not worth an entry."""
    story = Story()
    story.tell(Aggregate.of_host("h1"), HostJoined(agent="a", address="127.0.0.1", drivers=["process"]))
    assert len(written(reconnected(story.fleet, "h1", "a", 12.0))) == 1
    assert reconnected(story.fleet, "h1", "b", 12.0) == []
    assert reconnected(story.fleet, "h1", "a", 0.1) == []


def test_every_command_is_signed_and_names_what_comes_of_it():
    """Reads are signed too, and start nothing that would need a name."""
    stop = signed(api.Stop(pipeline="orders"))
    assert stop.actor.startswith("cli/")
    assert len(stop.correlation) == 32
    assert signed(api.StatusRequest()).correlation == ""
    assert signed(api.Stop(pipeline="orders", actor="robot", correlation="c")) == api.Stop(
        pipeline="orders", actor="robot", correlation="c"
    )
