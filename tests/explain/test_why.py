"""`flowctl why`: the chain to the present state, in sentences that can be checked against what was told."""

import json

import pytest

from flowctl.errors import UserError
from flowctl.instants import Ago, AtSequence, Instant
from flowctl.journal.events import Aggregate, CheckpointCommitted, ComponentFailed, HostLost
from flowctl_cli.__main__ import run
from flowctl_cli.commands.why import text
from flowctl_cli.explaining import explain, explain_host
from flowctl_cli.targets import Target
from support.fake_plane import FakePlane, install
from support.telling import Tale, orders

NOW = Ago(0)
KILLED = (
    "incarnation 1 of orders.double.1 ended with signal 9 (SIGKILL); nobody had asked for that, and its restart policy "
    "starts it again in 0.1 s"
)


async def why(tale: Tale, target: str, instant: Instant = NOW) -> list[str]:
    """The explanation's lines, without their times."""
    lines = text(await explain(tale.store, instant, Target.parse(target)))
    return [line if len(line) < 40 or not line[17:22].strip().isdigit() else line[:15].rstrip() + line[41:] for line in lines]


def bare(lines: list[str]) -> list[str]:
    """Sentences and rules alone."""
    return [line.split("  ")[-1].strip() for line in lines if "TIME" not in line]


async def test_a_killed_instance():
    """Who submitted, who was assigned where and why there, how it ended, by which rule it runs again."""
    tale = Tale()
    assignment = (await tale.running())["double.1"]
    exit_ = await tale.kill("double.1", assignment)
    degraded = await tale.status("degraded", exit_, previous="running", reason="double.1 is restarting")
    assert degraded == 21
    await tale.start("double.1", assignment, incarnation=2, cause=exit_)
    assert bare(await why(tale, "orders.double.1")) == [
        "orders.double.1 is running and healthy on host h1 for 0ms, incarnation 2, 1 restart in all",
        "alice submitted pipeline orders from orders.yaml: revision 1, run 1",
        "the orchestrator assigned orders.double.1 to host h1 (driver process, revision 1)",
        "└ it is the only host that is up and offers driver process",
        KILLED,
        "└ its restart policy is on_failure: at most 10 restarts within 300 s, the first after 0.1 s",
        "the agent of host h1 claimed incarnation 2 of orders.double.1 and began to start it",
        "incarnation 2 of orders.double.1 was started on host h1 (handle 77)",
        "incarnation 2 of orders.double.1 registered, its data plane listens on 10.0.0.1:5",
        "and 3 entries more: flowctl history orders.double.1",
    ]


async def test_every_step_names_its_cause_and_all_of_them_are_there():
    """Walking causes from the last step reaches the submission without leaving the chain."""
    tale = Tale()
    assignment = (await tale.running())["double.1"]
    exit_ = await tale.kill("double.1", assignment)
    await tale.start("double.1", assignment, incarnation=2, cause=exit_)
    chain = (await explain(tale.store, NOW, Target.parse("orders.double.1"))).explanation.chain
    by_seq = {step.seq: step for step in chain}
    assert [step.seq for step in chain] == sorted(by_seq)
    step = next(step for step in chain if step.type == "ComponentStarting")
    path = [step.type]
    while step.causation:
        step = by_seq[step.causation]
        path.append(step.type)
    assert path == ["ComponentStarting", "ComponentExited", "ComponentAssigned", "PipelineSubmitted"]


async def test_the_past_is_explained_as_it_was():
    """Just after the exit: restarting, and for what it waits; a pipeline that is degraded, because of whom."""
    tale = Tale()
    assignment = (await tale.running())["double.1"]
    exit_ = await tale.kill("double.1", assignment)
    await tale.status("degraded", exit_, previous="running", reason="double.1 is restarting")
    await tale.start("double.1", assignment, incarnation=2, cause=exit_)
    lines = await why(tale, "orders.double.1", AtSequence(exit_))
    assert bare(lines)[:2] == [
        "orders.double.1 is restarting on host h1 for 0ms, incarnation 1",
        "it waits for restart in 0.1 s after signal 9",
    ]
    lines = bare(await why(tale, "orders", AtSequence(21)))
    assert lines[0].startswith("pipeline orders is degraded for 0ms: double.1 is restarting")
    assert "└ a running pipeline is degraded while an instance is not as it should be" in lines
    assert sum("is running and healthy" in line for line in lines) == 3
    assert sum("SIGKILL" in line for line in lines) == 1  # told once, though two chains hold it


