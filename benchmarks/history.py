"""
Does a repository that is written all the time get slower?

    python -m benchmarks.history --commits 10000

makes commits in rounds, with the maintenance that a worker would do between
them, and then writes and pushes to a copy of it and to a repository that has
just been made, in turns: the ratio of the two is what the commits have cost.
Records are rewritten, not added, so that the sheets of both are of one size.

A copy, because ext4 does not reuse an inode for minutes after its deletion and
looks at each such inode again whenever a file is made nearby: for so long,
pruning some thousand loose objects makes each new one cost up to a millisecond,
in a repository of any size.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ferry.app.dev.stack import make_sample
from ferry.app.store.store import Store
from ferry.worker.files.places import state_directory, write_lock
from ferry.worker.git.packing import Maintenance
from ferry.worker.git.packs import Packs
from ferry.worker.git.prepare import prepare
from ferry.worker.git.remote import Remote
from ferry.worker.git.repository import Repository
from ferry.worker.settings import Settings

_ROUND = 500
_RECORDS = 200
_SAMPLES = 40


class _Bench:
    """
    A data repository with a remote, and two hundred records that are rewritten in turn.
    """

    def __init__(self, directory: Path, *, copy_of: Path | None = None) -> None:
        if copy_of:
            shutil.copytree(copy_of, directory)
            path, remote = directory / "data.git", directory / "remote.git"
        else:
            directory.mkdir()
            path, remote = make_sample(directory)
        env = {
            "CFP_DATA_REPO_PATH": str(path),
            "CFP_DATA_REMOTE": str(remote),
            "CFP_REDIS_URL": "redis://127.0.0.1:1/0",
        }
        prepare(Settings.from_env(env))
        self.repository = Repository(path, branch="main")
        self.maintenance = Maintenance(self.repository, state_directory(path), write_lock(path))
        self._store = Store(self.repository)
        self.commits = 0
        for _ in range(_RECORDS):
            self.write()
        self.maintenance.run()
        self.push()

    def write(self) -> None:
        self.commits += 1
        slug = f"visitor-{self.commits % _RECORDS}"
        with self._store.commit(
            f"visit {self.commits}", author=("Bench", "bench@example.org")
        ) as transaction:
            transaction.put("people", slug, {"slug": slug, "name": f"Visit {self.commits}"})

    def push(self) -> None:
        head = str(self.repository.head())
        Remote(self.repository, "origin", timeout_s=600).push(head, started=lambda group: None)


def _timed_ms(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - begun)


def main() -> int:
    """
    Print the table.
    """
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--commits", type=int, default=10_000)
    commits = arguments.parse_args().commits
    with tempfile.TemporaryDirectory(prefix="ferry-growth-") as directory:
        grown = _Bench(Path(directory) / "grown")
        while grown.commits < commits:
            for _ in range(_ROUND):
                grown.write()
            if grown.maintenance.is_due():
                grown.maintenance.run()
        grown.push()
        old = _Bench(Path(directory) / "old", copy_of=Path(directory) / "grown")
        new = _Bench(Path(directory) / "new")
        figures: dict[str, tuple[list[float], list[float]]] = {
            "write": ([], []),
            "push of one commit": ([], []),
        }
        for _ in range(_SAMPLES):
            for bench, column in ((new, 0), (old, 1)):
                figures["write"][column].append(_timed_ms(bench.write))
                figures["push of one commit"][column].append(_timed_ms(bench.push))
        size = Packs(old.repository.git).size()
    sys.stdout.write(f"{'median, ms':<24}{'new':>10}{f'after {commits}':>14}{'ratio':>8}\n")
    for name, (before, after) in figures.items():
        floor, figure = statistics.median(before), statistics.median(after)
        sys.stdout.write(f"{name:<24}{floor:>10.2f}{figure:>14.2f}{figure / floor:>8.2f}\n")
    sys.stdout.write(f"{size['bytes'] / 2**20:.1f} MiB in {size['packs']} packs\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
