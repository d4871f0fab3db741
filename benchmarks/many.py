"""
Many repositories on one Redis, behind a few workers.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
from inotify_simple import INotify, flags

from benchmarks.ground import MAIN, Ground, Site, git
from benchmarks.table import Figure, p99
from ferry.worker.fleet import VARIABLE
from ferry.worker.git.refs import read_ref
from tests.parts import Worker, wait_until

_REPOSITORIES = 100
_WORKERS = 4
_ALONE_EVERY_S, _ALONE = 0.12, 100
# The pace that was asked for, and one that two cores can keep.
_PACES = ((1.0, 5), (3.0, 4))

Push = Callable[[Site, str], object]


def repositories(ground: Ground) -> list[Figure]:
    """
    A commit now and then in each of a hundred repositories, against one alone; by Ferry and by bare git.
    """
    sites = [ground.site(f"many-{number}") for number in range(_REPOSITORIES)]
    for site in sites:
        git(site.data, "push", "--quiet", "origin", MAIN)
    workers = _workers(ground, sites)
    # This process commits for a hundred APIs. To look through all of them for garbage would hold them up
    # for a tenth of a second.
    gc.collect()
    gc.freeze()
    ground.resources.callback(gc.unfreeze)
    for site in sites:
        ledger = site.pipeline.ledger
        wait_until(
            lambda ledger=ledger: ledger.read("origin").looked_at, timeout_s=60, what="a look at the start"
        )
    time.sleep(3)
    figures = []
    with _arrivals(sites) as arrivals:
        ways: dict[str, Push] = {
            "git push": _bare_push,
            "": lambda site, commit: site.queue.enqueue_push(commit),
        }
        for way in ways.values():
            _lags_ms(sites, way, arrivals, every_s=3.0, count=1)  # each one's first push is slower
        one = {
            way: _lags_ms(sites[:1], push, arrivals, every_s=_ALONE_EVERY_S, count=_ALONE)
            for way, push in ways.items()
        }
        for every_s, count in _PACES:
            for way, push in ways.items():
                taken = _lags_ms(sites, push, arrivals, every_s=every_s, count=count)
                figures.append(_figure(every_s, way, taken, one[way]))
    return [*figures, _memory(workers)]


def _workers(ground: Ground, sites: list[Site]) -> list[Worker]:
    directory = ground.directory / "repositories"
    directory.mkdir()
    for number, site in enumerate(sites):
        own = (f"{name}={value}\n" for name, value in site.env.items() if name.startswith("CFP_"))
        (directory / f"{number:03d}.env").write_text("".join(own))
    env = {name: value for name, value in sites[0].env.items() if not name.startswith("CFP_DATA_")}
    with ThreadPoolExecutor(_WORKERS) as pool:
        names = [f"fleet-{number}" for number in range(_WORKERS)]
        workers = list(pool.map(partial(ground.start_worker, {**env, VARIABLE: str(directory)}), names))
    # They stop side by side; the ground then waits for one after the other.
    ground.resources.callback(lambda: [worker.signal(signal.SIGTERM) for worker in workers])
    return workers


def _figure(every_s: float, way: str, taken: list[float], one: list[float]) -> Figure:
    pace = "a commit a second" if every_s == 1 else f"a commit every {every_s:g} s"
    by = f"by bare {way}" if way else f"{_WORKERS} workers"
    return Figure(
        name=f"{_REPOSITORIES} repositories, {by}, {pace} each: lag (p99 by p99 of one)",
        unit="ms",
        value=p99(taken),
        floor=p99(one),
        floor_is="one repository",
        target="stated" if way else "≤ 2 ×",
        met=None if way else p99(taken) <= 2 * p99(one),
    )


def _bare_push(site: Site, commit: str) -> None:
    # Not by subprocess: it would keep this process, which commits for all of them, from doing so.
    command = ["git", "-C", str(site.data), "push", "--quiet", "origin", f"{commit}:{MAIN}"]
    _, status = os.waitpid(os.posix_spawnp("git", command, os.environ), 0)
    assert status == 0, status


def _lags_ms(
    sites: list[Site],
    push: Push,
    arrivals: dict[Path, list[tuple[float, str]]],
    *,
    every_s: float,
    count: int,
) -> list[float]:
    """
    Commit in each of *sites* at this pace; returns how long each commit took to its remote, in milliseconds.
    """
    begin = time.monotonic() + 0.5

    def one(place: int) -> list[float]:
        site, made = sites[place], []
        for number in range(count):
            time.sleep(max(0.0, begin + every_s * (number + place / len(sites)) - time.monotonic()))
            commit = site.write(number, name=f"At {time.time()}")
            made.append((time.monotonic(), commit))
            push(site, commit)
        arrived = arrivals[site.remote]
        wait_until(
            lambda: any(seen == commit for _, seen in arrived), timeout_s=60, every_s=0.05, what=commit
        )
        return list(_lags(made, arrived))

    with ThreadPoolExecutor(len(sites)) as pool:
        return [1000 * lag for lags in pool.map(one, range(len(sites))) for lag in lags]


def _lags(made: list[tuple[float, str]], arrived: list[tuple[float, str]]) -> Iterator[float]:
    order = {commit: number for number, (_, commit) in enumerate(made)}
    for number, (at, _) in enumerate(made):
        # One push may bring several commits.
        yield next(then for then, commit in arrived if order.get(commit, -1) >= number) - at


@contextmanager
def _arrivals(sites: list[Site]) -> Iterator[dict[Path, list[tuple[float, str]]]]:
    """
    Note when the branch of each remote moves, and where to, without asking again and again.
    """
    seen: dict[Path, list[tuple[float, str]]] = {site.remote: [] for site in sites}
    ended = threading.Event()
    with INotify() as inotify:
        watched = {inotify.add_watch(path / "refs" / "heads", flags.MOVED_TO): path for path in seen}

        def note() -> None:
            while not ended.is_set():
                for event in inotify.read(timeout=200):
                    remote = watched[event.wd]
                    seen[remote].append((time.monotonic(), read_ref(remote, MAIN) or ""))

        thread = threading.Thread(target=note)
        thread.start()
        try:
            yield seen
        finally:
            ended.set()
            thread.join()


def _memory(workers: list[Worker]) -> Figure:
    processes = [psutil.Process(worker.pid) for worker in workers]
    family = [child for each in processes for child in (each, *each.children(recursive=True))]
    return Figure(
        name=f"resident memory of those {_WORKERS} workers, {len(family)} processes",
        unit="MiB",
        value=sum(each.memory_full_info().pss for each in family) / 2**20,
        target="stated",
        met=None,
    )
