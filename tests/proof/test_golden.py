"""Golden journals mean today what they meant when they were made: whatever the fold or the events become."""

from pathlib import Path

import pytest

from flowctl.journal.audit import Audit
from flowctl.journal.bundle import BundleReader
from proof.golden import GOLDEN, folded, lost, meaning, recorded

FILES = sorted(GOLDEN.glob("*.zip"))


def test_there_is_one_for_every_released_schema():
    """At least the first."""
    assert FILES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_golden_journal_means_what_it_meant(file: Path):
    """What was folded then is folded now. A new field is welcome; another meaning needs a new version of the event."""
    fleet = folded(file)
    assert lost(recorded(file), meaning(fleet)) == []
    assert (fleet.unknown_total, fleet.poison_total) == (0, 0)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_golden_journal_still_verifies(file: Path):
    """Its chains, seals and digests."""
    audit = Audit()
    with file.open("rb") as raw, BundleReader(raw) as reader:
        for record in reader.records():
            audit.add(record)
        assert audit.digest == reader.manifest.digest
    audit.finish()
    assert audit.differences == []


def test_another_meaning_is_noticed():
    """The comparison itself: a value that changed, one that is gone, and one that is new."""
    then = {"a": 1, "b": [{"c": 2}], "d": None}
    assert lost(then, {"a": 1, "b": [{"c": 2, "new": 3}], "d": None}) == []
    assert lost(then, {"a": 2, "b": [{}], "d": None}) == [".a was 1 and is 2", ".b[0].c is gone"]
