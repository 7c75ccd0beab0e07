"""An exported file gives back exactly what was written, any part of it; a damaged one is refused with the member and the line."""

import io
import random
import re
import zipfile
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowctl.errors import DamagedFileError, UserError
from flowctl.journal import bundle, bundle_lines, codec, seals
from flowctl.journal.bundle import BundleReader, BundleWriter
from flowctl.journal.embedded import MAX_PAYLOAD_BYTES
from flowctl.journal.log import Record

HEADER_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20)
Shape = tuple[int, str, dict[str, str], bytes]
SHAPES: st.SearchStrategy[list[Shape]] = st.lists(
    st.tuples(
        st.integers(0, 2**62),
        st.sampled_from(["flowctl.journal.pipeline.orders.submitted", "flowctl.journal.nonsense", "flowctl.journal.host.a.left"]),
        st.dictionaries(st.sampled_from(["ce-id", "ce-type", "ce-previoushash", "x-other"]), HEADER_TEXT),
        st.binary(max_size=200) | st.text(max_size=200).map(str.encode),
    ),
    max_size=30,
)
Lines = list[bytes]


def record(seq: int, *, data: bytes = b"") -> Record:
    """A message of the journal."""
    headers = {"ce-id": f"id-{seq}", "ce-type": "flowctl.pipeline.stop_requested.v1"}
    return Record(seq, 1_700_000_000_000_000_000 + seq, "flowctl.journal.pipeline.orders.stop_requested", headers, data or b"{}")


def written(count: int = 95, *, chunk_lines: int = 10) -> bytes:
    """A file of so many entries and some heartbeats."""
    file = io.BytesIO()
    writer = BundleWriter(file, chunk_lines=chunk_lines)
    for seq in range(1, count + 1):
        writer.add(record(seq))
    for seq in (3, 5, 9):
        writer.add_heartbeat(Record(seq, seq, "flowctl.heartbeat.host.a", {}, b'{"host":"a"}'))
    writer.close()
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"\xff" * MAX_PAYLOAD_BYTES, b'"' * MAX_PAYLOAD_BYTES, b"\x01" * MAX_PAYLOAD_BYTES],
    ids=["binary", "quotes", "controls"],
)
def test_the_largest_message_of_our_server_is_read_back(data: bytes):
    """Base64 makes it a third longer, and escaping text up to six times."""
    file = io.BytesIO()
    writer = BundleWriter(file)
    writer.add(record(1, data=data))
    writer.add(record(2))
    writer.close()
    assert [each.data == wanted for each, wanted in zip(opened(file.getvalue()).records(), (data, b"{}"), strict=True)] == [
        True
    ] * 2


def test_what_could_not_be_read_back_is_not_written(monkeypatch: pytest.MonkeyPatch):
    """Refused with its number, to the byte; what comes before it is whole."""
    file = io.BytesIO()
    writer = BundleWriter(file)
    writer.add(record(1, data=b"x" * 500))
    monkeypatch.setattr(bundle_lines, "MAX_LINE_BYTES", len(lines_of(file, writer)[0]))
    writer = BundleWriter(file := io.BytesIO())
    writer.add(record(1, data=b"x" * 500))
    with pytest.raises(UserError, match=r"\Amessage 2 of flowctl.journal.pipeline.orders.stop_requested is too large"):
        writer.add(record(2, data=b"x" * 501))
    writer.add(record(2, data=b"x" * 500))
    writer.close()
    assert [each.seq for each in opened(file.getvalue()).records()] == [1, 2]


def lines_of(file: io.BytesIO, writer: BundleWriter) -> Lines:
    """The lines of the one member that was written."""
    member = writer.close().members[0].name
    return zipfile.ZipFile(file).read(member).splitlines(keepends=True)


def opened(data: bytes) -> BundleReader:
    """A reader on it."""
    return BundleReader(io.BytesIO(data), name="x.zip")


