"""
Does a repository that is written all the time get slower?

    python -m benchmarks.growth --commits 10000

makes commits in rounds, with the maintenance that a worker would do between
them, and prints for the first and the last round the median write, the median
push of one commit, what the repository holds, and their ratio. The records are
rewritten, not added, so that the sheets stay as large as they are.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from app.dev import make_sample
from app.store import Store
from worker.git import Repository
from worker.maintenance import Maintenance
from worker.prepare import prepare, state_directory, write_lock
from worker.settings import Settings

_ROUND = 500
_SAMPLES = 30


def measure(commits: int) -> list[tuple[str, float, float]]:
    """
    Return name, first and last figure of each row.
    """
    with tempfile.TemporaryDirectory(prefix="ferry-growth-") as directory:
        path, remote = make_sample(Path(directory))
        prepare(
            Settings.from_env(
                {
                    "CFP_DATA_REPO_PATH": str(path),
                    "CFP_DATA_REMOTE": str(remote),
                    "CFP_REDIS_URL": "redis://127.0.0.1:1/0",
                }
            )
        )
        repository = Repository(path, branch="main")
        store, maintenance = (
            Store(repository),
            Maintenance(repository, state_directory(path), write_lock(path)),
        )
        made = 0

        def write() -> None:
            nonlocal made
            made += 1
            slug = f"visitor-{made % 200}"
            with store.commit(f"visit {made}", author=("Bench", "bench@example.org")) as transaction:
                transaction.put("people", slug, {"slug": slug, "name": f"Visit {made}"})

        def write_and_push() -> float:
            write()
            begun = time.perf_counter()
            repository.push("origin", str(repository.head()), timeout_s=60, started=lambda group: None)
            return time.perf_counter() - begun

        def round_figures() -> tuple[float, float, float]:
            writes = statistics.median(_timed(write) for _ in range(_SAMPLES))
            pushes = statistics.median(write_and_push() for _ in range(_SAMPLES))
            return 1000 * writes, 1000 * pushes, repository.size()["bytes"] / 2**20

        for _ in range(_ROUND):
            write()  # every record exists now
        maintenance.run()
        first = round_figures()
        while made < commits:
            for _ in range(_ROUND):
                write()
            if maintenance.is_due():
                maintenance.run()
        maintenance.run()
        last = round_figures()
    names = ("write, median ms", "push of one commit, median ms", "repository, MiB")
    return list(zip(names, first, last, strict=True))


def _timed(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> int:
    """
    Print the table.
    """
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--commits", type=int, default=10_000)
    commits = arguments.parse_args().commits
    sys.stdout.write(f"{'':<32}{'at first':>10}{f'after {commits}':>14}{'ratio':>8}\n")
    for name, first, last in measure(commits):
        sys.stdout.write(f"{name:<32}{first:>10.2f}{last:>14.2f}{last / first:>8.2f}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
