"""`flowctl watch --exec`: a command for each event, in order, bounded, shown when it fails; `--durable` goes on where it was."""

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from flowctl.errors import FlowctlError, UserError
from flowctl.journal.events import Aggregate, PipelineStopRequested
from flowctl.journal.log import Entry
from flowctl.journal.memory import MemoryStore
from flowctl_cli.__main__ import run
from flowctl_cli.entries import Selection
from flowctl_cli.following import Following
from flowctl_cli.hook import Hook, Pool, parse
from flowctl_cli.targets import Target
from support.flowctl import control_plane, until
from support.journals import stop
from support.polling import eventually

HOOK = """\
import json, os, sys
event = json.load(sys.stdin)
row = {"seq": event["seq"], "type": event["type"], "ce": {k: v for k, v in os.environ.items() if k.startswith("CE_")}}
with open(sys.argv[1], "a") as file:
    file.write(json.dumps(row) + "\\n")
sys.exit(5 if event["type"] in sys.argv[2:] else 0)
"""
PIPELINE = """\
apiVersion: flowctl/v1
kind: Pipeline
metadata: {name: short}
spec:
  sources: [{id: numbers, type: generator, config: {count: 3}}]
  sinks: [{id: out, type: console, inputs: [numbers]}]
"""


def entry(seq: int, pipeline: str) -> Entry:
    """Something that happened to a pipeline."""
    return Entry(seq, seq, "", Aggregate.of_pipeline(pipeline), PipelineStopRequested(), id=str(seq), ce_type="t", data=b"{}")


async def test_one_things_events_stay_in_order_and_the_rest_runs_beside_them():
    """Three at once at most, and at least two; of each pipeline one after the other."""
    rng = random.Random(5)
    order: dict[str, list[int]] = defaultdict(list)
    at_once, most, ended = 0, 0, 0
    all_ended = asyncio.Event()

    class Slow(Hook):
        async def run(self, entry: Entry) -> str:
            nonlocal at_once, most, ended
            at_once += 1
            most = max(most, at_once)
            assert entry.aggregate is not None
            key = entry.aggregate.key[0]
            order[key].append(entry.seq)
            await asyncio.sleep(rng.uniform(0, 0.01))
            order[key].append(entry.seq)
            at_once -= 1
            ended += 1
            if ended == 60:
                all_ended.set()
            return "exited 1" if entry.seq % 10 == 0 else ""

    failed: list[int] = []
    pool = Pool(Slow([], timeout_s=1, retries=0), 3, lambda entry, _: failed.append(entry.seq))
    for seq in range(1, 61):
        await pool.submit(entry(seq, f"p{seq % 4}"))
    async with asyncio.timeout(20):
        await all_ended.wait()
    await pool.end()
    for seqs in order.values():
        assert seqs == [seq for seq in dict.fromkeys(seqs) for _ in range(2)]
        assert seqs == sorted(seqs)
    assert 2 <= most <= 3
    assert sorted(failed) == [10, 20, 30, 40, 50, 60]


async def test_what_a_hook_can_do_wrong(tmp_path: Path):
    """Fail, be killed, not exist, hang with a child: each is one sentence, and nothing of it stays."""
    one = entry(1, "orders")
    assert await Hook(["true"], timeout_s=5, retries=0).run(one) == ""
    assert await Hook(["false"], timeout_s=5, retries=0).run(one) == "exited 1"
    assert await Hook(["sh", "-c", "kill -9 $$"], timeout_s=5, retries=0).run(one) == "was ended by signal 9"
    assert "cannot be started" in await Hook([str(tmp_path / "nothing")], timeout_s=5, retries=0).run(one)
    marker = tmp_path / "alive"
    late = Hook(["sh", "-c", f"(sleep 1; touch {marker}) & sleep 60"], timeout_s=0.2, retries=0)
    assert await late.run(one) == "took longer than 0.2 s and was ended"
    await asyncio.sleep(1.2)
    assert not marker.exists()
    tries = tmp_path / "tries"
    counting = Hook(["sh", "-c", f"echo x >> {tries}; test $(wc -l < {tries}) -ge 3"], timeout_s=5, retries=2)
    assert await counting.run(one) == ""


def test_a_command_is_words_and_no_shell():
    """Quotes group; `;`, `$` and `|` are letters."""
    assert parse("echo 'a b' $HOME ; rm | cat") == ["echo", "a b", "$HOME", ";", "rm", "|", "cat"]
    for wrong in ("", "echo 'torn", "no-such-program-anywhere"):
        with pytest.raises(UserError):
            parse(wrong)


