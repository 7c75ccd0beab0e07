"""What happens, in order: the journal's entries of one orchestrator in a simulated fleet, told in short lines."""

from support.ledger import component, linear, pipeline
from support.scene import Scene


def test_submit_to_completion():
    """A finite pipeline is assigned, started, running, and completes by itself, sources first; then nothing is left to do."""
    scene = Scene(finite=True)
    scene.submit(linear())
    scene.plan()
    assert scene.story() == [
        "orders submitted, revision 1 run 1",
        "orders.numbers.0 assigned to h1",
        "orders.double.0 assigned to h1",
        "orders.store.0 assigned to h1",
    ]
    scene.settle(end=False)
    assert scene.status() == "running"
    assert scene.story()[-1] == "orders deploying -> running"
    scene.settle()
    story = scene.story()
    ends = [line for line in story if line.endswith("completed")]
    assert ends == [
        "orders.numbers.0 completed",
        "orders.double.0 completed",
        "orders.store.0 completed",
        "orders running -> completed",
    ]
    assert not any("assigned" in line for line in story)


def test_crash():
    """A crash degrades the pipeline, the agent restarts the program under the same assignment, and the pipeline runs again."""
    scene = Scene()
    scene.submit(linear())
    scene.settle()
    scene.story()
    scene.world.crash(scene.program("orders.double.0"))
    scene.settle()
    assert scene.story() == [
        "orders.double.0 exited",
        "orders running -> degraded",
        "orders.double.0 starting",
        "orders.double.0 started",
        "orders.double.0 registered",
        "orders degraded -> running",
    ]
    assert scene.instance("orders.double.0").restarts == 1


def test_stop_in_waves():
    """Sources end first; whoever reads from them is told to end when they are gone; the last ones make it stopped."""
    scene = Scene()
    scene.submit(linear(replicas=2))
    scene.settle()
    scene.story()
    scene.stop("orders")
    made = scene.plan()
    assert scene.story() == [
        "orders stoprequested",
        "orders running -> stopping",
        "orders.numbers.0 unassigned: the pipeline is stopped",
        "orders.numbers.1 unassigned: the pipeline is stopped",
    ]
    assert {str(id_): text for id_, text in made.waiting.items()} == {
        "orders.numbers.0": "the program to end (0 s since it was told to)",
        "orders.numbers.1": "the program to end (0 s since it was told to)",
        "orders.double.0": "numbers.0, numbers.1 to be stopped first",
        "orders.store.0": "numbers.0, numbers.1 to be stopped first",
    }
    scene.settle()
    order = [line for line in scene.story() if "unassigned" in line or line.endswith("exited") or "->" in line]
    assert order == [
        "orders.numbers.0 exited",
        "orders.numbers.1 exited",
        "orders.double.0 unassigned: the pipeline is stopped",
        "orders.double.0 exited",
        "orders.store.0 unassigned: the pipeline is stopped",
        "orders.store.0 exited",
        "orders stopping -> stopped",
    ]


def test_stop_before_anything_runs():
    """What nobody has started yet is withdrawn at once, all waves in one plan."""
    scene = Scene()
    scene.submit(linear())
    scene.plan()
    scene.stop("orders")
    scene.story()
    scene.plan()
    assert scene.story() == [
        "orders deploying -> stopping",
        "orders.numbers.0 unassigned: the pipeline is stopped",
        "orders.double.0 unassigned: the pipeline is stopped",
        "orders.store.0 unassigned: the pipeline is stopped",
        "orders stopping -> stopped",
    ]


def test_scale_up_and_down():
    """New instances are assigned; surplus ones, the highest indexes, are withdrawn; the others are left alone."""
    scene = Scene()
    scene.submit(linear())
    scene.settle()
    scene.story()
    scene.scale("orders", "double", 3)
    scene.plan()
    assert scene.story() == [
        "orders scaled double to 3",
        "orders.double.1 assigned to h1",
        "orders.double.2 assigned to h1",
        "orders running -> degraded",
    ]
    scene.settle()
    scene.story()
    scene.scale("orders", "double", 1)
    scene.settle()
    assert [line for line in scene.story() if "assigned" in line or "exited" in line] == [
        "orders.double.1 unassigned: scaled down",
        "orders.double.2 unassigned: scaled down",
        "orders.double.1 exited",
        "orders.double.2 exited",
    ]
    assert scene.status() == "running"


