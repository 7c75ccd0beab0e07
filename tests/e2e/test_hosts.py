"""Several agents on one control plane: joining, draining, placement; and planned changes of a running pipeline."""

import json
import os
import pty
import signal
import subprocess
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import pytest

from support.flowctl import COMMAND, Flowctl, control_plane, until
from support.pipelines import component, numbers_in, pipeline, rows

pytestmark = pytest.mark.timeout(180)

COUNT = 40_000
ENDLESS = 100_000_000


@pytest.fixture
def flowctl(tmp_path: Path) -> Generator[Flowctl]:
    """A control plane of this test's own, quick to miss a host."""
    with control_plane(tmp_path, name="h1", host_silence_s="5") as running:
        yield running


def second_host(flowctl: Flowctl, tmp_path: Path, *words: str) -> "subprocess.Popen[str]":
    """An agent with a state directory of its own that joins as ``h2``."""
    server = flowctl.server
    state = flowctl.state / "h2"  # below the first one's, so that what is left of it is found
    environment = {**flowctl.environment, "FLOWCTL_STATE_DIR": str(state), "FLOWCTL_NATS_MONITOR_URL": server["nats_monitor_url"]}
    environment |= {"FLOWCTL_HOST_HEARTBEAT_S": "1", "FLOWCTL_NAME": "h2"}
    command = [*COMMAND, "agent", "--nats", server["nats_url"], "--name", "h2", "--registry", server["registry"], *words]
    with (tmp_path / "h2.log").open("w") as log:
        agent = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True)
    flowctl.children.append(agent)
    until(lambda: any(host["name"] == "h2" and host["status"] == "up" for host in flowctl.json("hosts")), "h2 to join")
    return agent


def spread(tmp_path: Path, *, factor: int = 2, count: int = COUNT) -> str:
    """A source, two doublers and a sink; slow enough that they are moved under way."""
    return pipeline(
        "orders",
        sources=[component("numbers", "count", config={"count": count, "rate": 2000})],
        processors=[component("double", "double", "numbers", replicas=2, partition_by="payload.n", config={"factor": factor})],
        sinks=[component("keep", "keep", "double", config={"path": str(tmp_path / "out.jsonl")})],
    )


def hosts_of(flowctl: Flowctl) -> dict[str, str]:
    """Where each instance runs."""
    return {name: each["runs_on"] for name, each in flowctl.instances("orders").items()}


def test_a_host_joins_is_drained_and_used_again_and_nothing_is_lost(flowctl: Flowctl, tmp_path: Path):
    """Replicas are spread over two hosts; draining one moves what it runs, one by one, under load; every number arrives."""
    flowctl.run("server", "--detach")
    second_host(flowctl, tmp_path, "--label", "zone=b", "--ports", "23000-23011")
    flowctl.run("up", "--detach", "--wait", str(flowctl.write("orders.yaml", spread(tmp_path))))
    assert {hosts_of(flowctl)[f"orders.double.{index}"] for index in range(2)} == {"h1", "h2"}
    (on_h2,) = [each for name, each in flowctl.instances("orders").items() if each["runs_on"] == "h2" and ".double." in name]
    assert 23_000 <= int(on_h2["address"].rpartition(":")[2]) <= 23_011
    done = flowctl.run("hosts", "drain", "h2", "--reason", "new kernel", "--timeout", "60")
    assert "nothing runs on h2 any more" in done.stdout
    assert set(hosts_of(flowctl).values()) == {"h1"}
    (host,) = [each for each in flowctl.json("hosts") if each["name"] == "h2"]
    assert host["drained"]
    assert host["reason"] == "drained: new kernel"
    flowctl.run("scale", "orders.double=4")
    flowctl.run("hosts", "undrain", "h2")
    flowctl.until_status("orders", "completed", timeout_s=90)
    assert set(numbers_in(tmp_path / "out.jsonl")) == set(range(COUNT))
    assert "there is no host 'h3'" in flowctl.run("hosts", "drain", "h3", expect=1).stderr


def test_a_lost_host_is_found_and_its_instances_go_elsewhere(flowctl: Flowctl, tmp_path: Path):
    """After five seconds of silence the instances run on the other host; the one that comes back ends what it has no longer."""
    flowctl.run("server", "--detach")
    agent = second_host(flowctl, tmp_path)
    flowctl.run("up", "--detach", "--wait", str(flowctl.write("orders.yaml", spread(tmp_path))))
    assert "h2" in hosts_of(flowctl).values()
    agent.send_signal(signal.SIGSTOP)
    until(lambda: any(entry["type"] == "HostLost" for entry in flowctl.history()), "the loss of h2", timeout_s=20)
    until(lambda: set(hosts_of(flowctl).values()) == {"h1"}, "everything on h1", timeout_s=20)
    agent.send_signal(signal.SIGCONT)
    until(lambda: any(entry["type"] == "HostRecovered" for entry in flowctl.history()), "the return of h2", timeout_s=20)
    until(lambda: [each for each in programs(flowctl) if "/h2/" in each] == [], "the end of the old programs on h2", timeout_s=40)
    flowctl.until_status("orders", "completed", timeout_s=90)
    assert set(numbers_in(tmp_path / "out.jsonl")) == set(range(COUNT))