@pytest.mark.parametrize(
    "words",
    [
        ["--exec", "true", "--durable", "a", "--parallel", "2"],
        ["--retries", "2"],
        ["--exec", "true", "--json"],
        ["--exec", "no-such-program-anywhere"],
        ["--durable", "Not An Id"],
    ],
    ids=" ".join,
)
def test_what_does_not_go_together(words: list[str], capsys: pytest.CaptureFixture[str]):
    """Exit code 2 and one sentence, before anything is connected."""
    assert run(["watch", *words]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_hooks_on_a_real_journal(tmp_path: Path):
    """Each event once, in order, with its attributes; a failure is shown; a durable one goes on after kill -9."""
    with control_plane(tmp_path) as flowctl:
        flowctl.run("server", "--detach")
        script, out, audit = flowctl.write("hook.py", HOOK), tmp_path / "out", tmp_path / "audit"
        flowctl.write("short.yaml", PIPELINE)

        def rows(path: Path) -> list[int]:
            return [json.loads(line)["seq"] for line in path.read_text().splitlines()] if path.exists() else []

        def watch(path: Path, *words: str) -> "subprocess.Popen[str]":
            return flowctl.start("watch", "--after", "0", "--exec", f"{sys.executable} {script} {path} HostJoined", *words)

        live, durable = watch(out), watch(audit, "--durable", "audit")
        until(lambda: rows(out) and rows(audit), "the first events")
        durable.send_signal(signal.SIGKILL)
        flowctl.run("up", "short.yaml")
        whole = [row["seq"] for row in flowctl.history()]
        durable = watch(audit, "--durable", "audit")
        until(lambda: rows(out)[-1] >= whole[-1], "every event live", timeout_s=40)
        until(lambda: rows(audit)[-1] >= whole[-1], "every event of the durable one", timeout_s=40)
        assert rows(out)[: len(whole)] == whole
        assert list(dict.fromkeys(rows(audit)))[: len(whole)] == whole
        assert len(rows(audit)) - len(set(rows(audit))) <= 1
        known = {row["seq"]: row for row in flowctl.history()}
        for line in out.read_text().splitlines():
            row = json.loads(line)
            assert (row["ce"]["CE_ID"], row["ce"]["CE_SEQUENCE"]) == (known[row["seq"]]["id"], str(row["seq"]))
        live.terminate()
        said, _ = live.communicate(timeout=20)
        assert "(HostJoined) exited 5" in said


@pytest.mark.parametrize("durable", [False, True])
async def test_the_first_failure_may_be_the_end(durable: bool):
    """With `--fail-fast` nothing after the failing event is touched, and a durable one begins with that event again."""
    store = MemoryStore()
    await store.journal.append([stop("a"), stop("b"), stop("c")], actor="test")
    following = Following(Selection(), Hook(["false"], timeout_s=5, retries=0), json=False, fail_fast=True)
    work = following.durably(store, "hook", after=0) if durable else following.live(store.journal, after=0, parallel=1)
    with pytest.raises(FlowctlError, match=r"the hook of entry 1 \(PipelineStopRequested\) exited 1"):
        await asyncio.wait_for(work, 10)
    if durable:
        assert (await (await store.subscriptions.open("hook", "flowctl.journal.>")).next()).seq == 1


async def test_a_durable_one_treats_only_what_it_was_told_to():
    """Of one pipeline, and not of its neighbours."""
    store = MemoryStore()
    await store.journal.append([stop(aggregate=Aggregate.of_pipeline(name)) for name in "abac"], actor="test")
    treated: list[int] = []

    class Noting(Hook):
        async def run(self, entry: Entry) -> str:
            treated.append(entry.seq)
            return ""

    following = Following(Selection(target=Target("a")), Noting([], timeout_s=1, retries=0), json=False, fail_fast=True)
    work = asyncio.create_task(following.durably(store, "hook", after=0))
    await eventually(lambda: len(treated) == 2, "both entries of the pipeline")
    await store.journal.append([stop(aggregate=Aggregate.of_pipeline(name)) for name in "ba"], actor="test")
    await eventually(lambda: len(treated) >= 3, "the next entry of the pipeline")
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert treated == [1, 3, 6]
