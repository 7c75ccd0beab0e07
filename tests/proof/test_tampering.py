"""Whatever is done to the past is found, and the entry is named. The full campaign is in RELIABILITY.md."""

import random

import pytest
from msgspec.structs import replace

from flowctl.journal.highway import HighwayHash
from flowctl.journal.log import Record
from proof.tampering import FILE_KINDS, STORE_KINDS, audited, in_a_file, in_the_store, stored_block
from support.records import journal

SEED = 20
ENTRIES = 210


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """A journal that is sealed every hundred entries and at its end."""
    return journal(ENTRIES, seed=SEED)


@pytest.mark.parametrize("kind", FILE_KINDS)
def test_tampering_with_an_exported_file_is_found(records: list[Record], kind: str):
    """With every checksum in the file recomputed; only a cut end needs an anchor."""
    rng = random.Random(f"{SEED}-{kind}")
    for _ in range(8):
        trial = in_a_file(records, kind, rng, audited(records).anchor)
        assert trial.found is not None, (kind, trial.seqs, trial.differences)


def test_an_entry_that_nothing_follows_in_its_chain_is_missed_all_the_same(records: list[Record]):
    """Each entry that is sealed, taken out, with the rest numbered anew: also where no chain breaks, and every seal is moved."""
    for at in range(ENTRIES - 2):
        left = records[:at] + [replace(record, seq=record.seq - 1) for record in records[at + 1 :]]
        differences = audited(left).differences
        assert any(each.names(records[at].seq) for each in differences), (records[at], differences)


async def test_tampering_with_a_stopped_servers_files_is_found(records: list[Record]):
    """With the server's own checksums recomputed, or single bits flipped; and the untouched files pass."""
    block = await stored_block(records)
    for kind in STORE_KINDS:
        rng = random.Random(f"{SEED}-{kind}")
        for _ in range(2):
            trial = in_the_store(block, kind, rng, ENTRIES)
            assert trial.found is not None, (kind, trial.seqs, trial.differences)


def test_the_servers_checksum_is_computed_as_it_is_defined():
    """The first of the reference's own vectors (highwayhash_test_target.cc): a key of 0 to 31, data of 0 to n - 1."""
    hasher = HighwayHash(bytes(range(32)))
    expected = (0x907A56DE22C26E53, 0x7EAB43AAC7CDDD78, 0xB8D0569AB0B53D62)
    assert tuple(int.from_bytes(hasher.digest(bytes(range(n))), "little") for n in range(3)) == expected
