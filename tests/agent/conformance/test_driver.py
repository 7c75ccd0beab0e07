"""The suite that every driver passes: what an agent may rely on, whatever runs the programs."""

import asyncio
import contextlib
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from flowctl.errors import DriverError
from flowctl_agent.drivers import Driver, Launch, Run, RunKey
from support.agents import SLEEP, STUBBORN, WORKER, clear, ended, key, only_run, output, script
from support.polling import eventually
from support.stages import Stage

Opened = Callable[[], contextlib.AbstractAsyncContextManager[Driver]]
Launching = Callable[..., Launch]


async def test_started_listed_and_stopped(one: Driver, launch: Launching):
    """What was started is listed as running until it is stopped, and then as exited, with who asked for it."""
    run = await one.start(launch(SLEEP))
    assert run.live
    assert run.handle
    assert await one.list() == [run]
    assert await one.list(WORKER) == [run]
    await one.stop(run.key, 5.0)
    last = await only_run(one)
    assert (last.state, last.signal, last.stopped, last.assignment) == ("exited", signal.SIGTERM, True, 7)


@pytest.mark.parametrize("code", [0, 1, 2, 75, 127, 255])
async def test_the_exit_code_is_exact(one: Driver, launch: Launching, code: int):
    """An exit code is what the program said."""
    await one.start(launch(script(f"raise SystemExit({code})")))
    run = await ended(one)
    assert (run.code, run.signal, run.stopped, run.failure) == (code, None, False, "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGUSR1])
async def test_the_signal_is_exact(one: Driver, launch: Launching, number: signal.Signals):
    """A program that a signal ended has no exit code."""
    await one.start(launch(script(f"import os; os.kill(os.getpid(), {int(number)})")))
    run = await ended(one)
    assert (run.code, run.signal, run.stopped) == (None, number, False)


async def test_the_last_words_of_a_crash(one: Driver, launch: Launching):
    """What a program said on stderr before it ended goes with its exit."""
    await one.start(launch(script("print('fine'); raise ValueError('no such database')")))
    run = await ended(one)
    assert run.last_words[-1] == "ValueError: no such database"
    assert "fine" not in run.last_words


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["/no/such/program"], ["/no/such/program", "No such file"]),
        (["no-such-program-on-the-path"], ["no-such-program-on-the-path", "PATH"]),
        (["AWKWARD/plain"], ["AWKWARD/plain", "Permission denied"]),
        (["/etc"], ["/etc", "Permission denied"]),
        pytest.param(["AWKWARD/empty"], ["AWKWARD/empty", "Exec format error"], marks=pytest.mark.needs("exec format")),
    ],
)
async def test_a_program_that_cannot_be_started(one: Driver, stage: Stage, launch: Launching, argv: list[str], words: list[str]):
    """Is an exited run with a sentence that names the program, not an error of the driver."""
    await one.start(launch([word.replace("AWKWARD", stage.awkward) for word in argv]))
    run = await ended(one)
    assert all(word.replace("AWKWARD", stage.awkward) in run.failure for word in words), run.failure
    assert (await only_run(one)) == run


@pytest.mark.needs("cwd")
async def test_a_working_directory_that_is_gone(one: Driver, launch: Launching, tmp_path: Path):
    """Is an exited run with a sentence that names the directory."""
    await one.start(launch(SLEEP, cwd=tmp_path / "gone"))
    run = await ended(one)
    assert run.failure == f"the working directory {tmp_path}/gone cannot be entered: No such file or directory"


@pytest.mark.needs("image")
@pytest.mark.parametrize(
    ("image", "failure"),
    [
        ("nobody/has-this:1", "the image nobody/has-this:1 is not on this host, and its pull policy is never"),
        (f"nobody/has-this@sha256:{'0' * 64}", "is not on this host, and its pull policy is never"),
    ],
)
async def test_an_image_that_is_not_there(one: Driver, launch: Launching, image: str, failure: str):
    """Is an exited run with the image's name, not an error of the driver, and leaves nothing."""
    run = await one.start(launch(SLEEP, image=image))
    assert not run.live
    assert failure in run.failure
    assert image in run.failure


