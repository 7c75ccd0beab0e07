"""What goes wrong, on purpose, while data flows: nothing is lost, nothing starts twice, and the status tells the truth."""

import json
import os
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.flowctl import Flowctl, control_plane, until
from support.pipelines import component, linear, numbers_in, pipeline, rows

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def flowctl(tmp_path: Path) -> Generator[Flowctl]:
    """A control plane of this test's own, with a short patience for silence."""
    with control_plane(tmp_path, silence_s="3", heartbeat_interval_s="1") as running:
        yield running


@pytest.mark.parametrize("victim", ["numbers", "double", "keep"])
def test_a_killed_component_is_restarted_and_nothing_is_lost(flowctl: Flowctl, tmp_path: Path, victim: str):
    """kill -9: seen within a second, restarted, re-linked; the pipeline finishes with every event."""
    out = tmp_path / "out.jsonl"
    file = flowctl.write("pipeline.yaml", linear("crash", out, count=3000, rate=800))
    flowctl.run("up", "--detach", str(file))
    until(lambda: len(rows(out)) > 200, "some events")
    name = f"crash.{victim}.0"
    killed = flowctl.instances()[name]
    killed_at = time.time()
    os.kill(int(killed["handle"]), signal.SIGKILL)
    flowctl.until_status("crash", "completed")
    assert set(numbers_in(out)) == set(range(3000))
    exits = [entry for entry in flowctl.history("crash") if entry["type"] == "ComponentExited"]
    crash = next(entry for entry in exits if entry["instance"] == name and entry["data"].get("signal") == signal.SIGKILL)
    assert crash["time_ms"] / 1000 - killed_at < 1.0
    starts = [entry for entry in flowctl.history("crash") if entry["type"] == "ComponentStarting" and entry["instance"] == name]
    assert [entry["data"]["incarnation"] for entry in starts] == [1, 2]


def test_a_component_that_keeps_crashing_fails_the_pipeline(flowctl: Flowctl, tmp_path: Path):
    """When the restart policy is spent, `up` exits 1 and says which component, how it ended and what it last said."""
    text = pipeline(
        "doomed",
        sources=[
            {
                "id": "bad",
                "command": [sys.executable, "-c", "import sys; sys.exit('no such database')"],
                "restart": {"max_attempts": 2, "backoff": {"initial_s": 0.05, "max_s": 0.1}},
            }
        ],
        sinks=[component("keep", "keep", "bad", config={"path": str(tmp_path / "out")})],
    )
    done = flowctl.run("up", str(flowctl.write("pipeline.yaml", text)), expect=1)
    said = done.stdout + done.stderr
    assert "doomed.bad.0" in said
    assert "no such database" in said


def test_nobody_waits_for_a_sink_that_has_failed(flowctl: Flowctl):
    """The source cannot be drained into a sink that has failed for good: `up` says so long before the source's time is up."""
    text = pipeline(
        "deaf",
        sources=[component("numbers", "count", config={"count": 1_000_000}, stop_timeout_s=600)],
        sinks=[component("keep", "keep", "numbers", config={"wrong": True}, restart={"policy": "never"})],
    )
    done = flowctl.run("up", str(flowctl.write("pipeline.yaml", text)), expect=1)
    assert "deaf.keep.0" in done.stdout + done.stderr


def test_a_program_that_does_not_exist_fails_at_once(flowctl: Flowctl, tmp_path: Path):
    """No restarts for what can never start; the reason names the program."""
    text = pipeline(
        "missing",
        sources=[{"id": "ghost", "command": ["/no/such/program"]}],
        sinks=[component("keep", "keep", "ghost", config={"path": str(tmp_path / "out")})],
    )
    done = flowctl.run("up", str(flowctl.write("pipeline.yaml", text)), expect=1)
    assert "/no/such/program" in done.stdout + done.stderr


