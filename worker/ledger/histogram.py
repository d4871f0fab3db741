"""
Histograms of durations for Prometheus, stored in the ledger.

Prometheus does not scrape the worker's processes, which are short-lived; the ledger outlives them.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, replace
from typing import Self

# Upper bounds, in seconds: from a push to the same disk to a push after a day's outage.
BOUNDS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """
    Observations in seconds.

    Attributes:
        counts: Number of observations in each bucket; the last bucket is above all bounds.
        sum: Sum of the observations, in seconds.
    """

    counts: tuple[int, ...] = (0,) * (len(BOUNDS_S) + 1)
    sum: float = 0.0

    def observe(self, seconds: float) -> Self:
        """
        Return the histogram with one more observation.
        """
        counts = list(self.counts)
        counts[min(bisect.bisect_left(BOUNDS_S, seconds), len(counts) - 1)] += 1
        return replace(self, counts=tuple(counts), sum=self.sum + seconds)

    def buckets(self) -> list[tuple[str, float]]:
        """
        Return bound and cumulative count of each bucket, in Prometheus' form.
        """
        total, found = 0, []
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), self.counts, strict=False):
            total += count
            found.append((bound, float(total)))
        return found
