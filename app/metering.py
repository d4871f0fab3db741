"""
What the API's processes count, in one place for all of them; ``ferry.app.tally`` keeps the sums.
"""

from __future__ import annotations

import bisect
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from ferry.app.gunicorn import gunicorn_main
from ferry.app.tally import Tally, remove_left_over
from ferry.worker.git.process import birth

_REQUESTS, _REQUEST_SECONDS = "ferry_http_requests", "ferry_http_request_seconds"
_TRANSACT_SECONDS, _ENQUEUE_FAILURES = "ferry_transact_seconds", "ferry_enqueue_failures"
_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_NONE_YET = (0.0,) * (len(_BOUNDS_S) + 2)  # a count for each bound, one above all, and the sum
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def prepare() -> None:
    """
    Find the place where this API and its sibling processes count.
    """
    _tally().add((_TRANSACT_SECONDS,), _NONE_YET)


def request_answered(method: str, endpoint: str, status: int, seconds: float) -> None:
    """
    Count a request.

    Args:
        endpoint: Name of the view, such as ``records.show``: never a path, of which there is no end.
    """
    method = method if method in _METHODS else "other"  # a client may send what it likes
    _tally().add((_REQUESTS, method, endpoint, str(status)), (1.0,))
    _observe((_REQUEST_SECONDS, endpoint), seconds)


def enqueue_failed(remote: str) -> None:
    """
    Count a push that the broker did not take.
    """
    _tally().add((_ENQUEUE_FAILURES, remote), (1.0,))


@contextmanager
def transacting() -> Iterator[None]:
    """
    Measure a transaction, whether it succeeds or not.
    """
    begun = time.perf_counter()
    try:
        yield
    finally:
        _observe((_TRANSACT_SECONDS,), time.perf_counter() - begun)


def collect() -> Iterator[Metric]:
    """
    Yield every metric family that the API's processes count.
    """
    requests = CounterMetricFamily(_REQUESTS, "Requests answered.", labels=["method", "endpoint", "status"])
    failures = CounterMetricFamily(
        _ENQUEUE_FAILURES, "Pushes that the broker did not take.", labels=["remote"]
    )
    request_s = HistogramMetricFamily(_REQUEST_SECONDS, "Time to answer a request.", labels=["endpoint"])
    transact_s = HistogramMetricFamily(
        _TRANSACT_SECONDS, "Time for a durable commit, lock included.", labels=[]
    )
    counters = {_REQUESTS: requests, _ENQUEUE_FAILURES: failures}
    histograms = {_REQUEST_SECONDS: request_s, _TRANSACT_SECONDS: transact_s}
    for (name, *labels), sums in sorted(_tally().totals().items()):
        if name in counters:
            counters[name].add_metric(labels, sums[0])
        elif name in histograms:
            *counts, total_s = sums
            bounds = (*map(str, _BOUNDS_S), "+Inf")
            histograms[name].add_metric(labels, list(zip(bounds, accumulate(counts), strict=True)), total_s)
    yield from (requests, failures, request_s, transact_s)


def _observe(key: tuple[str, ...], seconds: float) -> None:
    amounts = list(_NONE_YET)
    amounts[bisect.bisect_left(_BOUNDS_S, seconds)] = 1.0
    amounts[-1] = seconds
    _tally().add(key, amounts)


@lru_cache(maxsize=1)
def _tally() -> Tally:
    try:
        place = Path(tempfile.gettempdir())
    except OSError:  # none that can be written to
        return Tally(None)
    # Under gunicorn the processes of one API have one parent, and a restarted one begins from nothing.
    owner = gunicorn_main() or os.getpid()
    names = f"ferry-metrics-{os.getuid()}-"
    mine = place / f"{names}{_namespace()}-{owner}-{birth(owner)}"
    remove_left_over(path for path in place.glob(f"{names}*") if path != mine)
    return Tally(mine)


def _namespace() -> int:
    """
    Return what tells this process's pid namespace from others that see the same directory.
    """
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
