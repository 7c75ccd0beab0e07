"""The file source: every record once, whatever the format, wherever it resumes, and however the file is rotated."""

import asyncio
import contextlib
import csv
import io
import logging
from collections.abc import AsyncGenerator, Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl.errors import ComponentError, InvalidSettingError
from flowctl.ids import InstanceId
from flowctl_components.file_source import FileSource
from flowctl_components.records import CsvRows, Entry, JsonLines, Lines, RecordError
from flowctl_sdk import Checkpoint, Context, Event
from flowctl_sdk.testing import produce

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data, cut at these places."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def split(splitter: Lines, parts: list[bytes]) -> list[Entry]:
    return [entry for part in parts for entry in splitter.feed(part)] + splitter.finish()


@given(st.lists(TEXT, min_size=1), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.lists(st.integers(0, 10_000), max_size=6))
def test_lines_do_not_depend_on_how_they_are_read(lines: list[str], end: str, last: bool, cuts: list[int]):
    """Any split of the bytes gives the same lines, and resuming behind any of them gives the rest."""
    data = (end.join(lines) + (end if last else "")).encode()
    entries = split(Lines(), pieces(data, cuts))
    expected = data.decode().split("\n")
    if not expected[-1]:
        expected.pop()
    assert [entry.payload.decode() for entry in entries] == [line.removesuffix("\r") for line in expected]
    for number, entry in enumerate(entries):
        assert split(Lines(entry.end + 1), [data[entry.end + 1 :]]) == entries[number + 1 :]