async def test_after_a_crash_the_next_incarnation_runs(one: Driver, launch: Launching):
    """Started again under the next number; the output of both is there, and each is the run's own."""
    await one.start(launch(script("print('first'); raise SystemExit(3)")))
    assert (await ended(one)).code == 3
    assert (await one.start(launch(script("import time; print('second'); time.sleep(3600)"), key(2)))).live
    await eventually(lambda: output(one, key(2)) == [("stdout", "second")], "the output of the second run")
    assert output(one, key(1)) == [("stdout", "first")]
    assert [(run.key, run.live) for run in await one.list()] == [(key(1), False), (key(2), True)]


async def test_two_runs_of_one_instance_never_live_at_once(one: Driver, launch: Launching):
    """The driver refuses, whatever it is told."""
    await one.start(launch(SLEEP))
    with pytest.raises(DriverError, match="runs already"):
        await one.start(launch(SLEEP, key(2)))
    await one.stop(key(), 5.0)
    assert (await one.start(launch(SLEEP, key(2)))).live


async def test_whoever_ignores_sigterm_is_killed(one: Driver, launch: Launching):
    """After the timeout, by force."""
    await one.start(launch(STUBBORN, stop_timeout_s=0.2))
    await eventually(lambda: output(one, key()) == [("stdout", "ready")], "a program that ignores SIGTERM")
    await one.stop(key(), 0.2)
    run = await only_run(one)
    assert (run.signal, run.stopped) == (signal.SIGKILL, True)


async def test_stop_waits_for_the_program(one: Driver, launch: Launching):
    """A program that ends by itself in time ends as it wants."""
    program = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(3)); print('ready')\nwhile True: time.sleep(0.01)"
    await one.start(launch(script(program), stop_timeout_s=30.0))
    await eventually(lambda: output(one, key()) == [("stdout", "ready")], "a program that waits")
    await one.stop(key(), 30.0)
    assert (await only_run(one)).code == 3


async def test_stopping_what_does_not_run_is_nothing(one: Driver, launch: Launching):
    """An exited run and an unknown one are left as they are."""
    await one.stop(key(9), 1.0)
    await one.start(launch(script("raise SystemExit(4)")))
    run = await ended(one)
    await one.stop(run.key, 1.0)
    assert await one.list() == [run]


async def test_a_forgotten_run_is_not_listed_and_its_output_stays(one: Driver, launch: Launching):
    """Forgetting is about the journal; people still read the output."""
    await one.start(launch(script("print('hello')")))
    run = await ended(one)
    await one.forget(run.key)
    assert await one.list() == []
    assert one.outputs() == [run.key]
    assert output(one, run.key) == [("stdout", "hello")]


async def test_a_live_run_is_not_forgotten(one: Driver, launch: Launching):
    """It would be an orphan."""
    run = await one.start(launch(SLEEP))
    await one.forget(run.key)
    assert await one.list() == [run]


async def test_output_is_told_and_read_in_order(one: Driver, launch: Launching):
    """Both streams, line by line, with times; the listener hears of it without being asked."""
    heard: list[RunKey] = []
    one.on_output(heard.append)
    await one.start(launch(script("import sys, time; print('one'); print('two', file=sys.stderr); time.sleep(3600)")))
    await eventually(lambda: len(output(one, key())) == 2, "two lines")
    await eventually(lambda: key() in heard, "news of output")
    assert sorted(output(one, key())) == [("stderr", "two"), ("stdout", "one")]
    chunk = one.read_output(key(), 0, 65_536)
    assert all(line.time_ns > 1_600_000_000_000_000_000 for line in chunk.lines)
    assert one.read_output(key(), chunk.lines[1].position, 65_536).lines == chunk.lines[1:]


async def test_output_is_read_once_whoever_follows(opened: Opened, launch: Launching):
    """A second driver goes on where the first one stopped: no line is lost, none is there twice."""
    program = script("import time\nfor n in range(100000):\n    print(n)\n    time.sleep(0.002)")
    async with opened() as first:
        await first.start(launch(program))
        await eventually(lambda: len(output(first, key())) > 50, "some lines")
    async with opened() as second:
        before = len(output(second, key()))
        await eventually(lambda: len(output(second, key())) > before + 300, "more lines")
        await second.stop(key(), 5.0)
        numbers = [int(text) for _, text in output(second, key())]
        assert numbers == list(range(len(numbers)))
        await clear(second)


