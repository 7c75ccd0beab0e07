"""What only processes have: shims, groups, files, pids that come again."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flowctl_agent.drivers import OutputChunk, Run, segments
from flowctl_agent.drivers.process import ProcessDriver
from flowctl_agent.drivers.processes import sweep
from flowctl_agent.drivers.rundir import RunDirectory, RunningRecord
from flowctl_agent.shim import kernel
from flowctl_agent.shim.output import MAX_LINE_BYTES
from support.agents import SLEEP, alive, key, launch, only_run, output, process_driver, processes_of, script
from support.polling import eventually


def shim_of(run: Run) -> psutil.Process:
    """The shim's process."""
    parent = psutil.Process(int(run.handle)).parent()
    assert parent is not None
    return parent


async def test_the_handle_is_the_programs_own_pid(driver: ProcessDriver):
    """Operators kill, trace and look at the program, not at what is around it; it leads a group of its own."""
    run = await driver.start(launch(SLEEP))
    process = psutil.Process(int(run.handle))
    assert process.cmdline() == SLEEP
    assert os.getpgid(process.pid) == process.pid
    assert os.getsid(process.pid) != os.getsid(0)


async def test_a_stopped_program_can_be_stopped(driver: ProcessDriver):
    """SIGSTOP does not make it immortal: it is woken to obey."""
    # short sleeps: a signal that comes just before a long one would not be noticed in it
    program = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
print("ready")
while True:
    time.sleep(0.01)
"""
    run = await driver.start(launch(script(program), stop_timeout_s=30.0))
    await eventually(lambda: output(driver, run.key) == [("stdout", "ready")], "a program that waits")
    os.kill(int(run.handle), signal.SIGSTOP)
    await driver.stop(run.key, 30.0)
    assert (await only_run(driver)).code == 3


async def test_a_stopped_shim_does_not_hold_a_stop_up(driver: ProcessDriver):
    """The agent wakes it too."""
    run = await driver.start(launch(SLEEP))
    shim_of(run).suspend()
    await driver.stop(run.key, 5.0)
    assert (await only_run(driver)).signal == signal.SIGTERM


async def test_the_shim_keeps_the_deadline_without_an_agent(state_dir: Path):
    """An agent that dies while it stops a stubborn program leaves nothing behind."""
    first = process_driver(state_dir)
    await first.open()
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready'); time.sleep(3600)"
    run = await first.start(launch(script(program), stop_timeout_s=0.3))
    await eventually(lambda: bool(output(first, run.key)), "a program that ignores SIGTERM")
    shim_of(run).terminate()
    await first.close()
    await eventually(lambda: not alive(int(run.handle)), "the end by the shim's own deadline")
    second = process_driver(state_dir)
    await second.open()
    await eventually(lambda: not processes_of(state_dir) and not driver_runs(second), "the end of the shim")
    last = await only_run(second)
    assert last.stopped
    await second.close()


async def test_a_killed_shim_takes_its_program_with_it(driver: ProcessDriver):
    """The end is reported, as one that nobody saw; nothing of it lives."""
    exits: list[Run] = []
    driver.on_exit(exits.append)
    program = """
import subprocess, time
subprocess.Popen(['sleep', '3600'], start_new_session=True)
print('ready')
time.sleep(3600)
"""
    run = await driver.start(launch(script(program)))
    await eventually(lambda: bool(output(driver, run.key)), "a program with a child")
    children = psutil.Process(int(run.handle)).children(recursive=True)
    assert children
    shim_of(run).kill()
    await eventually(lambda: bool(exits), "the exit")
    assert (exits[0].code, exits[0].signal) == (None, None)
    assert not alive(int(run.handle))
    assert not any(alive(child.pid) for child in children)


async def test_a_killed_shim_takes_its_program_with_it_without_an_agent(state_dir: Path):
    """Nobody is there to sweep: the kernel ends the program when its shim is gone, so that no two can ever run."""
    first = process_driver(state_dir)
    await first.open()
    run = await first.start(launch(SLEEP))
    shim = shim_of(run)
    await first.close()
    shim.kill()
    await eventually(lambda: not alive(int(run.handle)), "the end of the program")


@pytest.mark.parametrize("own_session", [False, True])
async def test_no_descendant_outlives_the_program(driver: ProcessDriver, own_session: bool):
    """Children in the background, daemons with a session of their own, their children: all end with the program."""
    program = f"""