@given(
    st.lists(
        st.lists(
            st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]) | st.sampled_from(",\"\n'")),
            min_size=2,
            max_size=2,
        )
    ),
    st.lists(st.integers(0, 10_000), max_size=6),
)
def test_csv_rows_are_what_was_written(rows: list[list[str]], cuts: list[int]):
    """What the csv module writes comes back, with commas, quotes and line breaks in values, and from any place on."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([["a", "b"], *rows])
    data = text.getvalue().encode()
    entries = split(CsvRows(), pieces(data, cuts))
    decoded = [event.json() for event in (Event(entry.payload) for entry in entries)]
    assert decoded == [{"a": row[0], "b": row[1]} for row in rows]
    for number, entry in enumerate(entries):
        assert split(CsvRows(entry.end + 1, columns=["a", "b"]), [data[entry.end + 1 :]]) == entries[number + 1 :]


@pytest.mark.parametrize(
    ("splitter", "data", "start", "problem"),
    [
        (JsonLines(), b'{"a": 1}\n{"a": \n', 9, "this is not JSON"),
        (JsonLines(), b'{"a": "\xff"}\n', 0, "this is not JSON"),
        (CsvRows(), b"a,b\n1,2\n3\n", 8, "1 values for 2 columns"),
        (CsvRows(), b"a,a\n", 0, "names column 'a' twice"),
        (CsvRows(), b'a,b\n1,"2\n', 4, "never closed"),
        (CsvRows(), b'a,b\n1,2\n"x"y,2\n', 8, "this is not CSV"),
        (CsvRows(), b"a,b\n1,\xff\n", 4, "not UTF-8"),
        (Lines(limit_bytes=5), b"abc\nabcdefgh\n", 4, "longer than 5 bytes"),
        (Lines(limit_bytes=5), b"abc\nabcdefgh", 4, "longer than 5 bytes"),
    ],
)
def test_records_that_cannot_be_read(splitter: Lines, data: bytes, start: int, problem: str):
    """The error says where the record begins and what is wrong with it."""
    with pytest.raises(RecordError, match=problem) as caught:
        split(splitter, [data])
    assert caught.value.start == start


@pytest.mark.parametrize(
    ("config", "text", "payloads"),
    [
        ({}, "one\n\nthree", [b"one", b"", b"three"]),
        ({"format": "json"}, '\ufeff{"a":1}\n\n[2]\r\n"x"', [b'{"a":1}', b"[2]", b'"x"']),
        ({"format": "csv"}, "\ufeffid,name\r\n1,x\r\n\r\n2,\r\n", [b'{"id":"1","name":"x"}', b'{"id":"2","name":""}']),
        ({"format": "csv", "delimiter": "\t", "columns": ["a", "b"], "quoted": False}, 'x\t"y\n', [b'{"a":"x","b":"\\"y"}']),
        ({}, "", []),
    ],
)
async def test_formats(tmp_path: Path, config: dict[str, Any], text: str, payloads: list[bytes]):
    """Lines as they are, JSON documents, and CSV rows as objects; from every position on, the rest."""
    path = tmp_path / "data"
    path.write_bytes(text.encode())
    events = await produce(FileSource, config={"path": str(path), **config})
    assert [event.payload for event in events] == payloads
    for number, event in enumerate(events):
        rest = await produce(FileSource, config={"path": str(path), **config}, resume_at=event.position + 1)
        assert [event.payload for event in rest] == payloads[number + 1 :]


async def test_an_error_names_file_and_line(tmp_path: Path):
    """The 3,001st line of a file that is read from the middle is called that."""
    path = tmp_path / "data.json"
    good = b'{"n": 1}\n'
    path.write_bytes(good * 3_000 + b"{oops}\n")
    with pytest.raises(ComponentError, match=r"data\.json:3001: this is not JSON"):
        await produce(FileSource, config={"path": str(path), "format": "json"}, resume_at=len(good) * 1_000)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, "'path' is missing"),
        ({"path": "nowhere.csv"}, r"config.path: there is no file .*nowhere.csv"),
        ({"path": "."}, "is a directory"),
        ({"path": "x", "format": "xml"}, "config.format: .*xml"),
        ({"path": "x", "columns": ["a"]}, "go with format csv"),
        ({"path": "x", "format": "csv", "columns": ["a", "a"]}, "named twice"),
        ({"path": "x", "folow": True}, "did you mean 'follow'"),
    ],
)
async def test_bad_configurations(config: dict[str, Any], sentence: str):
    """Each is refused with the field and what is wrong with it."""
    with pytest.raises(InvalidSettingError, match=sentence):
        await produce(FileSource, config=config)


class Follower:
    """A file source that follows, as the SDK runs it: a checkpoint is what it last emitted."""

    def __init__(self, path: Path, checkpoint: Checkpoint | None = None) -> None:
        self.ctx = Context(
            config={"path": str(path), "follow": True, "poll_s": 0.01},
            instance=InstanceId("test", "file", 0),
            state_dir=path.parent / "state",
            checkpoint=checkpoint,
            log=logging.getLogger("test"),
        )
        self.payloads: list[str] = []
        self.checkpoint = checkpoint

    async def follow(self) -> None:
        source = FileSource()
        await source.open(self.ctx)
        async for event in source.events():
            assert self.checkpoint is None or event.position > self.checkpoint.position
            self.payloads.append(event.payload.decode())
            self.checkpoint = Checkpoint(event.position, event.cursor or b"")

    async def has(self, *payloads: str) -> None:
        async with asyncio.timeout(10):
            while len(self.payloads) < len(payloads):
                await asyncio.sleep(0.01)
        assert self.payloads == list(payloads)


@contextlib.asynccontextmanager
async def following(path: Path, checkpoint: Checkpoint | None = None) -> AsyncGenerator[Follower]:
    follower = Follower(path, checkpoint)
    task = asyncio.create_task(follower.follow())
    try:
        yield follower
        follower.ctx.stopping.set()
        await asyncio.wait_for(task, 10)
    finally:
        task.cancel()


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


async def test_follow_waits_for_the_file_and_for_whole_lines(tmp_path: Path):
    """A file that appears later is read; half a line is not a record."""
    path = tmp_path / "log"
    async with following(path) as follower:
        append(path, "one\ntw")
        await follower.has("one")
        append(path, "o\nthree\n")
        await follower.has("one", "two", "three")


async def test_follow_goes_through_rotation_by_rename(tmp_path: Path):
    """What the writer still writes into the renamed file, and all of the new one, comes in order; positions grow on."""
    path = tmp_path / "log"
    path.write_text("one\n")
    async with following(path) as follower:
        await follower.has("one")
        writer = path.open("a")
        path.rename(tmp_path / "log.1")
        writer.write("two\nlast words")
        writer.close()
        path.write_text("three\n")
        await follower.has("one", "two", "last words", "three")
        append(path, "four\n")
        await follower.has("one", "two", "last words", "three", "four")


async def test_follow_goes_through_truncation(tmp_path: Path):
    """A file that is cut and filled again is read from its beginning."""
    path = tmp_path / "log"
    path.write_text("one\ntwo\n")
    async with following(path) as follower:
        await follower.has("one", "two")
        path.write_text("x\n")
        await follower.has("one", "two", "x")


async def _while_away(tmp_path: Path, change: Callable[[Path], object]) -> list[str]:
    """What a follower emits at its second start, after ``one`` and ``two`` at the first and then ``change``."""
    path = tmp_path / "log"
    path.write_text("one\ntwo\n")
    async with following(path) as first:
        await first.has("one", "two")
    change(path)
    async with following(path, first.checkpoint) as second:
        async with asyncio.timeout(10):
            while "end" not in second.payloads:
                await asyncio.sleep(0.01)
    return second.payloads


async def test_follow_resumes_where_it_was(tmp_path: Path):
    """After a restart exactly the new lines come."""
    assert await _while_away(tmp_path, lambda path: append(path, "three\nend\n")) == ["three", "end"]


async def test_follow_finds_what_was_rotated_while_it_was_away(tmp_path: Path):
    """Two rotations while nothing ran: the rest of the old file, all of the middle one, then the new one."""

    def rotate(path: Path) -> None:
        append(path, "three\n")
        path.rename(path.with_name("log.2"))
        path.with_name("log.1").write_text("four\n")
        path.write_text("five\nend\n")

    assert await _while_away(tmp_path, rotate) == ["three", "four", "five", "end"]


async def test_follow_knows_a_file_that_was_written_anew(tmp_path: Path):
    """The same inode with another beginning is another file, although it is long enough."""
    assert await _while_away(tmp_path, lambda path: path.write_text("alpha\nbeta\nend\n")) == ["alpha", "beta", "end"]