def test_a_silent_component_is_unhealthy_until_it_speaks(flowctl: Flowctl, tmp_path: Path):
    """SIGSTOP: unhealthy after the silence, with the evidence; healthy again on the next heartbeat; never restarted."""
    out = tmp_path / "out.jsonl"
    file = flowctl.write("pipeline.yaml", linear("hang", out, count=1_000_000, rate=100))
    flowctl.run("up", "--detach", "--wait", str(file))
    victim = flowctl.instances()["hang.double.0"]
    os.kill(int(victim["handle"]), signal.SIGSTOP)
    until(lambda: flowctl.instances()["hang.double.0"]["status"] == "unhealthy", "unhealthy", timeout_s=20)
    assert flowctl.pipeline("hang")["status"] == "degraded"
    os.kill(int(victim["handle"]), signal.SIGCONT)
    until(lambda: flowctl.instances()["hang.double.0"]["status"] == "healthy", "healthy", timeout_s=20)
    flowctl.until_status("hang", "running")
    assert flowctl.instances()["hang.double.0"]["handle"] == victim["handle"]
    changes = [entry for entry in flowctl.history("hang") if entry["type"] == "ComponentStatusChanged"]
    found = next(entry for entry in changes if entry["data"]["status"] == "unhealthy")
    assert found["data"]["silence_s"] > 3.0
    assert found["data"]["silence_s"] < 4.5
    flowctl.run("down", "hang")
    delivered = numbers_in(out)
    assert set(delivered) == set(range(max(delivered) + 1))


def component_pids(flowctl: Flowctl) -> dict[str, str]:
    """The pid of every instance."""
    return {name: each["handle"] for name, each in flowctl.instances().items()}


def heartbeat_ages(flowctl: Flowctl) -> list[float]:
    """How long ago each instance was last heard, seconds; infinite if never by this registry."""
    return [each["live"]["heartbeat_age_s"] if each["live"] else float("inf") for each in flowctl.instances().values()]


def test_a_killed_server_is_replaced_and_adopts_what_runs(flowctl: Flowctl, tmp_path: Path):
    """kill -9 of the all-in-one server: data goes on without it; the next one takes over without starting anything twice."""
    out = tmp_path / "out.jsonl"
    file = flowctl.write("pipeline.yaml", linear("adopt", out, count=1_000_000, rate=200))
    flowctl.run("up", "--detach", "--wait", str(file))
    until(lambda: rows(out), "events")
    before = component_pids(flowctl)
    os.kill(flowctl.server["pid"], signal.SIGKILL)
    at = rows(out)[-1]["n"]
    until(lambda: rows(out)[-1]["n"] > at + 400, "data that flows without a control plane")
    flowctl.start("server")
    until(lambda: flowctl.run("status", expect=None).returncode == 0, "a server that answers")
    flowctl.until_status("adopt", "running")
    assert component_pids(flowctl) == before
    starts = [entry for entry in flowctl.history("adopt") if entry["type"] == "ComponentStarting"]
    assert len(starts) == 3
    until(lambda: all(age < 2 for age in heartbeat_ages(flowctl)), "heartbeats at the new server", timeout_s=15)
    flowctl.run("down", "adopt")
    delivered = numbers_in(out)
    assert set(delivered) == set(range(max(delivered) + 1))


def test_a_killed_nats_server_comes_back(flowctl: Flowctl, tmp_path: Path):
    """kill -9 of nats-server: data goes on, nobody is marked or restarted, the journal comes back with all its entries."""
    out = tmp_path / "out.jsonl"
    file = flowctl.write("pipeline.yaml", linear("nats", out, count=1_000_000, rate=200))
    flowctl.run("up", "--detach", "--wait", str(file))
    until(lambda: rows(out), "events")
    before, entries = component_pids(flowctl), len(flowctl.history("nats"))
    os.kill(flowctl.server["nats_pid"], signal.SIGKILL)
    at = rows(out)[-1]["n"]
    until(lambda: rows(out)[-1]["n"] > at + 400, "data that flows without a journal")
    until(lambda: flowctl.run("status", expect=None).returncode == 0, "a journal that answers")
    flowctl.until_status("nats", "running")
    assert component_pids(flowctl) == before
    assert len(flowctl.history("nats")) >= entries
    assert not [entry for entry in flowctl.history("nats") if entry["type"] == "ComponentStatusChanged"]


def test_a_killed_up_leaves_a_pipeline_that_can_be_ended(flowctl: Flowctl, tmp_path: Path):
    """kill -9 of a foreground `up`: status still shows the pipeline, down ends it, and then the server ends by itself."""
    out = tmp_path / "out.jsonl"
    file = flowctl.write("pipeline.yaml", linear("left", out, count=1_000_000, rate=200))
    up = flowctl.start("up", str(file))
    until(lambda: len(rows(out)) > 20, "some events")
    up.kill()
    up.wait()
    assert flowctl.until_status("left", "running")
    flowctl.run("down", "left")
    until(lambda: not flowctl.processes(), "the end of the server", timeout_s=30)


