"""The file sink: every event once, whatever happens between two writes."""

import contextlib
import json
import logging
import os
import zlib
from pathlib import Path
from typing import Any

import pytest

from flowctl.errors import ComponentError, InvalidSettingError
from flowctl.ids import InstanceId
from flowctl_components import ledger as ledger_module
from flowctl_components.file_sink import FileSink
from flowctl_components.ledger import Ledger, LockedError
from flowctl_sdk import Context, Event
from flowctl_sdk.testing import consume

RUN = "FLOWCTL_RUN"


@pytest.fixture(autouse=True)
def as_started_by_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWCTL_ENDPOINT", "127.0.0.1:1")
    monkeypatch.setenv(RUN, "17")


def events(*positions: int, origin: str = "numbers.0", path: str = "") -> list[Event]:
    return [Event(b'{"n":%d}' % position, 1_700_000_000_000_000_000, position, origin, path) for position in positions]


async def opened(tmp_path: Path, index: int = 0, **config: Any) -> FileSink:
    sink = FileSink()
    instance = InstanceId("test", "file", index)
    state_dir = tmp_path / f"state-{index}"
    given = {"path": str(tmp_path / "out.jsonl"), **config}
    await sink.open(Context(config=given, instance=instance, state_dir=state_dir, log=logging.getLogger("test")))
    return sink


def kill(tmp_path: Path) -> None:
    """What kill -9 does to the sink's files: they are closed, with their lock, and nothing else happens."""
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if link.readlink().is_relative_to(tmp_path):
                os.close(int(link.name))


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("config", "lines"),
    [
        ({}, ['{"a":1}', '"text"', '{"base64":"/w=="}', '{"b":2}']),
        ({"format": "lines"}, ['{"a":1}', "text", "\udcff", '{"b":2}']),
    ],
)
async def test_formats(tmp_path: Path, config: dict[str, Any], lines: list[str]):
    """JSON stays as it is; text and bytes become JSON, unless lines are written as they come."""
    payloads = [b'{"a":1}', b"text", b"\xff", b'{"b":2}']
    path = tmp_path / "deep" / "out.jsonl"
    await consume(FileSink, payloads, config={"path": str(path), **config})
    assert path.read_bytes().decode(errors="surrogateescape").splitlines() == lines


async def test_a_pretty_payload_stays_on_one_line(tmp_path: Path):
    """A line break inside JSON does not break the file; in format lines it is refused."""
    sink = await opened(tmp_path)
    await sink.write([Event(b'{\n "n": 1\n}', 0, 0, "a.0")])
    await sink.close()
    assert (tmp_path / "out.jsonl").read_text() == '{"n":1}\n'
    sink = await opened(tmp_path, format="lines")
    with pytest.raises(ValueError, match=r"event a\.0:1 has a line break"):
        await sink.write([Event(b"x\ny", 0, 1, "a.0")])
    await sink.close()


async def test_the_envelope_tells_everything(tmp_path: Path):
    """Id, time, type and metadata stand beside the payload."""
    sink = await opened(tmp_path, envelope=True)
    await sink.write([Event(b"[1]", 1_700_000_000_123_456_789, 5, "numbers.0", "/double.0", "even", {"k": "v"})])
    await sink.close()
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "id": "numbers.0:5/double.0",
        "time": "2023-11-14T22:13:20.123456Z",
        "type": "even",
        "metadata": {"k": "v"},
        "payload": [1],
    }


async def test_what_a_crash_left_half_written_is_cut_off(tmp_path: Path):
    """Killed between the data and the note that it counts: the data goes, its events come again, each is there once."""
    sink = await opened(tmp_path)
    await sink.write(events(0, 1))
    with (tmp_path / "out.jsonl").open("ab") as file:
        file.write(b'{"n":2}\n{"n":')
    kill(tmp_path)
    sink = await opened(tmp_path)
    assert numbers(tmp_path / "out.jsonl") == [0, 1]
    await sink.write(events(2, 3))
    await sink.close()
    assert numbers(tmp_path / "out.jsonl") == [0, 1, 2, 3]


async def test_events_that_come_again_are_passed_over(tmp_path: Path):
    """Killed after the note and before the acknowledgement: everything unacknowledged comes again and nothing is twice."""
    sink = await opened(tmp_path)
    await sink.write(events(0, 1, 2))
    await sink.write(events(1, 2, 3))
    kill(tmp_path)
    sink = await opened(tmp_path)
    await sink.write(events(0, 1, 2, 3, 4))
    await sink.write(events(2, path="/other.0"))
    await sink.close()
    assert numbers(tmp_path / "out.jsonl") == [0, 1, 2, 3, 4, 2]


