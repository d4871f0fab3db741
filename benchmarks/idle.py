"""
What a worker and an API process take when nothing happens, and what they have taken after many pushes.
"""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from benchmarks.ground import Ground, Site, cpu_s, settle
from benchmarks.table import Figure
from ferry.app.dev.stack import LOOPBACK, accepts, free_port
from tests.parts import wait_until

_IDLE_S = 20.0
_MIB = 2**20


def at_rest(ground: Ground, *, pushes: int) -> list[Figure]:
    """
    Processor time at rest, and memory before and after that many pushes.
    """
    site = ground.site("rest")
    worker = ground.worker(site)
    port = free_port()
    with (ground.directory / "rest-api.log").open("wb") as output:
        api = subprocess.Popen(
            [
                sys.executable, "-m", "gunicorn", "--config", "python:ferry.app.production", "--bind",
                f"{LOOPBACK}:{port}", "--threads", "8", "ferry.app:create_app(open_access=True)",
            ],
            cwd=ground.directory, env=site.env, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        wait_until(lambda: accepts(port), timeout_s=30, what="the API")
        # Every process of the pool has pushed once: what it loads then is no leak.
        _push(site, 60)
        families = {"worker": _family(worker.pid), "API": _family(api.pid)}
        before = {name: cpu_s(family) for name, family in families.items()}
        time.sleep(_IDLE_S)
        busy = {name: 100 * (cpu_s(family) - before[name]) / _IDLE_S for name, family in families.items()}
        memory = {name: _resident(family) for name, family in families.items()}
        _push(site, pushes)
        grown = _resident(families["worker"]) / memory["worker"]
    finally:
        api.terminate()
        api.wait(30)
    figures = [
        Figure(
            name=f"idle {name}: processor", unit="% of a core", value=share, target="< 1 %", met=share < 1.0
        )
        for name, share in busy.items()
    ]
    figures += [
        Figure(
            name=f"idle {name}: resident, {len(families[name])} processes",
            unit="MiB",
            value=resident / _MIB,
            target="stated",
            met=None,
        )
        for name, resident in memory.items()
    ]
    return [
        *figures,
        Figure(
            name=f"worker's memory after {pushes:,} pushes, by what it was",
            unit="×",
            value=grown,
            target="flat (≤ 1.05)",
            met=grown <= 1.05,
        ),
    ]


def _push(site: Site, count: int) -> None:
    for number in range(count):
        commit = site.transact(number % 200, name=f"At {time.time()}")
        site.await_arrival(commit)
    settle(site)


def _family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def _resident(family: list[psutil.Process]) -> float:
    # What processes share is counted once: each page by its part.
    return sum(process.memory_full_info().pss for process in family)
