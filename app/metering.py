"""
Counting what the API's processes do, in one place for all of them.

prometheus_client keeps each process's figures in files of a directory that they
share, and adds them up for whichever process is asked. It decides so when it is
first imported, by an environment variable; so ``prepare`` comes before that.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from app.server import is_gunicorn
from worker.git import birth

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram

_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


def prepare() -> None:
    """
    Give this API and its sibling processes a directory for their figures, unless there is one.
    """
    if _VARIABLE not in os.environ:
        # Under gunicorn the processes of one API have one parent, and a restarted one begins anew.
        owner = os.getppid() if is_gunicorn() else os.getpid()
        place = Path(tempfile.gettempdir())
        for left_over in place.glob(f"ferry-metrics-{os.getuid()}-*"):  # of processes that have ended
            if not Path(f"/proc/{left_over.name.split('-')[3]}").exists():
                shutil.rmtree(left_over, ignore_errors=True)
        path = place / f"ferry-metrics-{os.getuid()}-{owner}-{birth(owner)}"
        path.mkdir(mode=0o700, exist_ok=True)
        os.environ[_VARIABLE] = str(path)


@lru_cache(maxsize=1)
def _requests() -> Counter:
    from prometheus_client import Counter

    return Counter("ferry_http_requests", "Requests answered.", ["method", "endpoint", "status"])


@lru_cache(maxsize=1)
def _request_seconds() -> Histogram:
    from prometheus_client import Histogram

    return Histogram(
        "ferry_http_request_seconds", "Time to answer a request.", ["endpoint"], buckets=_BOUNDS_S
    )


@lru_cache(maxsize=1)
def _transact_seconds() -> Histogram:
    from prometheus_client import Histogram

    return Histogram("ferry_transact_seconds", "Time for a durable commit, lock included.", buckets=_BOUNDS_S)


@lru_cache(maxsize=1)
def _enqueue_failures() -> Counter:
    from prometheus_client import Counter

    return Counter("ferry_enqueue_failures", "Pushes that the broker did not take.", ["remote"])


def register() -> None:
    """
    Make every metric, before there are threads of which two might make the same one at once.
    """
    for make in (_requests, _request_seconds, _transact_seconds, _enqueue_failures):
        make()


def request_answered(method: str, endpoint: str, status: int, seconds: float) -> None:
    """
    Count a request.

    Args:
        endpoint: Name of the view, such as ``records.show``: never a path, of which there is no end.
    """
    _requests().labels(method, endpoint, str(status)).inc()
    _request_seconds().labels(endpoint).observe(seconds)


def enqueue_failed(remote: str) -> None:
    """
    Count a push that the broker did not take.
    """
    _enqueue_failures().labels(remote).inc()


@contextmanager
def transacting() -> Iterator[None]:
    """
    Measure a transaction, whether it succeeds or not.
    """
    begun = time.perf_counter()
    try:
        yield
    finally:
        _transact_seconds().observe(time.perf_counter() - begun)