async def test_a_failure_is_told_with_its_exit():
    """Both were written at once, so the failure cannot name the exit; it is told all the same."""
    tale = Tale()
    assignment = (await tale.running())["double.1"]
    await tale.kill("double.1", assignment)
    failed = ComponentFailed(host="h1", assignment=assignment, reason="its restart policy is spent", restarts=10)
    seq = await tale.tell(Aggregate.of_instance(orders("double.1")), failed, by="agent/h1", cause=assignment)
    await tale.status("failed", seq, previous="running", reason="double.1 failed: its restart policy is spent")
    lines = bare(await why(tale, "orders"))
    assert any("ended with signal 9" in line for line in lines)
    assert "the agent of host h1 gave orders.double.1 up after 10 restarts: its restart policy is spent" in lines


async def test_why_there_and_what_it_waited_for():
    """The least loaded of several hosts; and a host that had to join first."""
    tale = Tale()
    submitted = await tale.submit()
    await tale.join("h1")
    await tale.assign("numbers.0", submitted)
    await tale.join("h2")
    await tale.assign("double.0", submitted, host="h2")
    lines = bare(await why(tale, "orders.double.0"))
    assert "└ of 2 hosts that are up and offer driver process it has the least to do: 0 instances (h1 1)" in lines
    assert "host h2 joined at 127.0.0.1 (drivers process, 2 CPUs)" in lines
    [waiting] = [line for line in bare(await why(tale, "orders.keep")) if "waits" in line]
    assert waiting.startswith("it waits for ")


async def test_a_million_checkpoints_are_passed_over():
    """They are filtered at the server, and never part of a chain."""
    tale = Tale()
    await tale.running()
    of = Aggregate.of_instance(orders("numbers.0"))
    for position in range(50):
        await tale.tell(of, CheckpointCommitted(incarnation=1, position=position), by="registry/r", seconds=0.001)
    explained = await explain(tale.store, NOW, Target.parse("orders.numbers.0"))
    assert {step.type for step in explained.explanation.chain} == {
        "PipelineSubmitted", "ComponentAssigned", "ComponentStarting", "ComponentStarted", "ComponentRegistered"
    }  # fmt: skip
    assert explained.explanation.untold == 0


async def test_a_lost_host():
    """Since when, why, and what it is to run."""
    tale = Tale()
    await tale.running()
    await tale.tell(Aggregate.of_host("h1"), HostLost(silence_s=31), by="health/h", seconds=31)
    lines = bare(text(await explain_host(tale.store, NOW, "h1")))
    assert lines[0] == "host h1 is lost for 0ms: no heartbeat for 31.0 s; it is to run 4 instances"
    assert "the health monitor gave host h1 up for lost: no heartbeat for 31.0 s" in lines


async def test_unknown_names():
    """One sentence, with what may have been meant; exit code 2."""
    tale = Tale()
    await tale.running()
    for target, words in {
        "orderz": 'no pipeline.*did you mean "orders"',
        "orders.dubble": 'no component.*did you mean "double"',
        "orders.double.7": "no instance 7.*it has 0, 1",
    }.items():
        with pytest.raises(UserError, match=words):
            await why(tale, target)
    with pytest.raises(UserError, match="no pipeline 'orders'"):
        await why(tale, "orders", AtSequence(1))
    with pytest.raises(UserError, match=r"no host 'h2'.*h1"):
        await explain_host(tale.store, NOW, "h2")


def test_json_and_bad_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The documented fields; what cannot be meant is refused."""
    import asyncio

    tale = Tale()
    control = FakePlane({})
    control.store = tale.store
    install(monkeypatch, control)
    asyncio.run(tale.running())
    assert run(["why", "orders.keep", "--json"]) == 0
    explained = json.loads(capsys.readouterr().out)
    assert set(explained) == {"seq", "time_ms", "explanation"}
    assert [step["seq"] for step in explained["explanation"]["chain"]][:2] == [2, 6]
    assert run(["why", "host", "h1"]) == 0
    assert "host h1 is up" in capsys.readouterr().out
    for words in (["orders", "h1"], ["Orders"], ["orders", "--at", "99"], ["orders", "--at", "2999-01-01"], ["host", "H*"]):
        assert run(["why", *words]) == 2
    assert capsys.readouterr().out == ""
