"""Which topologies an instance applies: those of a registry that lags behind the one before are passed over."""

from hypothesis import given
from hypothesis import strategies as st

from flowctl_sdk.neighbours import Newest


@given(st.lists(st.integers(0, 20), max_size=30))
def test_what_is_applied_never_goes_back(sequences: list[int]):
    """Of those with a sequence exactly those are applied that none before them exceeds; those without one always are."""
    newest = Newest()
    highest = 0
    for sequence in sequences:
        assert newest.admits(sequence, 1) is (not sequence or sequence >= highest)
        highest = max(highest, sequence)


def test_another_journal_starts_afresh():
    """Who had to register again, because nobody knew it, follows the journal that knows it now."""
    newest = Newest()
    assert newest.admits(100, 1)
    assert not newest.admits(3, 1)
    assert newest.admits(3, 2)
    assert not newest.admits(2, 2)