def test_resubmit_changed():
    """A new revision replaces what changed, withdraws what is gone, starts what is new and touches nothing else."""
    scene = Scene()
    scene.submit(linear())
    scene.settle()
    scene.story()
    changed = pipeline(
        "orders",
        [component("numbers")],
        [component("double", "numbers", config={"factor": 3})],
        [component("store", "double"), component("audit", "numbers")],
    )
    scene.submit(changed)
    scene.plan()
    assert scene.story() == [
        "orders submitted, revision 2 run 1",
        "orders.double.0 assigned to h1: changed in revision 2",
        "orders.audit.0 assigned to h1",
    ]
    scene.settle()
    assert scene.status() == "running"
    assert scene.instance("orders.numbers.0").incarnation == 1
    assert scene.instance("orders.double.0").incarnation == 2
    scene.story()
    scene.submit(linear())
    scene.settle()
    assert "orders.audit.0 unassigned: not in revision 3 any more" in scene.story()
    assert scene.status() == "running"


def test_corrected_file_is_tried_at_once():
    """A failed pipeline withdraws the rest, sources first; submitting again assigns all anew and goes on from the checkpoints."""
    scene = Scene()
    scene.submit(linear())
    scene.settle()
    scene.story()
    scene.world.fail(scene.world.hosts["h1"], scene.program("orders.store.0"))
    scene.settle()
    assert scene.status() == "failed"
    assert scene.fleet.pipelines["orders"].status_reason == "store.0 failed: restarted too often"
    withdrawn = [line for line in scene.story() if "unassigned" in line]
    assert withdrawn == [
        "orders.numbers.0 unassigned: the pipeline has failed",
        "orders.double.0 unassigned: the pipeline has failed",
        "orders.store.0 unassigned: the pipeline has failed",
    ]
    assert not any(instance.drain for instance in scene.fleet.instances.values()), "nobody is left to drain to"
    scene.submit(linear(config={"fixed": True}))
    scene.settle()
    assert scene.status() == "running"
    assert scene.fleet.pipelines["orders"].run == 1
    assert all(instance.drain for instance in scene.fleet.instances.values())


def test_host_lost_and_recovered():
    """A lost host's instances go to another; the higher incarnation counts; on its return the old programs are ended."""
    scene = Scene("h1", "h2")
    scene.submit(linear())
    scene.settle()
    assert scene.instance("orders.double.0").run_host == "h2"
    scene.story()
    scene.world.lose("h2")
    scene.plan()
    assert scene.story() == [
        "h2 hostlost",
        "orders.double.0 assigned to h1: host h2 is lost",
        "orders running -> degraded",
    ]
    scene.settle()
    assert scene.status() == "running"
    assert len([p for _, p in scene.world.programs() if p.instance.component == "double"]) == 2
    scene.world.recover("h2")
    scene.settle()
    assert [p.incarnation for _, p in scene.world.programs() if p.instance.component == "double"] == [2]
    assert not any("assigned" in line for line in scene.story() if "double.0 assigned to h2" in line)


def test_what_failed_yesterday_is_tried_again_as_soon_as_it_has_a_host():
    """Submitted again while there is no host, it waits, and has not failed with the old reason."""
    scene = Scene("h1")
    scene.submit(linear())
    scene.settle()
    scene.world.fail(scene.world.hosts["h1"], scene.program("orders.store.0"))
    scene.settle()
    assert scene.status() == "failed"
    scene.world.lose("h1")
    scene.settle()
    scene.submit(linear(config={"fixed": True}))
    scene.settle()
    assert scene.status() == "deploying"
    scene.world.recover("h1")
    scene.settle()
    assert scene.status() == "running"


def test_the_only_host_is_lost_and_recovers():
    """With no other host the instances wait, and go on without a restart when it comes back."""
    scene = Scene("h1")
    scene.submit(linear())
    scene.settle()
    scene.world.lose("h1")
    made = scene.settle()
    assert {str(id_): text for id_, text in made.waiting.items()} == {
        f"orders.{name}.0": "host h1 to come back (no heartbeat for 31.0 s)" for name in ("numbers", "double", "store")
    }
    assert scene.status() == "degraded"
    scene.story()
    scene.world.recover("h1")
    scene.settle()
    assert scene.status() == "running"
    assert not any("assigned" in line or "starting" in line for line in scene.story())


