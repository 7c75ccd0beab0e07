"""Events that a component gives up on: put aside, shown, sent again once the program is put right, and never lost."""

import json
from collections.abc import Generator
from pathlib import Path

import pytest

from support.flowctl import Flowctl, control_plane, until
from support.pipelines import component, numbers_in, pipeline, rows

pytestmark = pytest.mark.timeout(180)
ASIDE = {"action": "dead_letter", "attempts": 2, "backoff": {"initial_s": 0.001, "max_s": 0.01}}


@pytest.fixture
def flowctl(tmp_path: Path) -> Generator[Flowctl]:
    with control_plane(tmp_path, heartbeat_interval_s="1") as running:
        yield running


def picky(name: str, out: Path, rules: Path, *, count: int, rate: float = 0, batch: bool = False) -> str:
    """numbers → picky → keep."""
    return pipeline(
        name,
        sources=[component("numbers", "count", config={"count": count, "rate": rate})],
        processors=[component("picky", "picky", "numbers", config={"rules": str(rules), "batch": batch}, on_error=ASIDE)],
        sinks=[component("keep", "keep", "picky", config={"path": str(out)})],
    )


@pytest.mark.parametrize("batch", [False, True], ids=["event by event", "batches"])
def test_a_pipeline_completes_without_what_cannot_be_processed(flowctl: Flowctl, tmp_path: Path, batch: bool):
    """Every other event arrives; the bad ones are letters with their error, attempts and payload, also when nothing runs."""
    out, rules = tmp_path / "out.jsonl", tmp_path / "rules.json"
    rules.write_text('{"bad": [3, 700, 1999]}')
    file = flowctl.write("pipeline.yaml", picky("aside", out, rules, count=2000, batch=batch))
    flowctl.run("up", str(file))
    assert numbers_in(out) == dict.fromkeys(set(range(2000)) - {3, 700, 1999}, 1)
    until(lambda: not flowctl.processes(), "the end of the server")
    found = flowctl.json("dead-letters", "list", "aside")
    assert found["total"] == 3
    assert found["components"] == [
        {"component": "picky", "letters": 3, "kept": 3, "redriving": 0, "redriven": 0, "failed_again": 0}
    ]
    assert [each["event"] for each in found["letters"]] == ["numbers.0:1999", "numbers.0:700", "numbers.0:3"]
    assert {(each["error"], each["attempts"]) for each in found["letters"]} >= {("ValueError: 700 is bad", 2)}
    assert len(flowctl.json("dead-letters", "list", "aside.picky", "--limit", "1")["letters"]) == 1
    number = found["letters"][1]["number"]
    shown = flowctl.json("dead-letters", "show", "aside.picky", "--id", str(number))
    assert (shown["encoding"], shown["payload"], shown["state"]) == ("json", {"n": 700}, "kept")
    text = flowctl.run("dead-letters", "show", "aside", "--id", str(number)).stdout
    assert '"n": 700' in text
    assert "after 2 attempts" in text
    flowctl.run("dead-letters", "show", "aside", "--id", "9999", expect=1)
    assert "3 letters" in flowctl.run("dead-letters", "list", "aside").stdout
    flowctl.run("dead-letters", "redrive", "aside", expect=3)


def test_letters_are_redriven_to_the_sink(flowctl: Flowctl, tmp_path: Path):
    """Letters that fail again stay letters; once the program is put right they arrive, under their ids, once."""
    out, rules = tmp_path / "out.jsonl", tmp_path / "rules.json"
    rules.write_text('{"bad": [3, 7, 20]}')
    file = flowctl.write("pipeline.yaml", picky("again", out, rules, count=1_000_000, rate=100))
    flowctl.run("up", "--detach", "--wait", str(file))
    until(lambda: len(rows(out)) > 50, "events past the bad ones")
    assert flowctl.json("dead-letters", "list", "again")["total"] == 3

    failed = flowctl.run("dead-letters", "redrive", "again.picky", "--wait", "--timeout", "30", expect=1)
    assert "3 of 3 have failed again" in failed.stderr
    found = flowctl.json("dead-letters", "list", "again")
    assert {each["state"] for each in found["letters"]} == {"failed again"}
    assert found["total"] == 3

    rules.write_text('{"bad": [20]}')
    flowctl.run("restart", "again.picky")
    until(lambda: flowctl.instances()["again.picky.0"]["incarnation"] == 2, "the next incarnation")
    flowctl.until_status("again", "running")
    three = next(each["number"] for each in found["letters"] if each["event"] == "numbers.0:3")
    flowctl.run("dead-letters", "redrive", "again.picky", "--id", str(three), "--wait", "--timeout", "30")
    assert numbers_in(out)[3] == 1
    flowctl.run("dead-letters", "redrive", "again", "--wait", "--timeout", "30", expect=1)
    counts = flowctl.json("dead-letters", "list", "again")["components"][0]
    assert (counts["redriven"], counts["failed_again"]) == (2, 1)
    numbers = numbers_in(out)
    assert (numbers[3], numbers[7], numbers[20]) == (1, 1, 0)
    seven = flowctl.json("dead-letters", "list", "again")["letters"]
    assert next(each for each in seven if each["event"] == "numbers.0:7")["redrive_time"]

    flowctl.run("dead-letters", "redrive", "again", "--id", "9999", expect=1)
    flowctl.run("dead-letters", "redrive", "nobody", expect=1)
    flowctl.run("dead-letters", "redrive", "again.picky.0", expect=2)
    flowctl.run("down", "again")
    delivered = numbers_in(out)
    assert set(delivered) == set(range(max(delivered) + 1)) - {20}
    facts = [entry for entry in flowctl.history("again") if entry["type"] == "ComponentLettersRedriven"]
    assert sorted(entry["data"]["outcome"] for entry in facts) == ["delivered", "delivered", *["failed"] * 4]


def test_a_sink_puts_aside_what_it_cannot_write(flowctl: Flowctl, tmp_path: Path):
    """The same for a sink, whose writes are batches: the poison is found event by event."""
    rules = tmp_path / "rules.json"
    rules.write_text('{"bad": [5]}')
    program = flowctl.write("refuse.py", SINK)
    text = pipeline(
        "sinking",
        sources=[component("numbers", "count", config={"count": 300})],
        sinks=[
            {
                **component("keep", "keep", "numbers", config={"rules": str(rules), "path": str(tmp_path / "out.jsonl")}),
                "command": ["python", str(program)],
                "on_error": ASIDE,
            }
        ],
    )
    flowctl.run("up", str(flowctl.write("pipeline.yaml", text)))
    found = flowctl.json("dead-letters", "list", "sinking.keep")
    assert [each["event"] for each in found["letters"]] == ["numbers.0:5"]
    written = [json.loads(line)["n"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert set(written) == set(range(300)) - {5}


SINK = '''
import json
from pathlib import Path

from flowctl_sdk import Context, Event, Sink, run


class Refuse(Sink):
    """Writes all or raises."""

    async def open(self, ctx: Context) -> None:
        self.bad = json.loads(Path(ctx.config["rules"]).read_text())["bad"]
        self.out = Path(ctx.config["path"]).open("ab")

    async def write(self, events: list[Event]) -> None:
        for event in events:
            if event.json()["n"] in self.bad:
                raise OSError("no room for it")
        self.out.writelines(event.payload + b"\\n" for event in events)
        self.out.flush()


run(Refuse)
'''
