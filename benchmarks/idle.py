"""
What a worker, beat and an API process take when nothing happens, and what they have taken after many pushes.
"""

from __future__ import annotations

import contextlib
import re
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
_MOST_TO_WARM_UP = 3000
_WARM_S = 0.2  # some ten pushes
_MIB = 2**20
_ANONYMOUS = re.compile(r"^Pss_Anon: +(\d+) kB", re.MULTILINE)
# These hide packages that only tests need; the second, those that tests need in such processes, too.
_LEAN = (Path(__file__).parents[1] / "tests/lean", Path(__file__).parent / "lean")
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
    env = {**site.env, "PYTHONPATH": ":".join(map(str, _LEAN))}
    with _started(commands, ground.directory, env) as pids:
        wait_until(lambda: accepts(port), timeout_s=60, what="the API")
        _push(site, 60)
        families = {name: _family(pid) for name, pid in pids.items()}
        before = {name: cpu_s(family) for name, family in families.items()}
        time.sleep(_IDLE_S)
        busy = {name: 100 * (cpu_s(family) - before[name]) / _IDLE_S for name, family in families.items()}
        memory = {name: _resident(family) for name, family in families.items()}
        _warm_up(site, families["worker"][1:])
        anonymous = _anonymous(families["worker"])
        _push(site, pushes)
        grown = _anonymous(families["worker"]) / anonymous
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
            name=f"worker's own memory after {pushes:,} pushes, by what it was",
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
        _push_one(site, number)
    settle(site)


def _push_one(site: Site, number: int) -> None:
    site.await_arrival(site.transact(number % 200, name=f"At {time.time()}"))


def _warm_up(site: Site, pool: list[psutil.Process]) -> None:
    """
    Push until each process of the pool has pushed some times: what it then loads and copies is no leak.

    Two commits at once, because one always goes to a process that is free.
    """
    for _ in range(_MOST_TO_WARM_UP):
        # The programs that receive a push run as children of the process that pushes.
        if all(sum(process.cpu_times()[2:4]) > _WARM_S for process in pool):
            return
        site.transact(0, name=f"At {time.time()}")
        _push_one(site, 1)
    raise AssertionError("a process of the pool does not push")


def _family(pid: int) -> list[psutil.Process]:
    """
    Return a process and those that it has forked, without the programs that these have started.
    """
    parent = psutil.Process(pid)
    return [parent, *parent.children()]


def _anonymous(family: list[psutil.Process]) -> float:
    """
    Return what *family* has allocated. Mapped files do not count: their part depends on who else maps them.
    """
    rollups = [Path(f"/proc/{process.pid}/smaps_rollup").read_text() for process in family]
    return 1024 * sum(float(_ANONYMOUS.findall(rollup)[0]) for rollup in rollups)


def _resident(family: list[psutil.Process]) -> float:
    # What processes share is counted once: each page by its part.
    return sum(process.memory_full_info().pss for process in family)
