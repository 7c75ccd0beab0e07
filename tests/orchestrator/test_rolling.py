"""What is well is replaced one instance at a time, each when the one before it is well: changes of a file, drained hosts."""

from support.ledger import component, linear, pipeline
from support.scene import Scene


def healthy(scene: Scene) -> int:
    """How many instances run, are registered and healthy."""
    return sum(each.run == "running" and each.status == "healthy" for each in scene.fleet.instances.values())


def step(scene: Scene) -> None:
    """Everybody acts once."""
    scene.plan()
    scene.world.run_agents()
    scene.world.run_programs(end=False)
    scene.world.check_health()


def test_a_change_replaces_healthy_replicas_one_by_one():
    """Of three healthy replicas at most one is missing at any moment, and the second goes when the first is back."""
    scene = Scene("h1", "h2")
    scene.submit(linear(replicas=1))
    changed = pipeline(
        "orders",
        [component("numbers")],
        [component("double", "numbers", replicas=3, config={"factor": 2})],
        [component("store", "double")],
    )
    scene.submit(changed)
    scene.settle()
    assert healthy(scene) == 5
    scene.story()
    again = pipeline(
        "orders",
        [component("numbers")],
        [component("double", "numbers", replicas=3, config={"factor": 3})],
        [component("store", "double")],
    )
    scene.submit(again)
    made = scene.plan()
    assert [line for line in scene.story() if "assigned" in line] == ["orders.double.0 assigned to h2: changed in revision 3"]
    waits = {str(id_): text for id_, text in made.waiting.items() if text.endswith("replaced")}
    assert waits == {f"orders.double.{index}": "double.0 to be healthy before it is replaced" for index in (1, 2)}
    least = 5
    for _ in range(40):
        step(scene)
        least = min(least, healthy(scene))
    assert least == 4, "never more than one was away"
    assert all(scene.instance(f"orders.double.{index}").incarnation == 2 for index in range(3))
    assert scene.status() == "running"


def test_what_is_not_well_is_not_waited_for():
    """A corrected file reaches broken instances at once, whatever else is being replaced."""
    scene = Scene()
    scene.submit(linear())
    scene.settle()
    scene.world.hosts["h1"].agent_up = False
    for name in ("orders.double.0", "orders.store.0"):
        scene.world.crash(scene.program(name))
    scene.world.hosts["h1"].agent_up = True
    scene.world.run_agents()
    scene.story()
    corrected = pipeline(
        "orders",
        [component("numbers", config={"n": 1})],
        [component("double", "numbers", config={"n": 1})],
        [component("store", "double", config={"n": 1})],
    )
    scene.world.hosts["h1"].agent_up = False
    scene.submit(corrected)
    scene.plan()
    assert [line for line in scene.story() if "assigned" in line] == [
        "orders.numbers.0 assigned to h1: changed in revision 2",
        "orders.double.0 assigned to h1: changed in revision 2",
        "orders.store.0 assigned to h1: changed in revision 2",
    ]


def test_a_replacement_that_is_not_well_holds_up_the_others_until_the_next_revision():
    """The roll-out stops at what does not come up; a new revision does not wait for what the one before has left."""
    scene = Scene()
    replicated = [component("double", "numbers", replicas=2, config={"factor": 2})]
    scene.submit(pipeline("orders", [component("numbers")], replicated, [component("store", "double")]))
    scene.settle()
    scene.story()
    bad = [component("double", "numbers", replicas=2, config={"factor": 3})]
    scene.submit(pipeline("orders", [component("numbers")], bad, [component("store", "double")]))
    for _ in range(10):  # the new program never registers
        scene.plan()
        scene.world.run_agents()
    assert [line for line in scene.story() if "assigned" in line] == ["orders.double.0 assigned to h1: changed in revision 2"]
    assert scene.instance("orders.double.1").incarnation == 1, "the healthy one is left alone"
    good = [component("double", "numbers", replicas=2, config={"factor": 2})]
    scene.submit(pipeline("orders", [component("numbers")], good, [component("store", "double")]))
    scene.settle()
    assert scene.instance("orders.double.1").incarnation == 1, "it never left what it went back to"
    assert scene.status() == "running"


def test_a_drained_host_is_emptied_one_by_one_and_takes_nothing():
    """Each instance moves when the one before it is well elsewhere; nothing new comes; it may come back when that is undone."""
    scene = Scene("h1", "h2")
    scene.submit(linear(replicas=2))
    scene.settle()
    on_h2 = {str(each.id) for each in scene.fleet.instances.values() if each.run_host == "h2"}
    assert len(on_h2) == 2
    scene.story()
    scene.drain("h2")
    scene.plan()
    assert len([line for line in scene.story() if "assigned to h1: host h2 is drained" in line]) == 1
    least = 4
    for _ in range(40):
        step(scene)
        least = min(least, healthy(scene))
    assert least == 3
    assert {each.run_host for each in scene.fleet.instances.values()} == {"h1"}
    scene.scale("orders", "double", 3)
    scene.settle()
    assert {each.run_host for each in scene.fleet.instances.values()} == {"h1"}
    scene.undrain("h2")
    scene.settle()
    assert {each.run_host for each in scene.fleet.instances.values()} == {"h1"}, "nothing is moved back"
    scene.scale("orders", "double", 4)
    scene.settle()
    assert scene.instance("orders.double.3").run_host == "h2"


def test_what_has_nowhere_else_to_go_stays_and_says_so():
    """Draining the only host ends nothing."""
    scene = Scene("h1")
    scene.submit(linear())
    scene.settle()
    scene.drain("h1")
    made = scene.settle()
    assert healthy(scene) == 3
    assert set(made.waiting.values()) == {"no host that would do is available: h1 is drained (it stays on h1 until then)"}


def test_an_agent_that_comes_back_is_still_drained():
    """An upgrade of a drained host does not fill it again."""
    scene = Scene("h1", "h2")
    scene.drain("h2")
    scene.world.leave("h2")
    scene.world.join("h2")
    scene.submit(linear(replicas=2))
    scene.settle()
    assert {each.run_host for each in scene.fleet.instances.values()} == {"h1"}


def test_replicas_are_spread_over_hosts():
    """Replicas of one component go to different hosts even where the load would say otherwise."""
    scene = Scene("h1", "h2", "h3")
    scene.submit(pipeline("busy", [component("a")], [component("b", "a")], [component("c", "b")]))
    scene.submit(
        pipeline("orders", [component("numbers")], [component("double", "numbers", replicas=3)], [component("s", "double")])
    )
    scene.settle()
    assert sorted(scene.instance(f"orders.double.{index}").run_host for index in range(3)) == ["h1", "h2", "h3"]