NATS_ALONE = Path(__file__).parent.parent / "support" / "programs" / "nats_alone.py"
SERVICES = ("registry", "health", "orchestrator", "agent")


def port_of(address: str) -> int:
    """The port of host:port."""
    return int(address.rpartition(":")[2])


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return port_of(":".join(map(str, probe.getsockname())))


def test_every_service_alone_is_killed_in_turn(tmp_path: Path):
    """Separate services on one NATS server, each killed with -9 while data flows and started again."""
    registry = f"127.0.0.1:{free_port()}"
    with control_plane(tmp_path, silence_s="5", heartbeat_interval_s="1", registry=registry, registry_listen=registry) as flowctl:
        nats = flowctl.start(program=[sys.executable, str(NATS_ALONE), str(flowctl.state / "nats")])
        assert nats.stdout is not None
        flowctl.environment["FLOWCTL_NATS_URL"] = nats.stdout.readline().strip()
        flowctl.environment["FLOWCTL_NATS_ASSUME_SYNCED"] = "true"
        running = {name: flowctl.start(program=[sys.executable, "-m", f"flowctl_{name}"]) for name in SERVICES}
        until(lambda: flowctl.run("doctor", expect=None).returncode == 0, "all services ready", timeout_s=30)
        out = tmp_path / "out.jsonl"
        file = flowctl.write("pipeline.yaml", linear("turns", out, count=1_000_000, rate=200))
        flowctl.run("up", "--detach", "--wait", str(file))
        before = component_pids(flowctl)
        for name in SERVICES:
            running[name].kill()
            running[name].communicate()
            at = rows(out)[-1]["n"] if rows(out) else 0
            until(lambda at=at: rows(out) and rows(out)[-1]["n"] > at + 200, f"data that flows without the {name}")
            running[name] = flowctl.start(program=[sys.executable, "-m", f"flowctl_{name}"])
            until(lambda: flowctl.run("doctor", expect=None).returncode == 0, f"the {name} back", timeout_s=30)
            flowctl.until_status("turns", "running")
            assert component_pids(flowctl) == before, f"killing the {name} started something anew"
        flowctl.run("down", "turns")
        delivered = numbers_in(out)
        assert set(delivered) == set(range(max(delivered) + 1))
        starts = [entry for entry in flowctl.history("turns") if entry["type"] == "ComponentStarting"]
        assert len(starts) == 3
        for name in SERVICES:
            running[name].terminate()
            running[name].communicate(timeout=20)
            assert running[name].returncode == 0, f"the {name} did not end cleanly"
        assert psutil.pid_exists(nats.pid)


def test_history_and_status_survive_a_reboot(flowctl: Flowctl, tmp_path: Path):
    """Stop everything, start everything: the same history, the same status, also of a moment in the middle while nothing runs."""
    out = tmp_path / "out.jsonl"
    file = flowctl.write("pipeline.yaml", linear("story", out, count=300))
    flowctl.run("up", "--detach", str(file))
    early = flowctl.json("status")
    flowctl.until_status("story", "completed")
    history, status = flowctl.history(), remembered(flowctl.json("status"))
    flowctl.run("server", "stop")
    until(lambda: not flowctl.processes(), "the end of everything")
    assert remembered(flowctl.json("status", "--at", str(early["seq"]))) == remembered(early)
    assert remembered(flowctl.json("status", "--at", "now")) == status
    assert flowctl.run("status", "--at", "99999", expect=2).stderr.startswith("error: there is no entry 99999 yet")
    flowctl.start("server")
    until(lambda: flowctl.run("status", expect=None).returncode == 0, "a server that answers")
    assert flowctl.history()[: len(history)] == history
    assert remembered(flowctl.json("status")) == status


def remembered(status: dict[str, Any]) -> str:
    """What of a status depends on the pipelines' past alone: not the heartbeats."""
    for view in status["pipelines"]:
        for instance in view["instances"]:
            del instance["live"]
    return json.dumps(status["pipelines"], sort_keys=True)