def programs(flowctl: Flowctl) -> list[str]:
    """The state directories of the components that run."""
    return [
        each.environ().get("FLOWCTL_STATE_DIR", "") for each in flowctl.processes() if "FLOWCTL_INCARNATION" in each.environ()
    ]


def test_what_no_host_matches_waits_and_says_for_what(flowctl: Flowctl, tmp_path: Path):
    """Until a host with the label joins."""
    flowctl.run("server", "--detach")
    text = pipeline(
        "orders",
        sources=[component("numbers", "count", config={"count": 10}, placement={"labels": {"gpu": "true"}})],
        sinks=[component("keep", "keep", "numbers", config={"path": str(tmp_path / "out.jsonl")})],
    )
    file = flowctl.write("orders.yaml", text)
    late = flowctl.run("up", "--detach", "--wait", "--timeout", "2", str(file), expect=4)
    assert "no host matches label gpu=true" in late.stdout + late.stderr
    second_host(flowctl, tmp_path, "--label", "gpu=true")
    flowctl.until_status("orders", "completed")
    assert numbers_in(tmp_path / "out.jsonl") == Counter(range(10))


def test_a_planned_change_is_shown_bound_rolled_out_and_rolled_back(flowctl: Flowctl, tmp_path: Path):
    """`--plan` writes nothing; a plan that is out of date is refused; `rollback` brings the earlier program back."""
    file = flowctl.write("orders.yaml", spread(tmp_path, count=ENDLESS))
    plan = flowctl.json("up", str(file), "--plan")
    assert [step["action"] for step in plan["steps"]] == ["start"] * 4
    flowctl.run("up", "--detach", "--wait", str(file))
    flowctl.write("orders.yaml", spread(tmp_path, factor=3, count=ENDLESS))
    shown = flowctl.run("up", str(file), "--plan").stdout
    assert "2 to replace, 2 to leave alone" in shown
    assert "when those replaced before it are healthy; changed: config.factor" in shown
    plan = flowctl.json("up", str(file), "--plan")
    flowctl.run("restart", "orders.keep")
    refused = flowctl.run("up", "--detach", str(file), "--planned", str(plan["seq"]), expect=1)
    assert "the plan is out of date: " in refused.stderr
    assert flowctl.pipeline("orders")["revision"] == 1
    flowctl.until_status("orders", "running")
    plan = flowctl.json("up", str(file), "--plan")
    flowctl.run("up", "--detach", "--wait", str(file), "--planned", str(plan["seq"]))
    until(
        lambda: [each["revision"] for name, each in flowctl.instances("orders").items() if ".double." in name] == [2, 2], "both"
    )
    until(lambda: any(row["double"] == 3 * row["n"] for row in rows(tmp_path / "out.jsonl")), "rows of the new program")
    assert "back from revision 2 to what it was in revision 1" in flowctl.run("rollback", "orders").stderr
    assert flowctl.pipeline("orders")["revision"] == 3
    assert flowctl.run("rollback", "orders", "--to", "1", expect=1).stderr.startswith(
        "error: orders is what it was in revision 1"
    )
    assert "has no revision 9" in flowctl.run("rollback", "orders", "--to", "9", expect=1).stderr
    steady = [each["incarnation"] for name, each in flowctl.instances("orders").items() if ".numbers." in name]
    assert steady == [1], "what did not change was never restarted"


def test_on_a_terminal_a_change_is_asked_about(flowctl: Flowctl, tmp_path: Path):
    """No leaves everything as it is, and exits with 1."""
    file = flowctl.write("orders.yaml", spread(tmp_path, count=ENDLESS))
    flowctl.run("up", "--detach", "--wait", str(file))
    flowctl.write("orders.yaml", spread(tmp_path, factor=3, count=ENDLESS))
    leader, follower = pty.openpty()
    asked = subprocess.Popen(
        [*COMMAND, "up", "--detach", str(file)],
        cwd=tmp_path,
        env=flowctl.environment,
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    seen = b""
    while b"Go on? [y/N]" not in seen:
        seen += os.read(leader, 4096)
    os.write(leader, b"n\n")
    assert asked.wait(timeout=20) == 1
    os.close(leader)
    assert b"would become revision 2" in seen
    assert flowctl.pipeline("orders")["revision"] == 1
    assert json.loads(flowctl.run("up", str(file), "--plan", "--json").stdout)["change"] == "changed"
