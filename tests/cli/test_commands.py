"""Commands against a control plane that says what the test wants: output, JSON and exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest

from flowctl import api
from flowctl.errors import ControlPlaneUnreachableError, DeadlineError, NotFoundError, RefusedError
from flowctl.ids import InstanceId
from flowctl.journal.events import Aggregate, PipelineStatusChanged
from flowctl.journal.log import Draft
from flowctl.journal.logs import LogLine
from flowctl_cli import board, pursuit
from flowctl_cli.__main__ import run
from support.fake_plane import FakePlane, install


def instance(name: str, **fields: Any) -> api.InstanceView:
    """An instance of a view."""
    _, component, index = name.split(".")
    known: dict[str, Any] = {"kind": "source", "phase": "running", "status": "healthy", "since_ms": 1_000}
    return api.InstanceView(instance=name, component=component, index=int(index), **{**known, **fields})


def pipeline(name: str = "orders", status: str = "running", *instances: api.InstanceView, **fields: Any) -> api.PipelineView:
    """A pipeline of a view."""
    return api.PipelineView(
        name=name, status=status, revision=1, run=1, since_ms=1_000, submitted_ms=500, instances=list(instances), **fields
    )


def status(*pipelines: api.PipelineView, **fields: Any) -> api.StatusView:
    """A whole view."""
    return api.StatusView(seq=7, time_ms=61_000, pipelines=list(pipelines), **fields)


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> FakePlane:
    """A control plane that knows one pipeline with two instances, one of which waits."""
    waiting = instance("orders.b.0", phase="waiting", status="unknown", waiting_for="a host with label gpu=true", since_ms=0)
    edge = api.EdgeView(
        peer="b.0", direction="out", events_total=5, bytes_total=9, in_flight=1, resent_total=0, connected=True, rate=12_345.0
    )
    live = api.LiveView(instance="orders.a.0", incarnation=1, heartbeat_age_s=0.5, edges=[edge])
    fake = FakePlane(
        {
            "orchestrator.status": status(pipeline("orders", "deploying", instance("orders.a.0"), waiting)),
            "registry.live": api.LiveAnswer(instances=[live]),
        }
    )
    install(monkeypatch, fake)
    return fake


def test_status_joins_what_is_known_with_what_is_heard(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """Phase from the orchestrator, rates from the registry, and for what an instance waits."""
    assert run(["status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("orders is deploying for 1m00s")
    assert "12.3k" in next(line for line in lines if line.startswith("orders.a.0"))
    assert "waiting for a host with label gpu=true" in next(line for line in lines if line.startswith("orders.b.0"))
    assert run(["status", "--edges"]) == 0
    assert "a.0 -> b.0" in capsys.readouterr().out
    assert control.asked


def test_a_narrow_terminal_shows_what_matters():
    """Handles and hosts give way; the phase and what is waited for stay."""
    waiting = instance(
        "orders.b.0", phase="waiting", waiting_for="a host with label gpu=true", host="a-long-name", handle="12345678"
    )
    found = board.Board.of(status(pipeline("orders", "deploying", waiting)), None)
    narrow = board.text(found, edges=False, colour=False, width=80)
    assert all(len(line) <= 80 for line in narrow)
    assert "waiting for a host with label" in narrow[2]
    assert "12345678" not in narrow[2]
    assert "12345678" in board.text(found, edges=False, colour=False, width=None)[2]


def test_status_as_json_has_the_documented_keys(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """StatusView, with each instance's last heartbeat under `live`."""
    assert run(["status", "orders", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == set(api.StatusView.__struct_fields__)
    first, second = told["pipelines"][0]["instances"]
    assert set(first) == {*api.InstanceView.__struct_fields__, "live"}
    assert first["live"]["edges"][0]["rate"] == 12_345.0
    assert second["live"] is None
    assert control.asked[0][1].pipeline == "orders"  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def test_status_stands_without_a_registry(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """Rates are left out; the status is still right."""
    del control.answers["registry.live"]
    assert run(["status"]) == 0
    assert "orders.a.0" in capsys.readouterr().out


def test_a_lost_journal_is_said(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """Unknown since when."""
    control.answers["orchestrator.status"] = status(pipeline(), unknown_since_ms=1_000)
    assert run(["status"]) == 0
    assert "unknown since 1m00s" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFoundError("there is no pipeline 'nope'", hint="did you mean orders?"), 1),
        (RefusedError("not now"), 1),
        (ControlPlaneUnreachableError("nobody there"), 3),
        (DeadlineError("too slow"), 4),
    ],
)
def test_errors_are_one_sentence_and_an_exit_code(
    control: FakePlane, capsys: pytest.CaptureFixture[str], error: Exception, code: int
):
    """On stderr, with the way out; nothing on stdout."""
    control.answers["orchestrator.status"] = error
    assert run(["status", "nope"]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"error: {error.args[0]}")


def test_restart_and_scale_ask_for_what_was_meant(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """The words become the request; the answer is shown, or printed as JSON."""
    control.answers |= {
        "orchestrator.restart": api.Done(seq=9, instances=["orders.a.0"]),
        "orchestrator.scale": api.Done(seq=10, instances=["orders.a.0", "orders.a.1"]),
    }
    assert run(["restart", "orders.a.0"]) == 0
    assert control.asked[-1] == ("orchestrator.restart", api.RestartInstances(pipeline="orders", component="a", index=0))
    assert "orders.a.0" in capsys.readouterr().out
    assert run(["scale", "orders.a=2", "--json"]) == 0
    assert control.asked[-1] == ("orchestrator.scale", api.Scale(pipeline="orders", component="a", replicas=2))
    assert json.loads(capsys.readouterr().out) == {"seq": 10, "instances": ["orders.a.0", "orders.a.1"]}
    assert run(["scale", "orders=2"]) == 2
    assert run(["restart", "orders.*"]) == 2


def test_hosts_are_shown(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """As a table and as JSON."""
    host = api.HostView(name="one", status="up", address="127.0.0.1", drivers=["process"], labels={"gpu": "true"}, instances=3)
    control.answers["orchestrator.status"] = status(hosts=[host])
    assert run(["hosts"]) == 0
    assert "gpu=true" in capsys.readouterr().out
    assert run(["hosts", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)[0]) == set(api.HostView.__struct_fields__)


async def test_history_is_read_from_the_journal(control: FakePlane):
    """Filled here; read by the synchronous test below through the same fixture's store."""
    await fill(control)
    assert await control.store.journal.last_sequence() == 2


async def fill(control: FakePlane) -> None:
    """Two entries and two lines of output."""
    aggregate = Aggregate.of_pipeline("orders")
    for word in ("running", "degraded"):
        await control.store.journal.append([Draft(aggregate, PipelineStatusChanged(status=word, reason="because"))], actor="test")  # pyright: ignore[reportArgumentType]
    line = LogLine(InstanceId("orders", "a", 0), 1, "stdout", "hello \x1b[2J there", 1_700_000_000_000_000_000, "1")
    await control.store.logs.publish([line])


def test_history_and_logs_show_what_is_stored(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """Oldest first; filters; JSON with the documented keys; control characters do not reach the terminal."""
    import asyncio

    from flowctl_cli.commands.logs import LogView
    from flowctl_cli.entries import EntryView

    asyncio.run(fill(control))
    assert run(["history", "orders"]) == 0
    text = capsys.readouterr().out
    assert "status=running reason=because" in text
    assert run(["history", "--json", "--limit", "1"]) == 0
    (last,) = json.loads(capsys.readouterr().out)
    assert set(last) == set(EntryView.__struct_fields__)
    assert last["data"]["status"] == "degraded"
    assert run(["history", "lager", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert run(["history", "--component", "a"]) == 2
    assert run(["history", "--type", "Nope"]) == 2
    capsys.readouterr()
    assert run(["logs", "orders"]) == 0
    assert capsys.readouterr().out == "orders.a.0 | hello �[2J there\n"
    assert run(["logs", "orders.a.0", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == set(LogView.__struct_fields__)


def test_logs_end_where_they_ended_then(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """--at shows the output up to a moment, --tail the last of that; it cannot be followed."""
    import asyncio

    asyncio.run(fill(control))
    one, then, later = InstanceId("orders", "a", 0), 1_700_000_000_000_000_001, 4_000_000_000_000_000_000
    lines = [LogLine(one, 1, "stdout", f"then {n}", then, f"t{n}") for n in range(3)]
    lines.append(LogLine(one, 1, "stdout", "later", later, "l"))
    asyncio.run(control.store.logs.publish(lines))
    assert run(["logs", "orders", "--at", "1", "--tail", "2"]) == 0
    assert capsys.readouterr().out.split("\n")[:-1] == ["orders.a.0 | then 1", "orders.a.0 | then 2"]
    assert run(["logs", "orders", "--at", "1", "--follow"]) == 2
    assert run(["logs", "orders", "--at", "99"]) == 2


def test_down_waits_until_everything_has_ended(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """Progress is shown, and the answer comes when the last instance is gone."""
    steps = [
        status(pipeline("orders", "running", instance("orders.a.0"), instance("orders.b.0"))),
        status(pipeline("orders", "running", instance("orders.a.0"), instance("orders.b.0"))),
        status(pipeline("orders", "stopping", instance("orders.a.0", phase="stopped"), instance("orders.b.0"))),
        status(pipeline("orders", "stopped", instance("orders.a.0", phase="stopped"), instance("orders.b.0", phase="stopped"))),
    ]

    def step(_: api.Request) -> api.StatusView:
        return steps.pop(0) if len(steps) > 1 else steps[0]

    control.answers["orchestrator.status"] = step
    control.answers["orchestrator.stop"] = api.Done(seq=9)
    assert run(["down", "orders"]) == 0
    assert [verb for verb, _ in control.asked].count("orchestrator.stop") == 1
    said = capsys.readouterr().out
    assert said.index("orders.a.0 stopped") < said.index("orders.b.0 stopped") < said.index("orders is stopped")
    assert run(["down", "orders"]) == 0, "stopping what has ended is no error"


def test_down_that_takes_too_long_names_what_is_left(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """Exit code 4, and the instances that still run with what they wait for."""
    late = instance("orders.b.0", phase="stopping", waiting_for="its last events to be acknowledged")
    control.answers["orchestrator.status"] = status(pipeline("orders", "stopping", late))
    control.answers["orchestrator.stop"] = api.Done(seq=9)
    assert run(["down", "orders", "--timeout", "0.3"]) == 4
    assert "orders.b.0 is stopping (waiting for its last events to be acknowledged)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["down"], ["down", "orders", "--all"], ["down", "no/such/file.yaml"], ["up", "x.yaml", "--wait"]]
)
def test_words_that_do_not_fit_are_the_users(control: FakePlane, words: list[str], capsys: pytest.CaptureFixture[str]):
    """Exit code 2."""
    assert run(words) == 2
    assert capsys.readouterr().err
    assert not control.asked


BAD = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: bad}
spec:
  sources:
    - {id: a, type: generator, colour: blue}
  sinks:
    - {id: b, type: console, inputs: [a], replicas: -1}
"""


def test_validate_shows_every_problem_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Exit code 2; one error for each problem; JSON has the same."""
    file = tmp_path / "bad.yaml"
    file.write_text(BAD)
    assert run(["validate", str(file)]) == 2
    said = capsys.readouterr().err
    assert f"{file}:6:" in said
    assert f"{file}:8:" in said
    assert run(["validate", str(file), "--json"]) == 2
    (view,) = json.loads(capsys.readouterr().out)
    assert set(view) == {"file", "valid", "pipeline", "problems", "warnings"}
    assert len(view["problems"]) == 2
    assert set(view["problems"][0]) == {"place", "message", "hint"}


def test_a_new_file_is_valid_and_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """`init` writes the pipeline and the schema; the second time it refuses, whole, unless forced."""
    file = tmp_path / "sub" / "pipeline.yaml"
    assert run(["init", "--output", str(file)]) == 0
    assert run(["validate", str(file)]) == 0
    schema = json.loads((file.parent / "flowctl.schema.json").read_text())
    assert schema["$schema"]
    capsys.readouterr()
    file.write_text("mine")
    assert run(["init", "--output", str(file)]) == 2
    assert file.read_text() == "mine"
    assert run(["init", "--output", str(file), "--force"]) == 0
    assert file.read_text() != "mine"
    assert run(["init", "nope"]) == 2
    assert "quickstart" in capsys.readouterr().err


def test_every_template_can_be_written_and_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """`init --list` names them."""
    assert run(["init", "--list", "--json"]) == 0
    for each in json.loads(capsys.readouterr().out):
        file = tmp_path / each["name"] / "pipeline.yaml"
        assert run(["init", each["name"], "--output", str(file)]) == 0
        assert run(["validate", str(file)]) == 0


def test_a_graph_is_drawn_in_three_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """For a terminal, for Mermaid and for Graphviz."""
    file = tmp_path / "pipeline.yaml"
    assert run(["init", "--output", str(file)]) == 0
    capsys.readouterr()
    for words, sign in ((["--format", "text"], "numbers"), (["-f", "mermaid"], "flowchart"), (["-f", "dot"], "digraph")):
        assert run(["graph", str(file), *words]) == 0
        assert sign in capsys.readouterr().out
    capsys.readouterr()
    assert run(["graph", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["nodes"][0]["id"] == "numbers"
    assert {"upstream": "numbers", "downstream": told["nodes"][1]["id"]} in told["edges"]
    assert run(["graph", str(tmp_path / "nope.yaml")]) == 2


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]):
    """And describes an object."""
    assert run(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$defs"]


def test_a_crash_is_one_line_with_where_the_details_are(
    control: FakePlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A fault of flowctl's own never shows a traceback; the file has it."""
    monkeypatch.setenv("FLOWCTL_STATE_DIR", str(tmp_path))
    control.answers["orchestrator.status"] = ZeroDivisionError("oops")
    assert run(["status"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert len(said.splitlines()) == 1
    assert "ZeroDivisionError: oops" in Path(said.split()[-1]).read_text()


def test_options_may_stand_before_or_after_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """What is given after the command wins."""
    assert run(["--state-dir", str(tmp_path / "a"), "server", "status", "--json", "--state-dir", str(tmp_path / "b")]) == 3
    assert json.loads(capsys.readouterr().out)["state_dir"] == str(tmp_path / "b")
    assert run(["--state-dir", str(tmp_path / "a"), "server", "status", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["state_dir"] == str(tmp_path / "a")
    (tmp_path / "file").write_text("")
    assert run(["status", "--state-dir", str(tmp_path / "file")]) == 2


def test_lines_say_what_is_in_the_way():
    """A terminal that cannot redraw gets the reason once, however often the span of time in it changes."""
    first = pipeline("orders", "deploying", instance("orders.a.0", phase="waiting", waiting_for="no host matches label gpu=true"))
    assert board.differences(None, first)[0] == "orders.a.0 waiting: no host matches label gpu=true"
    looks = [
        pipeline(
            "orders", "degraded", instance("orders.a.0", phase="restarting", waiting_for=f"restart in {left} s after exit code 1")
        )
        for left in ("10.4", "9.4")
    ]
    assert board.differences(first, looks[0])[0] == "orders.a.0 restarting: waiting for restart after exit code 1"
    assert board.differences(looks[0], looks[1]) == []


def test_a_host_to_wait_for_is_waited_for():
    """What has to happen is waited for; what is in the way is said as it is."""
    words = [
        board.about(instance("orders.a.0", phase="waiting", waiting_for=text))
        for text in ("host h1 to start it", "host h1 does not match label gpu=true")
    ]
    assert words == ["waiting for host h1 to start it", "host h1 does not match label gpu=true"]


@pytest.mark.parametrize("phase", ["waiting", "starting", "running", "restarting", "failed"])
@pytest.mark.parametrize("status", ["unknown", "healthy", "unhealthy"])
def test_what_a_container_is_loosened_by_is_always_said(phase: str, status: str):
    """Whatever else there is to say of it."""
    loose = {
        "loosened": ["runs as root", "capabilities NET_RAW"],
        "status": status,
        "waiting_for": "" if phase == "running" else "x",
    }
    assert board.about(instance("orders.a.0", phase=phase, **loose)).endswith("container: runs as root, capabilities NET_RAW")


def test_a_ctrl_c_that_arrives_twice_at_once_is_one(monkeypatch: pytest.MonkeyPatch):
    """``timeout 60 flowctl up …`` hands the terminal's Ctrl-C on to a program that has got it already."""
    now_s = [100.0]
    monkeypatch.setattr(pursuit.time, "monotonic", lambda: now_s[0])
    interrupts = pursuit.Interrupts()
    counts: list[int] = []
    for now_s[0] in (100.0, 100.01, 101.0):
        interrupts.hit()
        counts.append(interrupts.count)
    assert counts == [1, 1, 2]