async def test_secrets_are_not_in_the_output(one: Driver, launch: Launching):
    """Whatever a program writes of them, in however many pieces: neither its output nor its last words have them."""
    secret = "hunter2-correct-horse"
    program = """
import os, sys, time
secret = os.environ["TOKEN"]
print("token", secret, secret)
os.write(2, b"Traceback: " + secret[:8].encode())
time.sleep(0.1)
os.write(2, secret[8:].encode() + b" is wrong\\n")
sys.exit(3)
"""
    await one.start(launch(script(program), env={"TOKEN": secret}, secrets=[secret]))
    run = await ended(one)
    assert run.last_words == ["Traceback: *** is wrong"]
    assert sorted(text for _, text in output(one, run.key)) == ["Traceback: *** is wrong", "token *** ***"]
    files = [path for path in one.directory(run.key).rglob("*") if path.is_file()]
    assert not [path for path in files if secret in path.read_text(errors="replace")]


async def test_the_environment_and_the_configuration_arrive(one: Driver, launch: Launching):
    """The program sees its variables, and its configuration in a file that only it can read."""
    program = """
import os, stat
path = os.environ["FLOWCTL_CONFIG_FILE"]
print(open(path).read(), oct(stat.S_IMODE(os.stat(path).st_mode)))
print(os.environ["GREETING"], os.path.isdir(os.environ["FLOWCTL_STATE_DIR"]))
"""
    await one.start(launch(script(program), env={"GREETING": "Grüß\n$(id)"}, config=b'{"password":"hush"}'))
    run = await ended(one)
    assert [text for _, text in output(one, run.key)] == ['{"password":"hush"} 0o600', "Grüß", "$(id) True"]


async def test_arguments_are_given_as_they_are(one: Driver, launch: Launching):
    """No shell looks at them."""
    awkward = ["", " ", "$(id)", "`id`", "*", "a;b", "--", "ü", "\n", '"']
    await one.start(launch([*script("import sys; print(ascii(sys.argv[1:]))"), *awkward]))
    run = await ended(one)
    assert output(one, run.key) == [("stdout", ascii(awkward))]


async def test_another_driver_adopts_what_runs(opened: Opened, launch: Launching):
    """An agent that was killed is followed by one that sees the same runs, hears their end and stops them."""
    async with opened() as first:
        started = await first.start(launch(script("import time; print('before'); time.sleep(3600)")))
        await eventually(lambda: output(first, key()) == [("stdout", "before")], "output")
    async with opened() as second:
        assert await second.list() == [started]
        with pytest.raises(DriverError, match="runs already"):
            await second.start(launch(SLEEP, key(2)))
        exits: list[Run] = []
        second.on_exit(exits.append)
        await second.stop(key(), 5.0)
        assert [run.signal for run in exits] == [signal.SIGTERM]
        assert output(second, key()) == [("stdout", "before")]


async def test_an_exit_that_no_agent_saw_is_found(opened: Opened, launch: Launching):
    """What ended while there was no agent is listed with its exact end, until it is forgotten; then never again."""
    async with opened() as first:
        await first.start(launch(script("import sys; sys.stdin.read(); raise SystemExit(9)")))
    async with opened() as second:
        run = await ended(second)
        assert run.code == 9
    async with opened() as third:
        assert await third.list() == [run]
        await third.forget(run.key)
    async with opened() as fourth:
        assert await fourth.list() == []
        await fourth.tidy(())


async def test_many_at_once(one: Driver, launch: Launching):
    """Instances start and end independently."""
    exits: list[Run] = []
    one.on_exit(exits.append)
    launches = [launch(script(f"raise SystemExit({index})"), key(1, index)) for index in range(10)]
    await asyncio.gather(*(one.start(each) for each in launches))
    await eventually(lambda: len(exits) == 10, "ten exits")
    assert sorted((run.key.instance.index, run.code) for run in exits) == [(index, index) for index in range(10)]
    assert [run.key for run in await one.list()] == [key(1, index) for index in range(10)]