def rewritten(data: bytes, member: str, change: bytes) -> bytes:
    """The archive with one member's content replaced, and its ZIP checksums right again."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change if name == member else old.read(name))
    return out.getvalue()


@given(SHAPES, st.integers(1, 7))
def test_what_is_read_is_what_was_written(shapes: list[Shape], chunk_lines: int):
    """Subjects, headers, times and data to the byte, so that every hash can be computed again; and the digest at the end."""
    records = [Record(seq, *shape) for seq, shape in enumerate(shapes, start=1)]
    file = io.BytesIO()
    writer = BundleWriter(file, chunk_lines=chunk_lines)
    for each in records:
        writer.add(each)
    manifest = writer.close()
    digest = seals.NOTHING
    for each in records:
        digest = seals.advance(digest, codec.entry_hash(each.subject, each.headers, each.data), each.time_ns)
    with BundleReader(file) as reader:
        assert list(reader.records()) == records
        assert reader.manifest == manifest
        assert (manifest.entries, manifest.digest) == (len(records), digest)


def test_any_range_is_read_without_the_rest():
    """Only the members that hold the range are unpacked: the others may be broken."""
    data = written()
    for member in (f"journal/{seq:012d}.jsonl" for seq in (1, 11, 91)):
        data = rewritten(data, member, b"broken\n")
    with opened(data) as reader:
        assert [each.seq for each in reader.records(after=25, upto=42)] == list(range(26, 43))
        assert [each.seq for each in reader.records(after=89, upto=90)] == [90]
        with pytest.raises(DamagedFileError):
            list(reader.records(after=90))


def test_heartbeats_and_a_snapshot_travel_along():
    """Each is read by itself."""
    file = io.BytesIO()
    writer = BundleWriter(file, before="ab", chunk_lines=2)
    for seq in range(7, 12):
        writer.add(record(seq))
    for seq in (3, 5, 9):
        writer.add_heartbeat(Record(seq, seq, "flowctl.heartbeat.host.a", {}, b"\xff"))
    writer.add_snapshot(6, "schema-1", b"\x00state")
    manifest = writer.close()
    with BundleReader(file) as reader:
        assert [each.seq for each in reader.records()] == [7, 8, 9, 10, 11]
        assert [(each.seq, each.data) for each in reader.heartbeats()] == [(3, b"\xff"), (5, b"\xff"), (9, b"\xff")]
        assert reader.snapshot() == b"\x00state"
        assert list(reader.check())[-1] == 5
    assert (manifest.snapshot_seq, manifest.snapshot_schema, manifest.heartbeats) == (6, "schema-1", 3)
    assert [member.name for member in manifest.members if member.part == "journal"] == [
        f"journal/{seq:012d}.jsonl" for seq in (7, 9, 11)
    ]


def test_the_same_journal_gives_the_same_file():
    """To the byte: no clock, no order of a set."""
    assert written() == written()


def test_an_empty_journal_is_a_file_too():
    """Nothing in it, and nothing wrong with it."""
    with opened(written(0)) as reader:
        assert list(reader.records()) == []
        assert reader.manifest.digest == seals.NOTHING


def test_a_gap_is_not_written():
    """An export that misses an entry fails, it does not look whole."""
    writer = BundleWriter(io.BytesIO())
    writer.add(record(1))
    with pytest.raises(ValueError, match="entry 3 does not follow 1"):
        writer.add(record(3))


def change(lines: Lines) -> Lines:
    """One byte of entry 14 is another."""
    return [*lines[:3], lines[3].replace(b"id-14", b"id-41"), *lines[4:]]


def drop(lines: Lines) -> Lines:
    """Entry 14 is not there."""
    return [*lines[:3], *lines[4:]]


def swap(lines: Lines) -> Lines:
    """Entries 14 and 15 have changed places."""
    return [*lines[:3], lines[4], lines[3], *lines[5:]]


def end_early(lines: Lines) -> Lines:
    """The last three are gone."""
    return lines[:7]


def garble(lines: Lines) -> Lines:
    """Entry 14 has another shape."""
    return [*lines[:3], b'{"seq":"14"}\n', *lines[4:]]


def cut_off(lines: Lines) -> Lines:
    """The last line is not whole."""
    return [*lines[:9], lines[9][:-5]]


def space_out(lines: Lines) -> Lines:
    """The same entries, written otherwise."""
    return [*lines[:3], lines[3][:-2] + b" }\n", *lines[4:]]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (change, "jsonl:4: entry 14 is not what was written"),
        (drop, "jsonl:4: entry 15 stands where 14 should"),
        (swap, "jsonl:4: entry 15 stands where 14 should"),
        (end_early, "jsonl:7: it ends with entry 17, and the manifest says 20"),
        (garble, "jsonl:4: the line cannot be read"),
        (cut_off, "jsonl:10: the line is cut off"),
        (space_out, "jsonl: its checksum is another than the manifest's"),
    ],
)
def test_damage_is_named_with_member_and_line(damage: Callable[[Lines], Lines], says: str):
    """Whatever became of a member, with the ZIP's own checksum right."""
    member = "journal/000000000011.jsonl"
    data = written()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        lines = archive.read(member).splitlines(keepends=True)
    with opened(rewritten(data, member, b"".join(damage(lines)))) as reader, pytest.raises(DamagedFileError) as caught:
        list(reader.check())
    assert str(caught.value).startswith(f"x.zip:{member}"), caught.value
    assert says in str(caught.value)


