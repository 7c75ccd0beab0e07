"""Who are an instance's neighbours?"""

from flowctl.journal.events import Aggregate, ComponentDeregistered, ComponentExited, ComponentUnassigned, PipelineScaled
from flowctl_registry.links import Group, Link, Peer, Topology, neighbours, topology_of
from support.stories import Story, orders, spec_of


def test_a_pipeline_before_anything_runs():
    """Neighbours are known from the file alone; addresses come when they register."""
    story = Story()
    story.submit()
    assert topology_of(story.fleet, "orders", "numbers") == Topology(
        (), (Group("double", (Peer(orders("double", 0), 0), Peer(orders("double", 1), 0)), "id", drop_when_full=False),)
    )
    upstreams = tuple(Link(orders("double", index), 0, "", completed=False, drop_when_full=True) for index in (0, 1))
    assert topology_of(story.fleet, "orders", "keep") == Topology(upstreams, ())


def test_addresses_follow_the_life_of_an_instance():
    """Up with its address, gone without one, completed for good."""
    story = Story()
    story.submit()
    source = orders("numbers")

    def link() -> Link:
        return topology_of(story.fleet, "orders", "double").upstreams[0]

    assignment = story.start(source, "source")
    assert link() == Link(source, 1, "", completed=False, drop_when_full=False)
    story.register(source, "source")
    assert link().address == "10.0.0.1:5000"
    story.of(source, ComponentExited(host="h1", incarnation=1, assignment=assignment, code=1))
    assert link() == Link(source, 1, "", completed=False, drop_when_full=False)
    story.start(source, "source", incarnation=2)
    story.register(source, "source", incarnation=2)
    story.of(source, ComponentDeregistered(incarnation=2, reason="completed"))
    assert link() == Link(source, 2, "", completed=True, drop_when_full=False)


def test_scaling():
    """Downstream groups follow the number that is wanted at once; a leaving upstream stays until it has ended."""
    story = Story()
    story.submit()
    leaving = orders("double", 1)
    assignment = story.start(leaving, "processor")
    story.register(leaving, "processor")
    story.tell(Aggregate.of_pipeline("orders"), PipelineScaled(component="double", replicas=1))
    story.of(leaving, ComponentUnassigned())
    assert [peer.instance.index for peer in topology_of(story.fleet, "orders", "numbers").downstreams[0].instances] == [0]
    assert [link.instance.index for link in topology_of(story.fleet, "orders", "keep").upstreams] == [0, 1]
    story.of(leaving, ComponentExited(host="h1", incarnation=1, assignment=assignment, code=0))
    assert [link.instance.index for link in topology_of(story.fleet, "orders", "keep").upstreams] == [0]
    story.tell(Aggregate.of_pipeline("orders"), PipelineScaled(component="double", replicas=3))
    assert [link.instance.index for link in topology_of(story.fleet, "orders", "keep").upstreams] == [0, 1, 2]


def test_a_component_that_the_new_revision_lacks():
    """Its running instances still know where their events come from, and nobody new sends to them."""
    story = Story()
    story.submit()
    story.start(orders("double"), "processor")
    story.submit(
        spec_of(sources=[{"id": "numbers", "command": ["n"]}], sinks=[{"id": "keep", "command": ["k"], "inputs": ["numbers"]}]),
        revision=2,
    )
    assert [link.instance for link in topology_of(story.fleet, "orders", "double").upstreams] == [orders("numbers")]
    assert [group.component for group in topology_of(story.fleet, "orders", "numbers").downstreams] == ["keep"]


def test_fan_in_fan_out_and_source_to_sink():
    """``inputs`` alone decide: a diamond, and a source that feeds the sink as well."""
    story = Story()
    story.submit(
        spec_of(
            sources=[{"id": "s", "command": ["s"]}],
            processors=[{"id": "a", "command": ["a"], "inputs": ["s"]}, {"id": "b", "command": ["b"], "inputs": ["s"]}],
            sinks=[{"id": "k", "command": ["k"], "inputs": ["a", "b", "s"]}],
        )
    )
    assert neighbours(story.fleet, "orders", "s") == ([], ["a", "b", "k"])
    assert neighbours(story.fleet, "orders", "k") == (["a", "b", "s"], [])
    assert [group.component for group in topology_of(story.fleet, "orders", "s").downstreams] == ["a", "b", "k"]
    assert [link.instance.component for link in topology_of(story.fleet, "orders", "k").upstreams] == ["a", "b", "s"]


def test_nobody_knows_a_stranger():
    """An external program has no neighbours."""
    assert topology_of(Story().fleet, "stray", "tool") == Topology()
