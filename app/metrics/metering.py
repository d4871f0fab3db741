"""
What the API's processes count. ``tally`` keeps the sums; ``ferry.app.api.metrics`` shows them.
"""

from __future__ import annotations

import bisect
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

from ferry.app.gunicorn import gunicorn_main
from ferry.app.metrics.tally import Tally, remove_left_over
from ferry.worker.process.groups import birth

Buckets = tuple[list[tuple[str, float]], float]  # bound and cumulated count of each, and the sum

# The names in the files of sums, which outlive a release: never change them.
REQUESTS, REQUEST_SECONDS = "ferry_http_requests", "ferry_http_request_seconds"
TRANSACT_SECONDS, ENQUEUE_FAILURES = "ferry_transact_seconds", "ferry_enqueue_failures"
WEBHOOKS = "ferry_webhooks"
_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_NONE_YET = (0.0,) * (len(_BOUNDS_S) + 2)  # a count per bound, one above all bounds, the sum
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def prepare() -> None:
    """
    Create this process's sums, so that a scrape shows the metric before the first write.
    """
    _tally().add((TRANSACT_SECONDS,), _NONE_YET)


def request_answered(method: str, endpoint: str, status: int, seconds: float) -> None:
    """
    Count a request.

    Args:
        endpoint: Name of the view, such as ``records.show``. Not the path: their number has no bound.
    """
    method = method if method in _METHODS else "other"  # a client may send any word
    _tally().add((REQUESTS, method, endpoint, str(status)), (1.0,))
    _observe((REQUEST_SECONDS, endpoint), seconds)


def enqueue_failed(remote: str) -> None:
    """
    Count a push that the broker did not accept.
    """
    _tally().add((ENQUEUE_FAILURES, remote), (1.0,))


def webhook_received(host: str, outcome: str) -> None:
    """
    Count a request to the reload webhook.

    Args:
        host: The git host that it comes from.
        outcome: The result: the answer's ``state``, or ``refused`` or ``failed``.
    """
    _tally().add((WEBHOOKS, host, outcome), (1.0,))


@contextmanager
def transacting() -> Iterator[None]:
    """
    Measure a transaction, whether it succeeds or not.
    """
    begun = time.perf_counter()
    try:
        yield
    finally:
        _observe((TRANSACT_SECONDS,), time.perf_counter() - begun)


def totals() -> Mapping[str, Mapping[tuple[str, ...], float | Buckets]]:
    """
    Return what all the API's processes have counted: by metric, and by the values of its labels.
    """
    found: dict[str, dict[tuple[str, ...], float | Buckets]] = {
        metric: {} for metric in (REQUESTS, REQUEST_SECONDS, TRANSACT_SECONDS, ENQUEUE_FAILURES, WEBHOOKS)
    }
    for (metric, *labels), sums in sorted(_tally().totals().items()):
        if metric in found:
            found[metric][tuple(labels)] = sums[0] if len(sums) == 1 else _buckets(sums)
    return found


def _buckets(sums: Sequence[float]) -> Buckets:
    *counts, total_s = sums
    return list(zip((*map(str, _BOUNDS_S), "+Inf"), accumulate(counts), strict=True)), total_s


def _observe(key: tuple[str, ...], seconds: float) -> None:
    amounts = list(_NONE_YET)
    amounts[bisect.bisect_left(_BOUNDS_S, seconds)] = 1.0
    amounts[-1] = seconds
    _tally().add(key, amounts)


@lru_cache(maxsize=1)
def _tally() -> Tally:
    try:
        place = Path(tempfile.gettempdir())
    except OSError:  # there is no writable one
        return Tally(None)
    # Under gunicorn all processes of one API have the same parent. A restarted API counts from zero.
    owner = gunicorn_main() or os.getpid()
    names = f"ferry-metrics-{os.getuid()}-"
    mine = place / f"{names}{_namespace()}-{owner}-{birth(owner)}"
    remove_left_over(path for path in place.glob(f"{names}*") if path != mine)
    return Tally(mine)


def _namespace() -> int:
    """
    Return the id of this process's pid namespace: containers may share the directory.
    """
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
