"""For the agent's tests: launches of tiny programs, drivers on a directory, and what of them is left on this machine."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from flowctl.ids import InstanceId
from flowctl_agent.drivers import Driver, Launch, Run, RunKey
from flowctl_agent.drivers.process import ProcessDriver
from support.polling import eventually

WORKER = InstanceId("orders", "worker", 0)


def script(text: str) -> list[str]:
    """The command that runs a Python text."""
    return [sys.executable, "-I", "-S", "-u", "-c", text]


SLEEP = script("import time; time.sleep(3600)")
STUBBORN = script("import signal, time; signal.signal(15, signal.SIG_IGN); print('ready'); time.sleep(3600)")


def key(incarnation: int = 1, index: int = 0) -> RunKey:
    """A run of the worker."""
    return RunKey(InstanceId("orders", "worker", index), incarnation)


def launch(
    argv: Sequence[str],
    run: RunKey | None = None,
    *,
    env: Mapping[str, str] | None = None,
    config: bytes = b"{}",
    secrets: Sequence[str] = (),
    cwd: Path | None = None,
    stop_timeout_s: float = 5.0,
    **more: Any,
) -> Launch:
    """A launch of a program."""
    return Launch(
        key=run or key(),
        assignment=7,
        argv=list(argv),
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", **(env or {})},
        config=config,
        secrets=tuple(secrets),
        cwd=cwd,
        stop_timeout_s=stop_timeout_s,
        **more,
    )


def process_driver(state_dir: Path, *, log_file_bytes: int = 1_000_000, log_files: int = 3, kept_runs: int = 2) -> ProcessDriver:
    """A process driver that is not open yet."""
    return ProcessDriver(state_dir, log_file_bytes=log_file_bytes, log_files=log_files, kept_runs=kept_runs)


async def only_run(driver: Driver) -> Run:
    """The one run that the driver lists."""
    runs = await driver.list()
    assert len(runs) == 1, runs
    return runs[0]


async def ended(driver: Driver, run: RunKey | None = None) -> Run:
    """The run once it has exited."""
    exits: list[Run] = []
    driver.on_exit(exits.append)
    known = [each for each in await driver.list() if not each.live and each.key == (run or key())]
    if known:
        return known[0]
    await eventually(lambda: bool(exits), "an exit")
    return exits[0]


async def clear(driver: Driver) -> None:
    """Stop what runs, and let go of what has ended."""
    for run in await driver.list():
        await driver.stop(run.key, 0.0)
    for run in await driver.list():
        await driver.forget(run.key)
    await driver.tidy(())


def output(driver: Driver, run: RunKey) -> list[tuple[str, str]]:
    """Everything that a run has written, as (stream, text)."""
    lines: list[tuple[str, str]] = []
    position = 0
    while True:
        chunk = driver.read_output(run, position, 65_536)
        lines += [(line.stream, line.text) for line in chunk.lines]
        if chunk.position == position:
            return lines
        position = chunk.position


def processes_of(state_dir: Path) -> list[psutil.Process]:
    """Every process of this machine that belongs to a run in that state directory: shims, components, their children."""
    mark = str(state_dir / "instances")
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            told = " ".join(process.cmdline()) + process.environ().get("FLOWCTL_STATE_DIR", "")
        except psutil.Error:
            continue
        if mark in told and process.pid != psutil.Process().pid:
            found.append(process)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