import subprocess, sys
child = subprocess.Popen(["sh", "-c", "sleep 3600 & sleep 3600"], start_new_session={own_session})
print(child.pid)
"""
    await driver.start(launch(script(program)))
    await eventually(lambda: not any(run.live for run in driver_runs(driver)), "the exit")
    pid = int(output(driver, key())[0][1])
    assert not alive(pid)


def driver_runs(driver: ProcessDriver) -> list[Run]:
    """The runs, without waiting."""
    return [live.run for live in driver._live.values()]  # pyright: ignore[reportPrivateUsage]


async def test_a_kill_is_seen_at_once(driver: ProcessDriver):
    """Not at the next look: the exit is told within a fraction of a second."""
    import time

    seen: list[float] = []
    driver.on_exit(lambda _: seen.append(time.monotonic()))
    run = await driver.start(launch(SLEEP))
    at = time.monotonic()
    os.kill(int(run.handle), signal.SIGKILL)
    await eventually(lambda: bool(seen), "the exit")
    assert seen[0] - at < 0.5


async def test_secrets_are_in_no_listing_and_go_with_the_program(driver: ProcessDriver, state_dir: Path):
    """Not in a command line, not in the shim's environment, in no file but the private configuration, which ends with the run."""
    secret = "hunter2-correct-horse"
    run = await driver.start(launch(SLEEP, env={"TOKEN": secret}, config=json.dumps({"token": secret}).encode()))
    shim = shim_of(run)
    for process in (shim, psutil.Process(int(run.handle))):
        assert secret not in " ".join(process.cmdline())
    assert secret not in " ".join(shim.environ().values())
    holding = [path for path in state_dir.rglob("*") if path.is_file() and secret in path.read_text(errors="replace")]
    assert holding == [driver.directory(run.key) / "config.json"]
    assert stat.S_IMODE(holding[0].stat().st_mode) == 0o600
    assert stat.S_IMODE(driver.directory(run.key).stat().st_mode) == 0o700
    await driver.stop(run.key, 5.0)
    assert not holding[0].exists()


async def test_the_program_inherits_nothing(driver: ProcessDriver):
    """No descriptor but the standard ones, no ignored signal, an empty stdin, its own directory."""
    program = """
import os, signal, sys
print(sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["SigIgn"], 16) & ~(1 << 12 | 1 << 24 | 3 << 31), int(status["SigBlk"], 16), repr(sys.stdin.read()), os.getcwd())
"""
    await driver.start(launch(script(program)))
    await eventually(lambda: len(output(driver, key())) == 2, "the answer")
    texts = [text for _, text in output(driver, key())]
    assert texts[0] == "[0, 1, 2]"
    assert texts[1] == f"0 0 '' {driver.directory(key()).parent / 'state'}"


async def test_a_reused_pid_is_not_taken_for_a_run(state_dir: Path):
    """A record that names a pid which is somebody else's now is a run that has ended; the other process is left alone."""
    first = process_driver(state_dir)
    await first.open()
    run = await first.start(launch(SLEEP))
    await first.stop(run.key, 5.0)
    await first.close()
    directory = RunDirectory(state_dir / "instances", run.key)
    (directory.path / "exit.json").unlink()
    stranger = subprocess.Popen(["sleep", "3600"])
    try:
        for start in (0, kernel.start_ticks(stranger.pid) - 1):
            record = {
                "shim": stranger.pid,
                "shim_start": start,
                "pid": stranger.pid,
                "pid_start": start,
                "boot": kernel.boot_id(),
                "started_ns": 1,
            }
            (directory.path / "running.json").write_text(json.dumps(record))
            second = process_driver(state_dir)
            await second.open()
            last = await only_run(second)
            assert (last.state, last.code, last.signal) == ("exited", None, None)
            await second.stop(run.key, 0.0)
            await second.close()
            assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_after_a_reboot_no_pid_means_anything(state_dir: Path):
    """Records of another boot are never used to kill."""
    stranger = subprocess.Popen(["sleep", "3600"], start_new_session=True)
    try:
        record = RunningRecord(shim=stranger.pid, shim_start=0, pid=stranger.pid, pid_start=0, boot="another boot", started_ns=1)
        assert await sweep(record, f"FLOWCTL_CONFIG_FILE={state_dir}/none")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_torn_files_are_not_runs(state_dir: Path):
    """Directories that a power failure left half-written, and what does not belong there, are passed over."""
    instances = state_dir / "instances"
    for name in ("orders.torn.0/1", "orders.torn.0/state", "not an instance/1", "orders.torn.0/x"):
        (instances / name).mkdir(parents=True)
    (instances / "orders.torn.0" / "1" / "launch.json").write_bytes(b'{"assignm')
    (instances / "file").write_text("")
    again = process_driver(state_dir)
    await again.open()
    assert await again.list() == []
    await again.close()


async def test_output_is_rotated_within_its_bound(state_dir: Path):
    """Files of the given size, as many as given; what is still there is read without a gap, what is gone is counted."""
    driver = process_driver(state_dir, log_file_bytes=10_000, log_files=3)
    await driver.open()
    await driver.start(launch(script("for n in range(5000): print(n)")))
    await eventually(lambda: not driver_runs(driver), "the exit")
    directory = driver.directory(key())
    files = [path for _, path in segments.segments(directory)]
    assert len(files) == 3
    assert all(path.stat().st_size <= 300_000 for path in files)
    numbers = [int(text) for _, text in output(driver, key())]
    assert numbers == list(range(numbers[0], 5000))
    lost = driver.read_output(key(), 0, 1000).lost_bytes
    assert lost == segments.segments(directory)[0][0] > 0
    await driver.close()


