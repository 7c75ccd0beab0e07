"""The preview of a submission says what the planner then does, and a submission bound to it is refused once the world moved."""

from hypothesis import given, settings
from hypothesis import strategies as st

from flowctl.api import PreviewView
from flowctl.journal.events import HostJoined
from flowctl.spec.model import Pipeline, Placement
from flowctl_orchestrator.preview import moved, preview
from support.ledger import component, linear, pipeline
from support.scene import Scene


def steps(scene: Scene, wanted: Pipeline) -> list[str]:
    """Each step as a line."""
    view = preview(scene.fleet, wanted, scene.ledger.now_ns)
    assert isinstance(view, PreviewView)
    return [
        f"{step.action} {step.instance}{' on ' + step.host if step.host else ''}{' one by one' if step.rolling else ''}"
        f"{': ' + ', '.join(step.fields) if step.fields else ''}"
        for step in view.steps
    ]


def test_a_first_submission_starts_everything():
    """And says what would be waited for where no host will do."""
    scene = Scene()
    assert steps(scene, linear()) == [
        "start orders.numbers.0 on h1",
        "start orders.double.0 on h1",
        "start orders.store.0 on h1",
    ]
    nowhere = linear(placement=Placement(labels={"gpu": "true"}))
    view = preview(scene.fleet, nowhere, scene.ledger.now_ns)
    assert isinstance(view, PreviewView)
    assert view.steps[1].waiting_for == "no host matches label gpu=true"


def test_a_changed_file_says_what_becomes_of_each_instance():
    """Replaced one by one with the fields that differ, started, stopped or kept; and nothing is written or changed by asking."""
    scene = Scene()
    scene.submit(linear())
    scene.settle()
    digest = scene.fleet.digest()
    changed = pipeline(
        "orders",
        [component("numbers")],
        [component("double", "numbers", config={"factor": 3}, replicas=2)],
        [component("audit", "double")],
    )
    assert steps(scene, changed) == [
        "keep orders.numbers.0 on h1",
        "replace orders.double.0 on h1 one by one: config.factor, replicas",
        "start orders.double.1 on h1",
        "start orders.audit.0 on h1",
        "stop orders.store.0",
    ]
    assert scene.fleet.digest() == digest
    assert steps(scene, linear()) == ["keep orders.numbers.0 on h1", "keep orders.double.0 on h1", "keep orders.store.0 on h1"]


def test_the_world_moves():
    """A change of the pipeline, of an assignment or of a host makes a preview worthless."""
    scene = Scene()
    scene.submit(linear())
    scene.settle()
    seq = scene.fleet.seq
    assert moved(scene.fleet, "orders", seq) is None
    scene.scale("orders", "double", 2)
    assert "pipeline orders has changed" in str(moved(scene.fleet, "orders", seq))
    scene.settle()
    seq = scene.fleet.seq
    scene.restart("orders", "store")
    assert "orders.store.0 was assigned anew" in str(moved(scene.fleet, "orders", seq))
    scene.settle()
    seq = scene.fleet.seq
    scene.ledger.write("host/h9", HostJoined(agent="a", address="127.0.0.1", drivers=["process"]))
    assert "host h9 has changed" in str(moved(scene.fleet, "orders", seq))


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.booleans())
def test_what_was_previewed_happens(before: int, after: int, factor: bool, audited: bool):
    """Whatever is changed: exactly those instances are started, replaced and stopped that the preview named."""
    scene = Scene("h1", "h2")
    scene.submit(linear(replicas=before))
    scene.settle()
    sinks = [component("store", "double"), *([component("audit", "numbers")] if audited else [])]
    double = component("double", "numbers", config={"factor": 3} if factor else {})
    wanted = pipeline("orders", [component("numbers", replicas=after)], [double], sinks)
    view = preview(scene.fleet, wanted, scene.ledger.now_ns)
    assert isinstance(view, PreviewView)
    incarnations = {str(id_): each.incarnation for id_, each in scene.fleet.instances.items()}
    scene.submit(wanted)
    scene.settle()
    for step in view.steps:
        instance = scene.instance(step.instance)
        grown = instance.incarnation - incarnations.get(step.instance, 0)
        assert grown == {"start": 1, "replace": 1, "keep": 0, "stop": 0}[step.action]
        if step.action != "stop":
            assert instance.run_host == step.host
        else:
            assert not instance.active