async def test_replicas_upstream_may_overtake_each_other(tmp_path: Path):
    """Odd and even positions on two ways of their own, killed in between: all are stored, once."""
    sink = await opened(tmp_path)
    await sink.write(events(0, 2, 4, 6))
    kill(tmp_path)
    sink = await opened(tmp_path)
    await sink.write(events(1, 3))
    await sink.write(events(4, 5, 6, 8, 7))
    await sink.close()
    assert sorted(numbers(tmp_path / "out.jsonl")) == list(range(9))


async def test_a_new_run_is_not_taken_for_a_repetition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same positions in another run are other events; replace begins with an empty file, append goes on."""
    await (first := await opened(tmp_path)).write(events(0, 1))
    await first.close()
    monkeypatch.setenv(RUN, "18")
    await (second := await opened(tmp_path)).write(events(0, 1))
    await second.close()
    assert numbers(tmp_path / "out.jsonl") == [0, 1, 0, 1]
    monkeypatch.setenv(RUN, "19")
    third = await opened(tmp_path, mode="replace")
    await third.write(events(0))
    kill(tmp_path)
    await (third := await opened(tmp_path, mode="replace")).write(events(0, 1))
    await third.close()
    assert numbers(tmp_path / "out.jsonl") == [0, 1]


async def test_runs_are_counted_anew_where_the_state_was_deleted(tmp_path: Path):
    """The number of the run alone does not make it the same: a control plane that begins anew counts from the start."""
    await (first := await opened(tmp_path)).write(events(0))
    await first.close()
    (tmp_path / "state-0" / "mark").unlink()
    await (second := await opened(tmp_path)).write(events(0))
    await second.close()
    assert numbers(tmp_path / "out.jsonl") == [0, 0]


async def test_without_a_run_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Started by something that does not tell the run, events of before a restart count as new."""
    monkeypatch.delenv(RUN)
    await (await opened(tmp_path)).write(events(0, 1))
    kill(tmp_path)
    await (second := await opened(tmp_path)).write(events(1, 2))
    await second.write(events(2, 3))
    await second.close()
    assert numbers(tmp_path / "out.jsonl") == [0, 1, 1, 2, 3]


async def test_what_others_wrote_stays(tmp_path: Path):
    """A file that was there before, or grew while nothing ran, is never cut; an unfinished line is finished."""
    path = tmp_path / "out.jsonl"
    path.write_text('{"n":-1}')
    await (first := await opened(tmp_path)).write(events(0))
    await first.close()
    with path.open("a") as file:
        file.write('{"n":-2}\n')
    await (second := await opened(tmp_path)).write(events(0, 1))
    await second.close()
    assert numbers(path) == [-1, 0, -2, 1]


async def test_rotation_keeps_every_event_once(tmp_path: Path):
    """Files are put aside at the size asked for, the oldest beyond keep go, and a crash between changes nothing."""
    sink = await opened(tmp_path, rotate_bytes=1000)
    for start in range(0, 600, 20):
        if start == 300:
            kill(tmp_path)
            sink = await opened(tmp_path, rotate_bytes=1000)
        await sink.write(events(*range(max(0, start - 30), start + 20)))
    await sink.close()
    files = sorted(tmp_path.glob("out.jsonl.*"), key=lambda path: -int(path.suffix[1:]))
    assert len(files) >= 4
    assert [n for path in [*files, tmp_path / "out.jsonl"] for n in numbers(path)] == list(range(600))
    assert all(1000 <= path.stat().st_size < 1500 for path in files)
    sink = await opened(tmp_path, rotate_bytes=1000, keep=2)
    await sink.write(events(*range(600, 800)))
    await sink.close()
    assert sorted(path.name for path in tmp_path.glob("out.jsonl.*")) == ["out.jsonl.1", "out.jsonl.2"]


