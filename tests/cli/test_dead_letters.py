"""``flowctl dead-letters`` against a control plane that says what the test wants: output, JSON and exit codes."""

import asyncio
import json

import pytest

from flowctl import api
from flowctl.ids import InstanceId
from flowctl.journal.events import Aggregate, ComponentLettersRedriven, ComponentRedriveRequested
from flowctl.journal.letters import DeadLetter
from flowctl.journal.log import Draft
from flowctl_cli.__main__ import run
from support.fake_plane import FakePlane, install

PARSE = InstanceId("orders", "parse", 0)


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> FakePlane:
    """Three letters: one as it was put aside, one that was delivered since, one that failed again."""
    done = api.Redriving(seq=0, letters=[2, 3], instances=["orders.parse.0"], absent=["orders.parse.0"])
    fake = FakePlane({"registry.redrive": done})

    async def fill() -> None:
        for position, payload in enumerate((b'{"n": 1}', "ü\n\x1b[2J".encode(), b"\xff\x00")):
            letter = DeadLetter(
                instance=PARSE, incarnation=1, origin="lines.0", position=position, error="ValueError: x\nmore", attempts=2
            )
            await fake.store.dead_letters.put(letter, payload)
        facts = [
            ComponentRedriveRequested(letters=[2, 3]),
            ComponentLettersRedriven(incarnation=1, letters=[2], outcome="delivered"),
            ComponentLettersRedriven(incarnation=1, letters=[3], outcome="failed", error="still bad"),
        ]
        await fake.store.journal.append([Draft(Aggregate.of_instance(PARSE), fact) for fact in facts], actor="test")

    asyncio.run(fill())
    install(monkeypatch, fake)
    return fake


@pytest.mark.usefixtures("control")
def test_list(capsys: pytest.CaptureFixture[str]):
    """Counted by component, newest first, at most so many, with what became of each."""
    assert run(["dead-letters", "list", "orders", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(each["number"], each["state"]) for each in found["letters"]] == [(3, "failed again"), (2, "redriven"), (1, "kept")]
    assert run(["dead-letters", "list", "orders.parse", "--limit", "2"]) == 0
    captured = capsys.readouterr()
    assert "orders.parse: 3 letters, 1 redriven, 1 failed again" in captured.out
    assert "still bad" in captured.out
    assert "newest 2 of 3" in captured.err
    assert run(["dead-letters", "list", "absent"]) == 0
    assert "absent has no dead letters" in capsys.readouterr().err


@pytest.mark.usefixtures("control")
def test_show(capsys: pytest.CaptureFixture[str]):
    """Payloads as JSON, text or base64; nothing in them commands the terminal; the newest without a number."""
    assert run(["dead-letters", "show", "orders", "--id", "1"]) == 0
    out = capsys.readouterr().out
    assert '"n": 1' in out
    assert "ValueError: x\n            more" in out
    assert run(["dead-letters", "show", "orders", "--id", "2"]) == 0
    out = capsys.readouterr().out
    assert "ü" in out
    assert "\x1b" not in out
    assert run(["dead-letters", "show", "orders.parse", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["number"], found["encoding"], found["payload"], found["redrive_error"]) == (3, "base64", "/wA=", "still bad")
    assert run(["dead-letters", "show", "orders", "--id", "9"]) == 1
    assert "orders has no dead letter 9" in capsys.readouterr().err


def test_redrive(control: FakePlane, capsys: pytest.CaptureFixture[str]):
    """What is asked for, what is waited for, and the exit code when one has failed again or the time is over."""
    assert run(["dead-letters", "redrive", "orders.parse", "--id", "2", "--id", "3"]) == 0
    captured = capsys.readouterr()
    assert "2 dead letters to be redriven by orders.parse.0" in captured.out
    assert "does not run now" in captured.err
    assert control.asked[-1] == (
        "registry.redrive",
        api.RedriveLetters(pipeline="orders", component="parse", letters=[2, 3]),
    )
    assert run(["dead-letters", "redrive", "orders", "--wait"]) == 1
    assert "1 of 2 have failed again" in capsys.readouterr().err
    control.answers["registry.redrive"] = api.Redriving(seq=0, letters=[1], instances=["orders.parse.0"])
    assert run(["dead-letters", "redrive", "orders", "--wait", "--timeout", "0.1"]) == 4
    assert "1 of 1 dead letters were not settled within 0.1 s" in capsys.readouterr().err
    control.answers["registry.redrive"] = api.Redriving(seq=0)
    assert run(["dead-letters", "redrive", "orders", "--wait"]) == 0
    assert "nothing to redrive" in capsys.readouterr().err
    del control.answers["registry.redrive"]
    assert run(["dead-letters", "redrive", "orders"]) == 3


@pytest.mark.usefixtures("control")
@pytest.mark.parametrize(
    "words", [[], ["list"], ["list", "a.b.0"], ["show", "*"], ["show", "a", "--id", "x"], ["redrive", "a..b"]]
)
def test_bad_words(words: list[str], capsys: pytest.CaptureFixture[str]):
    """Exit 2, one sentence."""
    assert run(["dead-letters", *words]) == 2
    assert "Traceback" not in capsys.readouterr().err
