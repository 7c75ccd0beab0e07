"""Output on its way to the log stream: nothing lost that still exists, nothing twice, losses said."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from flowctl.clock import SystemClock
from flowctl.errors import JournalUnavailableError
from flowctl.journal.logs import LogLine
from flowctl.journal.memory import MemoryStore
from flowctl_agent.drivers.process import ProcessDriver
from flowctl_agent.drivers.several import Drivers
from flowctl_agent.metrics import AgentMetrics
from flowctl_agent.shim.output import Output
from flowctl_agent.tailer import Tailer
from support.agents import ended, key, launch, only_run, process_driver, script
from support.polling import eventually


def tailer(driver: ProcessDriver | Drivers, store: MemoryStore) -> Tailer:
    """A tailer that is not running."""
    return Tailer(driver=driver, logs=store.logs, clock=SystemClock(), metrics=AgentMetrics(CollectorRegistry()))


async def stored(store: MemoryStore) -> list[LogLine]:
    """Everything in the log stream."""
    return [line async for line in store.logs.read("orders")]


async def run_to_its_end(driver: ProcessDriver, program: str) -> None:
    """Run a program and wait until it has ended."""
    exits: list[object] = []
    driver.on_exit(exits.append)
    await driver.start(launch(script(program)))
    await eventually(lambda: bool(exits), "the exit")


async def send_all(tail: Tailer, driver: ProcessDriver | Drivers) -> None:
    """Rounds until there is nothing left to send."""
    for each in driver.outputs():
        tail.wake(each)
    while tail._pending:  # pyright: ignore[reportPrivateUsage]
        await tail.send()


async def test_what_could_not_be_sent_is_sent_later(driver: ProcessDriver):
    """While the log stream is away nothing counts as sent."""
    store = MemoryStore()
    tail = tailer(driver, store)
    await run_to_its_end(driver, "print('one'); print('two')")
    store.set_available(available=False)
    tail.wake(key())
    with pytest.raises(JournalUnavailableError):
        await tail.send()
    store.set_available(available=True)
    await send_all(tail, driver)
    assert [line.text for line in await stored(store)] == ["one", "two"]


async def test_a_kill_between_sending_and_noting_repeats_nothing(driver: ProcessDriver):
    """The lines come again with the same ids, which the stream drops."""
    store = MemoryStore()
    await run_to_its_end(driver, "for n in range(1000): print(n)")
    await send_all(tailer(driver, store), driver)
    (driver.directory(key()) / "sent").unlink()
    await send_all(tailer(driver, store), driver)
    assert [line.text for line in await stored(store)] == [str(n) for n in range(1000)]


async def test_the_output_of_a_forgotten_run_is_sent(driver: ProcessDriver):
    """The journal knows the exit already; people still wait for the last words."""
    store = MemoryStore()
    await run_to_its_end(driver, "print('last words')")
    await driver.forget((await only_run(driver)).key)
    await send_all(tailer(driver, store), driver)
    assert [line.text for line in await stored(store)] == ["last words"]


async def test_what_is_removed_is_forgotten(state_dir: Path):
    """However often an instance ends and begins anew, only the runs whose output is kept are remembered."""
    alone = process_driver(state_dir, kept_runs=2)
    driver = Drivers([alone])
    await driver.open()
    tail = tailer(driver, MemoryStore())
    for incarnation in range(1, 8):
        await alone.start(launch(script("print('x')"), key(incarnation)))
        await ended(alone, key(incarnation))
        await send_all(tail, driver)
        assert [run.key for run in await driver.list()] == [key(incarnation)]
        await driver.forget(key(incarnation))
    assert driver.outputs() == [key(6), key(7)]
    assert set(driver._of[key().instance]) == {key(6), key(7)}  # pyright: ignore[reportPrivateUsage]
    assert set(tail._positions[key().instance]) == {key(5), key(6), key(7)}  # pyright: ignore[reportPrivateUsage]
    await driver.close()


async def test_what_was_rotated_away_is_said(state_dir: Path):
    """A line says how many bytes are missing; the rest follows without a gap."""
    driver = process_driver(state_dir, log_file_bytes=10_000, log_files=2)
    await driver.open()
    store = MemoryStore()
    await run_to_its_end(driver, "import sys\nfor n in range(3000):\n print(n)\n if n % 100 == 0: sys.stdout.flush()")
    await send_all(tailer(driver, store), driver)
    first, *rest = await stored(store)
    assert "bytes of output were rotated away" in first.text
    numbers = [int(line.text) for line in rest]
    assert numbers == list(range(numbers[0], 3000))
    await driver.close()


async def test_a_flood_does_not_starve_the_others(driver: ProcessDriver):
    """Whoever writes without end gets its share of every round, and no more."""
    store = MemoryStore()
    tail = tailer(driver, store)
    await run_to_its_end(driver, "for n in range(200000): print('flood')")
    await driver.start(launch(script("print('quiet')"), key(1, 1)))
    await eventually(lambda: bool(driver.read_output(key(1, 1), 0, 100).lines), "the quiet one")
    tail.wake(key())
    tail.wake(key(1, 1))
    await tail.send()
    await tail.send()
    lines = await stored(store)
    assert "quiet" in {line.text for line in lines}
    assert len(lines) < 10_000


def test_a_burst_is_rotated_line_by_line(tmp_path: Path):
    """However much is written at once, no file grows beyond its size, and lines stay whole across files."""
    output = Output(str(tmp_path), 1_000, 3)
    output.write(b"".join(b"%d\n" % number for number in range(2_000)))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    assert all(file.stat().st_size <= 1_000 for file in files)
    numbers = [int(line) for file in files for line in file.read_text().splitlines()]
    assert numbers == list(range(numbers[0], 2_000))