def test_an_agent_that_leaves_for_a_moment_moves_nothing():
    """What an agent left behind goes on; only what is not well after a minute is taken elsewhere."""
    scene = Scene("h1", "h2")
    scene.submit(linear())
    scene.settle()
    scene.world.leave("h2")
    scene.world.crash(scene.program("orders.double.0"))
    made = scene.settle()
    assert made.waiting == {scene.instance("orders.double.0").id: "the agent of host h2 to come back"}
    assert made.next_wake_ns == scene.fleet.hosts["h2"].since_ns + 60_000_000_000
    scene.story()
    scene.ledger.advance(60)
    scene.plan()
    assert scene.story() == ["orders.double.0 assigned to h1: host h2 is left"]
    scene.settle()
    assert scene.status() == "running"


def test_a_second_run_after_completion_begins_at_the_beginning():
    """Submitting a completed pipeline is a new run: nothing counts as completed, no checkpoint is left."""
    scene = Scene(finite=True)
    scene.submit(linear())
    scene.settle()
    scene.story()
    scene.submit(linear())
    assert not any(instance.completed for instance in scene.fleet.instances.values())
    scene.settle()
    story = scene.story()
    assert story[0] == "orders submitted, revision 1 run 2"
    assert story[-1] == "orders.store.0 exited"
    assert scene.status() == "completed"
    assert [scene.instance(f"orders.{name}.0").incarnation for name in ("numbers", "double", "store")] == [2, 2, 2]


def test_stop_while_a_host_is_lost_is_not_a_lie():
    """A pipeline is stopped when everything of it is known to have ended; a lost host holds up no wave but the last word."""
    scene = Scene("h1", "h2")
    scene.submit(linear())
    scene.settle()
    scene.world.lose("h2")
    scene.stop("orders")
    made = scene.settle()
    assert scene.status() == "stopping"
    assert made.waiting == {scene.instance("orders.double.0").id: "host h2 to come back (no heartbeat for 31.0 s), to end it"}
    scene.world.recover("h2")
    scene.settle()
    assert scene.status() == "stopped"


def test_what_is_well_stays_where_its_agent_left():
    """However long the agent is away: nobody moves a program that runs, is registered and healthy."""
    scene = Scene("h1", "h2")
    scene.submit(linear())
    scene.settle()
    scene.world.leave("h2")
    scene.ledger.advance(3600)
    made = scene.settle()
    assert made.next_wake_ns is None
    assert scene.instance("orders.double.0").incarnation == 1
    assert scene.status() == "running"


def test_a_new_revision_resets_the_back_off():
    """A component that waits for its next restart is tried at once, though only another one was corrected."""
    scene = Scene()
    scene.submit(linear())
    scene.settle()
    host = scene.world.hosts["h1"]
    scene.world.crash(scene.program("orders.numbers.0"))
    scene.world.run_agents()
    assert scene.instance("orders.numbers.0").phase == "restarting"
    host.agent_up = False
    scene.story()
    scene.submit(linear(config={"fixed": True}))
    scene.plan()
    assert scene.story()[1:3] == [
        "orders.numbers.0 assigned to h1: tried again at once with revision 2",
        "orders.double.0 assigned to h1: changed in revision 2",
    ]


def test_new_work_upstream_wakes_those_who_had_completed():
    """Whoever completed because its inputs had is assigned again when an input is given work again, and so on downstream."""
    scene = Scene(finite=True)
    slow = component("slow")
    scene.submit(
        pipeline("orders", [component("numbers"), slow], [component("double", "numbers")], [component("store", "double", "slow")])
    )
    scene.settle(end=False)
    scene.world.step(scene.program("orders.numbers.0"))
    scene.world.step(scene.program("orders.double.0"))
    assert scene.instance("orders.double.0").completed
    scene.story()
    scene.scale("orders", "numbers", 2)
    scene.plan()
    assert scene.story()[:3] == [
        "orders scaled numbers to 2",
        "orders.numbers.1 assigned to h1",
        "orders.double.0 assigned to h1: numbers has work again",
    ]
    scene.settle()
    assert scene.status() == "completed"
