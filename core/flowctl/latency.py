"""Histograms of time with fixed buckets: the bounds, which bucket, which quantile. Pure.

The same bounds everywhere, so that histograms of several edges, heartbeats and incarnations can be added and subtracted.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""The upper bounds of the buckets, in seconds, each inclusive; a last bucket has none."""

BUCKETS: Final = len(BOUNDS_S) + 1


def bucket(seconds: float) -> int:
    """The index of the bucket for a time."""
    return bisect_left(BOUNDS_S, seconds)


def quantile(counts: Sequence[int], share: float) -> float:
    """The time in seconds that ``share`` (0 to 1) of what was counted stayed within, interpolated inside its bucket.

    ``counts`` has one number a bucket, not cumulative. -1 if nothing was counted, infinite if it lies in the last bucket.
    """
    total = sum(counts)
    if total <= 0:
        return -1.0
    wanted, below = share * total, 0
    edges = pairwise((0.0, *BOUNDS_S, math.inf))
    for count, (low, high) in zip(counts, edges, strict=False):
        if count and below + count >= wanted:
            return high if math.isinf(high) else low + (high - low) * max(0.0, wanted - below) / count
        below += count
    return math.inf
