"""
Many repositories beside each other on one Redis.
"""

from __future__ import annotations

import resource
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.ground import MAIN, Ground, Site, git
from benchmarks.table import Figure, p99

_REPOSITORIES = 8
_SECONDS = 10
_ASKED_FOR = 100


def repositories(ground: Ground) -> list[Figure]:
    """
    One commit a second in each of several repositories, each with its worker, against one alone.

    And what bare git alone would take for a hundred of them.
    """
    sites = [ground.site(f"many-{number}") for number in range(_REPOSITORIES)]
    for site in sites:
        ground.worker(site)
        site.await_arrival(site.transact(0, name="First"))
    time.sleep(1)
    one = _lags_ms(sites[:1])
    all_of_them = _lags_ms(sites)
    return [
        Figure(
            name=f"{_REPOSITORIES} repositories, a commit a second each: lag (p99 by p99 of one)",
            unit="ms",
            value=p99(all_of_them),
            floor=p99(one),
            floor_is="one repository",
            target="≤ 2 ×",
            met=p99(all_of_them) <= 2 * p99(one),
        ),
        Figure(
            name=f"processor time of {_ASKED_FOR} bare pushes",
            unit="s",
            value=_ASKED_FOR * _push_s(sites[0]),
            target="2 s to be had a second",
            met=None,
        ),
    ]


def _lags_ms(sites: list[Site]) -> list[float]:
    with ThreadPoolExecutor(len(sites)) as pool:
        return [lag for lags in pool.map(_one, sites, range(len(sites))) for lag in lags]


def _one(site: Site, place: int) -> list[float]:
    lags, begun = [], time.monotonic() + place / _REPOSITORIES
    for number in range(_SECONDS):
        time.sleep(max(0.0, begun + number - time.monotonic()))
        commit = site.transact(number, name=f"At {time.time()}")
        at = time.perf_counter()
        site.await_arrival(commit)
        lags.append(1000 * (time.perf_counter() - at))
    return lags


def _push_s(site: Site) -> float:
    """
    Return the processor time of one ``git push`` with all its children, in seconds.
    """
    taken = []
    for number in range(20):
        site.write(number + 50, name=f"At {time.time()}")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        git(site.data, "push", "--quiet", str(site.remote), MAIN)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(taken)