async def test_a_full_disk_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A write that fails, in the data or in the ledger, is an error; the same events are stored once when it works again."""
    sink = await opened(tmp_path)
    await sink.write(events(0))
    real = os.fdatasync
    for failing in (1, 2):
        calls = 0

        def full(descriptor: int, failing: int = failing) -> None:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(28, "No space left on device")
            real(descriptor)

        monkeypatch.setattr(os, "fdatasync", full)
        with pytest.raises(ComponentError, match=r"cannot write .*out.jsonl: No space left on device"):
            await sink.write(events(1, 2))
        monkeypatch.setattr(os, "fdatasync", real)
        assert numbers(tmp_path / "out.jsonl") == [0]
    await sink.write(events(1, 2))
    kill(tmp_path)
    sink = await opened(tmp_path)
    await sink.write(events(1, 2, 3))
    await sink.close()
    assert numbers(tmp_path / "out.jsonl") == [0, 1, 2, 3]


async def test_replicas_write_files_of_their_own(tmp_path: Path):
    """{index} in the path tells them apart; without it the second replica refuses."""
    path = str(tmp_path / "part-{index}.jsonl")
    for index in (0, 1):
        sink = await opened(tmp_path, index, path=path)
        await sink.write(events(index))
        await sink.close()
    assert numbers(tmp_path / "part-0.jsonl") == [0]
    assert numbers(tmp_path / "part-1.jsonl") == [1]
    with pytest.raises(InvalidSettingError, match="replicas cannot share a file"):
        await opened(tmp_path, 1)


def test_one_file_has_one_writer(tmp_path: Path):
    """The second waits for the first and then gives up; the lock outlives a compaction."""
    path = tmp_path / ".out.flowctl"
    first = Ledger(path)
    with pytest.raises(LockedError):
        Ledger(path, lock_timeout_s=0.1)
    first.compact("run", 1, 0)
    with pytest.raises(LockedError):
        Ledger(path, lock_timeout_s=0.1)
    first.close()
    Ledger(path, lock_timeout_s=0.1).close()


def test_the_ledger_survives_a_torn_line_and_its_own_compaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A broken last line is as if it had never been written; a compacted ledger knows what the long one knew."""
    path = tmp_path / ".out.flowctl"
    monkeypatch.setattr(ledger_module, "_COMPACT_BYTES", 2_000)
    ledger = Ledger(path, window_events=50)
    for start in range(0, 1_000, 10):
        ledger.commit("run", 1, start, {("a.0", ""): list(range(start, start + 10))})
    assert path.stat().st_size < 3_000
    ledger.close()
    with path.open("ab") as file:
        file.write(b'01234567 {"run":"run","inode":1,"si')
    ledger = Ledger(path, window_events=50)
    assert ledger.last is not None
    assert ledger.last.size == 990
    assert ledger.seen.new(("a.0", ""), [0, 500, 999, 1_000]) == [3]
    ledger.commit("run", 1, 1_000, {})
    ledger.close()
    assert Ledger(path).last is not None


def test_a_compacted_ledger_knows_which_older_events_are_not_stored(tmp_path: Path):
    """What was away when the later ones came is new, however much lies between; also for a ledger that kept no holes."""
    path = tmp_path / ".out.flowctl"
    ledger = Ledger(path, window_events=10)
    for start in (0, 30, 60, 90):
        ledger.commit("run", 1, start, {("a.0", ""): list(range(start, start + 20))})
    ledger.compact("run", 1, 110)
    ledger.close()
    ledger = Ledger(path, window_events=10)
    assert ledger.seen.new(("a.0", ""), [10, 19, 20, 29, 30, 80, 105, 110]) == [2, 3, 5, 7]
    ledger.close()
    body = b'{"run":"run","inode":1,"size":9,"floors":[{"origin":"a.0","path":"","position":50}],"snapshot":true}'
    path.write_bytes(b"%08x %b\n" % (zlib.crc32(body), body))
    ledger = Ledger(path, window_events=10)
    assert ledger.seen.new(("a.0", ""), [20, 51]) == [0, 1]
    assert ledger.seen.uncertain == 1
    ledger.close()


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"keep": 3}, "goes with 'rotate_bytes'"),
        ({"format": "lines", "envelope": True}, "goes with format json"),
        ({"path": "."}, "is a directory"),
        ({"mode": "overwrite"}, "config.mode: .*overwrite"),
    ],
)
async def test_bad_configurations(tmp_path: Path, config: dict[str, Any], sentence: str):
    """Each is refused with the field and what is wrong with it."""
    with pytest.raises(InvalidSettingError, match=sentence):
        await opened(tmp_path, **config)


async def test_replace_needs_to_know_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Otherwise a restart in the middle of a run would throw its results away."""
    monkeypatch.delenv(RUN)
    with pytest.raises(InvalidSettingError, match="needs to know when a new run begins"):
        await opened(tmp_path, mode="replace")
