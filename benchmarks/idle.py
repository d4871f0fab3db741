"""
What a worker, beat and an API process take when nothing happens, and what they have taken after many pushes.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.ground import Ground, Site, cpu_s, settle
from benchmarks.table import Figure
from ferry.app.dev.stack import LOOPBACK, accepts, free_port
from tests.parts import wait_until

_IDLE_S = 20.0
_STOP_TIMEOUT_S = 30.0
_MIB = 2**20
_FERRY = str(Path(sys.executable).with_name("ferry"))


def at_rest(ground: Ground, *, pushes: int) -> list[Figure]:
    """
    Processor time at rest, and memory before and after that many pushes.
    """
    site = ground.site("rest")
    port = free_port()
    commands = {
        "worker": [_FERRY, "worker", "--loglevel=INFO"],
        "beat": [_FERRY, "beat"],
        "API": [
            sys.executable, "-m", "gunicorn", "--config", "python:ferry.app.production", "--bind",
            f"{LOOPBACK}:{port}", "ferry.app:create_app(open_access=True)",
        ],
    }  # fmt: skip
    with _started(commands, ground.directory, site.env) as pids:
        wait_until(lambda: accepts(port), timeout_s=60, what="the API")
        # Every process of the pool has pushed once: what it loads then is no leak.
        _push(site, 60)
        families = {name: _family(pid) for name, pid in pids.items()}
        before = {name: cpu_s(family) for name, family in families.items()}
        time.sleep(_IDLE_S)
        busy = {name: 100 * (cpu_s(family) - before[name]) / _IDLE_S for name, family in families.items()}
        memory = {name: _resident(family) for name, family in families.items()}
        _push(site, pushes)
        grown = _resident(families["worker"]) / memory["worker"]
    together = sum(memory.values()) / _MIB
    return [
        *(
            _idle(f"{name}: processor", "% of a core", share, "< 1 %", share < 1)
            for name, share in busy.items()
        ),
        *(
            _idle(
                f"{name}: resident, {len(families[name])} processes", "MiB", resident / _MIB, "stated", None
            )
            for name, resident in memory.items()
        ),
        _idle("worker, beat and API: resident", "MiB", together, "< 200 MiB", together < 200),
        Figure(
            name=f"worker's memory after {pushes:,} pushes, by what it was",
            unit="×",
            value=grown,
            target="flat (≤ 1.05)",
            met=grown <= 1.05,
        ),
    ]


def _idle(name: str, unit: str, value: float, target: str, met: bool | None) -> Figure:
    return Figure(name=f"idle {name}", unit=unit, value=value, target=target, met=met)


@contextmanager
def _started(
    commands: dict[str, list[str]], directory: Path, env: dict[str, str]
) -> Iterator[dict[str, int]]:
    """
    Run each command for the block, none forked from a process that others share memory with; yields the
    process ids.
    """
    with contextlib.ExitStack() as stack:
        pids = {}
        for name, command in commands.items():
            output = stack.enter_context((directory / f"rest-{name}.log").open("wb"))
            process = subprocess.Popen(command, cwd=directory, env=env, stdout=output, stderr=output)
            stack.callback(process.wait, _STOP_TIMEOUT_S)
            stack.callback(process.terminate)
            pids[name] = process.pid
        yield pids


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
