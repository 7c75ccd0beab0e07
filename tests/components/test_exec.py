"""exec: any program as a processor, with its answers in order, and its death told with its last words."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import uvloop

from flowctl.errors import ComponentError, InvalidSettingError
from flowctl.ids import InstanceId
from flowctl.spec.model import Backoff, OnError
from flowctl_components.exec import Exec
from flowctl_components.program import Program
from flowctl_sdk import Context, Event
from flowctl_sdk.calls import Failures
from flowctl_sdk.columns import Columns
from flowctl_sdk.faults import ComponentFailedError, EventFailedError
from flowctl_sdk.production import Numbering
from flowctl_sdk.testing import process
from flowctl_sdk.work import Transform

LOOP = "import json, sys\nfor line in sys.stdin:\n    event = json.loads(line)\n    n = event['payload']\n"
PRINT = "    print(json.dumps(answer), flush=True)\n"


def program(body: str) -> dict[str, Any]:
    return {"command": [sys.executable, "-c", LOOP + body + PRINT], "timeout_s": 20}


async def test_lines():
    """Each payload is a line, each answer the new payload; an empty one drops the event."""
    config = {"command": ["sed", "-u", "-e", "s/a/A/g", "-e", "/drop/s/.*//"], "format": "lines"}
    found = await process(Exec, ["banana", "drop me", "", "x"], config=config)
    assert [(event.payload, event.position) for event in found] == [(b"bAnAnA", 0), (b"x", 3)]


async def test_json_answers():
    """null drops, an object replaces, a list makes several, type and metadata may change."""
    body = (
        "    answer = [None, {'payload': n * 10}, [{'payload': n}, {'payload': -n, 'type': 'minus'}],\n"
        "              {'payload': None, 'metadata': {'k': event['type']}}, []][n]\n"
    )
    found = await process(Exec, [Event.of(str(n), type="number") for n in range(5)], config=program(body))
    assert [(event.id, event.json(), event.type, event.metadata) for event in found] == [
        ("test.0:1/exec.0", 10, "number", None),
        ("test.0:2/exec.0", 2, "number", None),
        ("test.0:2/exec.1", -2, "minus", None),
        ("test.0:3/exec.0", None, "number", {"k": "number"}),
    ]


async def test_neither_side_blocks_the_other():
    """Megabytes in and out at once: a batch is larger than all the pipes between."""
    body = "    answer = {'payload': n}\n"
    payloads = ["x" * 10_000] * 500
    found = await process(Exec, [f'"{payload}"' for payload in payloads], config=program(body))
    assert [event.json() for event in found] == payloads


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (
            program("    n == 2 and (sys.stderr.write('one\\ntwo\\n'), sys.exit(7))\n    answer = {'payload': n}\n"),
            r"ended with exit code 7; it said: .*one \| two",
        ),
        (program("    import os; os.kill(os.getpid(), 9)\n    answer = None\n"), "ended with signal 9"),
        (program("    answer = {'paylod': n}\n"), r"answered event test.0:0 with b'{\"paylod\": 0}'.*expected {\"payload\": …}"),
        (
            program("    sys.stdout.write('null\\nnull\\n'); answer = None\n"),
            "printed more lines than events; beyond the answers",
        ),
        (program("    answer = 5\n"), "answered event test.0:0 with b'5'"),
        ({"command": [sys.executable, "-c", "print('hello')"], "format": "lines"}, "ended with exit code 0"),
        ({"command": ["sleep", "60"], "timeout_s": 0.2}, r"'sleep' did not answer 4 events within 0.2 s"),
    ],
)
async def test_programs_that_fail(config: dict[str, Any], sentence: str):
    """Its end, a wrong answer, too many answers and silence are errors that name the program."""
    with pytest.raises(ComponentError, match=sentence) as caught:
        await process(Exec, [str(n) for n in range(4)], config=config)
    assert isinstance(caught.value, ComponentFailedError if "ended with" in sentence else EventFailedError)


ASIDE = OnError(action="dead_letter", attempts=2, backoff=Backoff(initial_s=0.0, max_s=0.0))


class Box:
    """Keeps letters in memory."""

    def __init__(self) -> None:
        self.kept: list[str] = []

    async def keep(self, event: Event, error: str, attempts: int) -> None:
        """Keep one."""
        del error, attempts
        self.kept.append(event.id)


def shell(body: str) -> dict[str, Any]:
    """A program that starts at once; ``$n`` is the line."""
    return {"command": ["sh", "-c", f"while read -r n; do {body}; echo $n; done"], "timeout_s": 1.0, "format": "lines"}


async def opened(config: dict[str, Any]) -> Exec:
    component = Exec()
    await component.open(Context(config=config, instance=InstanceId("test", "exec", 0), state_dir=Path()))
    return component


def numbers(count: int) -> Columns:
    return Numbering("test.0", 0).columns([str(n) for n in range(count)], 0)[0]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (shell("[ $n = 0 ] && sleep 1.5"), "did not answer 2 events within 1 s"),
        (shell("[ $n = 0 ] && printf 'x\\ny\\nz\\n'"), "printed more lines than events"),
        (
            program("    n == 0 and print('{}')\n    answer = {'payload': str(n)}\n"),
            "answered event test.0:0|more lines than events",
        ),
    ],
)
async def test_late_answers_are_not_those_of_the_next_question(config: dict[str, Any], sentence: str):
    """A program that was too slow once, or said too much, is killed; a fresh one has its own answers."""
    component = await opened(config)
    events = numbers(4).events()
    try:
        with pytest.raises(ComponentError, match=sentence):
            await component.process(events[:2])
        answers = await component.process(events[2:])
        assert [str(answer).strip("b'\"") for answer in answers] == ["2", "3"]
    finally:
        await component.close()


async def test_the_slow_event_alone_becomes_a_letter():
    """What a program never answers is put aside; the events around it have their own answers."""
    component, box = await opened(shell("[ $n = 2 ] && exec sleep 60")), Box()
    outputs, _ = await Transform(component, "exec", Failures(ASIDE, box))(numbers(4))
    await component.close()
    assert outputs is not None
    assert [event.payload for event in outputs.events()] == [b"0", b"1", b"3"]
    assert box.kept == ["test.0:2"]


async def test_no_event_is_put_aside_for_the_end_of_the_program():
    """A program that has ended fails the component, and with it none of the events, whatever ``on_error`` says."""
    component, box = await opened(shell("[ $n = 2 ] && exit 7")), Box()
    with pytest.raises(ComponentFailedError, match="ended with exit code 7"):
        await Transform(component, "exec", Failures(ASIDE, box))(numbers(4))
    await component.close()
    assert box.kept == []


async def test_what_it_says_goes_to_the_log(caplog: pytest.LogCaptureFixture, tmp_path: Path):
    """Standard error is logged, and the environment is what the configuration says."""
    caplog.set_level("INFO")
    body = "    import os; sys.stderr.write(os.environ['GREETING'] + '\\n'); sys.stderr.flush(); answer = {'payload': n}\n"
    await process(Exec, ["1"], config={**program(body), "env": {"GREETING": "good day"}}, state_dir=tmp_path)
    assert "good day" in caplog.text


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"command": ["no-such-program-anywhere"]}, "cannot start 'no-such-program-anywhere': No such file"),
        ({"command": []}, "config.command: .*length >= 1"),
        ({"command": "sort"}, "config.command: expected `array`, got `str`, found 'sort'"),
        ({"command": ["x"], "shell": True}, "there is no field 'shell'"),
        ({"command": ["/etc"]}, "cannot start '/etc': Permission denied"),
    ],
)
async def test_bad_configurations(config: dict[str, Any], sentence: str):
    """Each is refused when the component opens."""
    with pytest.raises(InvalidSettingError, match=sentence):
        await process(Exec, ["1"], config=config)


FORKS: list[int] = []


def test_the_program_is_started_without_a_fork():
    """On the loop that components have: a fork beside gRPC's threads may stop for ever, and the component with it."""
    if not FORKS:
        os.register_at_fork(before=lambda: FORKS.append(1))
        FORKS.append(0)

    async def answer() -> list[bytes]:
        program = await Program.start(["cat"], {}, logging.getLogger("test"))
        try:
            return await program.ask([b"a", b"b"], 5)
        finally:
            await program.close()

    loop = uvloop.new_event_loop()
    try:
        assert loop.run_until_complete(answer()) == [b"a", b"b"]
    finally:
        loop.close()
    assert FORKS == [0]
