"""The pure decisions: which commands are obeyed, which change nothing, which are refused and in which words."""

from typing import Any

import pytest

from flowctl.errors import NotFoundError, RefusedError
from flowctl.journal.events import CheckpointCommitted
from flowctl.spec.model import Placement, Ports
from support.ledger import component, linear, pipeline
from support.scene import Scene, tell


def test_an_identical_submission_changes_nothing():
    """What runs exactly so already is not submitted again."""
    scene = Scene()
    assert tell(scene.submit(linear())) == ["orders submitted, revision 1 run 1"]
    assert scene.submit(linear()) == []
    scene.settle()
    assert scene.submit(linear()) == []


def test_after_a_submission_the_pipeline_is_what_its_file_says():
    """A scale that was changed since is undone by the file, which says otherwise."""
    scene = Scene()
    scene.submit(linear())
    scene.scale("orders", "double", 2)
    assert tell(scene.submit(linear())) == ["orders submitted, revision 2 run 1"]
    scene.settle()
    assert [str(each.id) for each in scene.fleet.instances_of("orders") if each.wanted] == [
        "orders.double.0",
        "orders.numbers.0",
        "orders.store.0",
    ]


def test_a_stopped_pipeline_goes_on_where_it_was():
    """The same run, with its checkpoints; the revision counts changes only."""
    scene = Scene()
    scene.submit(linear())
    scene.settle()
    scene.ledger.write(scene.instance("orders.numbers.0").id, CheckpointCommitted(incarnation=1, position=41))
    scene.stop("orders")
    scene.settle()
    assert tell(scene.submit(linear())) == ["orders submitted, revision 1 run 1"]
    checkpoint = scene.instance("orders.numbers.0").checkpoint
    assert checkpoint is not None
    assert checkpoint.position == 41


def test_fresh_begins_a_new_run():
    """``fresh`` forgets the checkpoints of a pipeline that has ended, and is refused while it lives."""
    scene = Scene()
    scene.submit(linear())
    scene.settle()
    with pytest.raises(RefusedError, match=r"orders is running: it cannot begin anew while it runs \(stop it first with"):
        scene.submit(linear(), fresh=True)
    scene.ledger.write(scene.instance("orders.numbers.0").id, CheckpointCommitted(incarnation=1, position=41))
    scene.stop("orders")
    scene.settle()
    assert tell(scene.submit(linear(), fresh=True)) == ["orders submitted, revision 1 run 2"]
    scene.ledger.write(scene.instance("orders.numbers.0").id, CheckpointCommitted(incarnation=1, position=42))
    assert scene.instance("orders.numbers.0").checkpoint is None


def test_submitting_cancels_a_stop():
    """A pipeline that is being stopped lives again when it is submitted, whatever was withdrawn already."""
    scene = Scene()
    scene.submit(linear())
    scene.settle()
    scene.stop("orders")
    scene.plan()
    assert len(scene.submit(linear())) == 1
    scene.settle()
    assert scene.status() == "running"


def test_stop_is_idempotent_and_knows_its_pipelines():
    """Stopping what is stopped, or about to be, is done already; an unknown name gets a suggestion."""
    scene = Scene()
    scene.submit(linear())
    scene.settle()
    assert len(scene.stop("orders")) == 1
    assert scene.stop("orders") == []
    scene.settle()
    assert scene.stop("orders") == []
    with pytest.raises(NotFoundError, match=r'there is no pipeline \'order\' \(did you mean "orders"\?\)'):
        scene.stop("order")


def test_restart_replaces_what_was_asked_for():
    """One instance, a component or everything gets a new assignment on the same host, and a new incarnation."""
    scene = Scene()
    scene.submit(linear(replicas=2))
    scene.settle()
    assert tell(scene.restart("orders", "numbers", 1)) == ["orders.numbers.1 assigned to h1: restart requested"]
    scene.settle()
    assert [scene.instance(f"orders.numbers.{index}").incarnation for index in (0, 1)] == [1, 2]
    assert len(scene.restart("orders")) == 4
    scene.settle()
    assert scene.status() == "running"


@pytest.mark.parametrize(
    ("component_id", "index", "says"),
    [
        ("doubel", None, r'no component \'doubel\' \(did you mean "double"\?\)'),
        ("double", 1, r"orders.double has no instance 1 \(it has 0\)"),
        ("numbers", 7, r"orders.numbers has no instance 7 \(it has 0 to 1\)"),
        (None, 1, r"index 1 of which component"),
    ],
)
def test_restart_of_what_is_not_there(component_id: str | None, index: int | None, says: str):
    """A refusal names what was asked for and what there is."""
    scene = Scene()
    scene.submit(linear(replicas=2))
    scene.settle()
    with pytest.raises(RefusedError, match=says):
        scene.restart("orders", component_id, index)


def test_commands_for_a_pipeline_that_has_ended():
    """Restart and scale need a pipeline that lives, and say how to get one."""
    scene = Scene()
    scene.submit(linear())
    scene.settle()
    scene.stop("orders")
    with pytest.raises(RefusedError, match="pipeline orders is stopping"):
        scene.restart("orders")
    scene.settle()
    with pytest.raises(RefusedError, match=r"pipeline orders is stopped \(run it again with `flowctl up`\)"):
        scene.scale("orders", "double", 2)


@pytest.mark.parametrize(
    ("component_id", "replicas", "says"),
    [
        ("double", 0, "cannot be scaled to 0: a component has at least one instance"),
        ("double", -3, "cannot be scaled to -3"),
        ("double", 1001, "at most 1000 are allowed"),
        ("store", 2, "store has fixed ports, which only one instance can have"),
        ("dubble", 2, "did you mean"),
    ],
)
def test_scales_that_are_refused(component_id: str, replicas: int, says: str):
    """A scale that cannot be is refused with the reason."""
    scene = Scene()
    fixed = component("store", "double", ports=Ports(data=9000))
    scene.submit(pipeline("orders", [component("numbers")], [component("double", "numbers")], [fixed]))
    with pytest.raises(RefusedError, match=says):
        scene.scale("orders", component_id, replicas)
    assert scene.scale("orders", "store", 1) == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"driver": "docker"}, "no host offers driver docker"),
        ({"placement": Placement(labels={"gpu": "true"})}, "no host matches label gpu=true"),
        ({"placement": Placement(host="h9")}, "host h9 has not joined"),
        ({"placement": Placement(host="h1", labels={"gpu": "true"})}, "host h1 does not match label gpu=true"),
    ],
)
def test_what_finds_no_host_says_why(fields: dict[str, Any], says: str):
    """An instance without a host is not silent: it names the condition that no host meets, and starts when one does."""
    scene = Scene("h1", "h2")
    scene.submit(linear(**fields))
    made = scene.settle()
    assert {str(id_): text for id_, text in made.waiting.items()} == {"orders.double.0": says}
    assert scene.status() == "deploying"
    if "gpu" in says and "h1" not in says:
        scene.world.join("h2", gpu="true")
        scene.settle()
        assert scene.instance("orders.double.0").run_host == "h2"
        assert scene.status() == "running"


def test_instances_are_spread():
    """The least loaded host that fits gets the next instance."""
    scene = Scene("h1", "h2", "h3")
    scene.submit(linear(replicas=7))
    scene.plan()
    hosts = [each.assignment.host for each in scene.fleet.instances_of("orders") if each.assignment is not None]
    assert sorted(hosts.count(name) for name in ("h1", "h2", "h3")) == [3, 3, 3]