def test_no_flipped_byte_and_no_cut_goes_unnoticed():
    """Wherever it is: each is refused, or lies where nothing is (a ZIP has bytes that mean nothing) and changes nothing read."""
    whole = written(40)
    with opened(whole) as reader:
        records, beats = list(reader.records()), list(reader.heartbeats())
    rng = random.Random(7)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(whole)) :]
        else:
            damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        try:
            with opened(bytes(damaged)) as reader:
                list(reader.check())
                assert (list(reader.records()), list(reader.heartbeats())) == (records, beats)
        except DamagedFileError:
            refused += 1
    assert refused > 200


def test_what_is_no_bundle_is_refused_in_one_sentence():
    """Another file, another archive, another format, a member too many."""
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("a", "b")
    newer = msgspec.json.encode(bundle.Manifest(format=2, first_seq=0, last_seq=0, entries=0, digest=""))
    extra = io.BytesIO(written(3))
    with zipfile.ZipFile(extra, "a") as archive:
        archive.writestr("journal/evil", "b")
    for data, says in (
        (b"nonsense", "no whole ZIP archive"),
        (b"", "no whole ZIP archive"),
        (other.getvalue(), "no manifest.json"),
        (rewritten(written(3), "manifest.json", b"{"), "the manifest cannot be read"),
        (rewritten(written(3), "manifest.json", newer), "its format is 2"),
        (extra.getvalue(), "the manifest does not name it"),
    ):
        with pytest.raises(DamagedFileError, match=says):
            opened(data)


Manifests = dict[str, Any]


def _another_digest_inside(manifest: Manifests) -> None:
    manifest["members"][0]["digest"] = "ab" * 32


def _another_digest_at_the_end(manifest: Manifests) -> None:
    manifest["digest"] = "ab" * 32


def _another_range(manifest: Manifests) -> None:
    manifest["members"][1]["first"] = 12


def _another_count(manifest: Manifests) -> None:
    manifest["entries"] = 29


def _a_member_twice(manifest: Manifests) -> None:
    manifest["members"].insert(1, manifest["members"][0])


def _a_member_that_is_not_there(manifest: Manifests) -> None:
    manifest["members"][2]["name"] = "journal/000000000031.jsonl"


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        (_another_digest_inside, "manifest.json: the digest after entry 10 is another than the manifest's"),
        (_another_digest_at_the_end, "the digest at the end is not that of the last member"),
        (_another_range, "it should begin with entry 11, and the manifest says 12"),
        (_another_count, "the members end at entry 30, and the manifest says 30"),
        (_a_member_twice, "the manifest names it, and the archive does not hold it once"),
        (_a_member_that_is_not_there, "the manifest names it, and the archive does not hold it once"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(lie: Callable[[Manifests], None], says: str):
    """Whatever it says of the members is held against them."""
    data = written(30)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        manifest: Manifests = msgspec.json.decode(archive.read("manifest.json"))
    lie(manifest)
    with pytest.raises(DamagedFileError, match=re.escape(says)):  # noqa: SIM117 - opening it may be refused, or reading it
        with opened(rewritten(data, "manifest.json", msgspec.json.encode(manifest))) as reader:
            list(reader.check())


def test_a_manifest_is_not_read_whatever_its_size():
    """A few kilobytes of ZIP may hold a gigabyte."""
    with pytest.raises(DamagedFileError, match="the manifest is too large"):
        opened(rewritten(written(3), "manifest.json", b" " * (bundle.MAX_MANIFEST_BYTES + 1)))


def test_every_digest_depends_on_all_before():
    """Two journals that differ in one entry, one time or the order have different digests from there on."""
    hashes = [f"{n:064x}" for n in range(5)]

    def digests(changed: int = -1) -> list[str]:
        digest, out = seals.NOTHING, list[str]()
        for n, each in enumerate(hashes):
            digest = seals.advance(digest, each, 1000 + n + (n == changed))
            out.append(digest)
        return out

    assert all(a != b for a, b in pairwise(digests()))
    assert [a == b for a, b in zip(digests(), digests(2), strict=True)] == [True, True, False, False, False]
