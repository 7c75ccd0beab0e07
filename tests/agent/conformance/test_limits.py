"""Limits: a run gets what its file allows it and no more, whatever runs it. A driver that cannot enforce them says so."""

import signal
from collections.abc import Callable

import pytest

from flowctl.spec.model import Resources
from flowctl_agent.drivers import Driver, Launch
from support.agents import ended, output, script

Launching = Callable[..., Launch]

BUSY = """
import time
end = time.monotonic() + 1.0
while time.monotonic() < end:
    pass
print(time.process_time())
"""
MANY = """
import threading, time
def wait():
    time.sleep(3600)
try:
    for count in range(100):
        threading.Thread(target=wait, daemon=True).start()
except RuntimeError:
    pass
print(count)
"""


@pytest.mark.needs("limits")
async def test_too_much_memory_ends_the_run_and_is_named(one: Driver, launch: Launching):
    """The kernel's kill is told from any other."""
    greedy = script("kept = [bytearray(1 << 20) for _ in range(400)]")
    await one.start(launch(greedy, resources=Resources(memory_bytes=32 << 20)))
    run = await ended(one)
    assert (run.code, run.signal) == (None, signal.SIGKILL)
    assert run.cause == "the kernel killed it: it needed more memory than it may use"


@pytest.mark.needs("limits")
async def test_enough_memory_is_let_be(one: Driver, launch: Launching):
    """What stays within its limit is not killed."""
    await one.start(launch(script("kept = bytearray(8 << 20)"), resources=Resources(memory_bytes=64 << 20)))
    run = await ended(one)
    assert (run.code, run.signal, run.cause) == (0, None, "")


@pytest.mark.needs("limits")
async def test_a_busy_program_gets_its_share_of_the_processor(one: Driver, launch: Launching):
    """A fifth of a core: a second of work takes five."""
    await one.start(launch(script(BUSY), resources=Resources(cpu=0.2)))
    run = await ended(one)
    ((_, text),) = output(one, run.key)
    assert float(text) < 0.35


@pytest.mark.needs("limits")
async def test_processes_and_threads_are_counted(one: Driver, launch: Launching):
    """The next one is refused to the program, and the host does not feel it."""
    await one.start(launch(script(MANY), container={"pids": 20}))
    run = await ended(one)
    ((_, text),) = output(one, run.key)
    assert 10 <= int(text) < 20