async def test_awkward_output_becomes_lines(driver: ProcessDriver):
    """Invalid UTF-8, carriage returns, empty lines, lines without an end and endless ones: bounded, readable, none lost."""
    program = r"""
import os, time
os.write(1, b"\xff\xfe broken\r\n\n")
os.write(1, "ü".encode() * 40_000 + b"\n")
os.write(1, b"no end")
"""
    await driver.start(launch(script(program)))
    await eventually(lambda: not driver_runs(driver), "the exit")
    texts = [text for _, text in output(driver, key())]
    assert texts[0] == "\ufffd\ufffd broken"
    assert texts[1] == ""
    assert texts[-1] == "no end"
    long = texts[2:-1]
    assert "".join(long) == "ü" * 40_000
    assert all(len(text.encode()) <= MAX_LINE_BYTES for text in long)


async def test_undecodable_output_keeps_within_a_line(driver: ProcessDriver):
    """A byte that is no UTF-8 takes three once it is replaced: such lines are cut like others, and what follows is read."""
    program = r"""
import os
os.write(1, b"\xff" * 30_000 + b"\n")
os.write(1, b"\xff" * 40_000 + b"\nafter\n")
"""
    await driver.start(launch(script(program)))
    await eventually(lambda: not driver_runs(driver), "the exit")
    texts = [text for _, text in output(driver, key())]
    assert texts[-1] == "after"
    assert "".join(texts[:-1]) == "\ufffd" * 70_000
    assert all(len(text.encode()) <= MAX_LINE_BYTES for text in texts)


@pytest.mark.parametrize("length", [65_000, 65_536, 98_304, 200_000])
def test_a_line_of_any_length_is_read(tmp_path: Path, length: int):
    """Earlier shims wrote longer ones: it is read whole, and then what follows it; without its end it is waited for."""
    stamp = "2026-01-01T00:00:00.000000000Z stdout "
    path = tmp_path / "output-0.log"
    path.write_text(f"{stamp}{'x' * length}")
    assert segments.read(tmp_path, 0, 65_536) == OutputChunk([], 0)
    path.write_text(f"{stamp}{'x' * length}\n{stamp}after\n")
    first = segments.read(tmp_path, 0, 65_536)
    second = segments.read(tmp_path, first.position, 65_536)
    texts = [line.text for line in (*first.lines, *second.lines)]
    assert texts == ["x" * length, "after"]


async def test_a_prompt_without_an_end_is_seen(driver: ProcessDriver):
    """An unended line is written after a moment, and what follows is a line of its own."""
    await driver.start(launch(script("import sys, time; sys.stdout.write('loading'); sys.stdout.flush(); time.sleep(3600)")))
    await eventually(lambda: output(driver, key()) == [("stdout", "loading")], "the unended line")


async def test_old_runs_are_removed(driver: ProcessDriver):
    """Of the exited and forgotten runs of an instance, the last ones are kept."""
    for incarnation in range(1, 6):
        await driver.start(launch(script("print('x')"), key(incarnation)))
        await eventually(lambda: not driver_runs(driver), "the exit")
        await driver.forget(key(incarnation))
    assert driver.outputs() == [key(4), key(5)]


async def test_numbers_that_begin_anew_replace_what_was_there(driver: ProcessDriver):
    """A new journal counts incarnations from 1 again: the old run's files make room, and its output is not mixed up."""
    for text in ("first life", "second life"):
        await driver.start(launch(script(f"print('{text}')")))
        await eventually(lambda: not driver_runs(driver), "the exit")
        assert output(driver, key()) == [("stdout", text)]


async def test_the_shim_is_small(driver: ProcessDriver):
    """One runs beside every component."""
    run = await driver.start(launch(SLEEP))
    assert shim_of(run).memory_full_info().pss < 8_000_000
    assert shim_of(run).num_threads() == 1


AGENT = """
import asyncio, sys
from pathlib import Path
sys.path[:0] = sys.argv[3:]
from support.agents import SLEEP, launch, process_driver

async def main() -> None:
    driver = process_driver(Path(sys.argv[1]))
    await driver.open()
    run = await driver.start(launch(SLEEP))
    print(run.handle, flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


async def test_kill_9_of_the_agent_leaves_the_program_running(state_dir: Path):
    """A real agent process dies; its program lives on, and the next driver has it under the same pid."""
    argv = [sys.executable, "-c", AGENT, str(state_dir), "--", str(Path(__file__).parent.parent)]
    agent = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert agent.stdout is not None
    with agent.stdout:
        handle = agent.stdout.readline().strip()
        agent.kill()
        agent.wait()
    assert alive(int(handle))
    driver = process_driver(state_dir)
    await driver.open()
    run = await only_run(driver)
    assert (run.live, run.handle) == (True, handle)
    await driver.stop(run.key, 5.0)
    assert (await only_run(driver)).signal == signal.SIGTERM
    await driver.close()
