"""
A town where programs write through the API and people merge pull requests: no commit is lost, no page false.

    python -m tests.colleagues --writes 1000 --merges 300 --nudges 200 --overlap 0.05 --seed 7

Threads take one act after the other from a shuffled list: writes, merges at the remote, nudges as of a
webhook, reads, packings. A worker and beat run beside them. In each mode of CFP_DATA_RECONCILE, an operator
joins what Ferry pages for, and takes our side of a conflict.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ferry.app import create_app
from ferry.app.dev.sample import make_sample_repository
from ferry.app.dev.sentry_sink import SentrySink, sentry_sink
from ferry.app.services import EXTENSION, Services
from ferry.worker.errors import WorkerError
from ferry.worker.ledger.operators import Operator
from ferry.worker.settings import ORIGIN
from tests.parts import Bare, Process, Worker, start_beat, wait_until
from tests.valkey_server import ValkeyServer

MODES = ("manual", "boot", "auto")
_THREADS = 6
_TRIES = 200
_OPERATOR = Operator.of("olga@desk", "a divergence was paged")


@dataclass(frozen=True)
class Traffic:
    """
    How much happens; *overlap* is the share of the merges that touch a record which the API writes.
    """

    writes: int
    merges: int
    nudges: int
    overlap: float = 0.0
    packings: int = 2

    def acts(self, chance: random.Random) -> list[tuple[str, int]]:
        counts = {
            "write": self.writes, "merge": self.merges, "nudge": self.nudges, "read": self.nudges,
            "pack": self.packings,
        }  # fmt: skip
        acts = [(kind, number) for kind, count in counts.items() for number in range(count)]
        chance.shuffle(acts)
        return acts


@dataclass
class Report:
    """
    What came of it.

    Attributes:
        ours, theirs: The commits that the API acknowledged, and those that people pushed.
        lost: Those of them that a side does not hold at the end.
        pages: The events that Sentry got.
        episodes: The divergences that Ferry told of.
        joined: How often the operator joined both sides.
        broken: What readers saw that was inconsistent.
    """

    ours: list[str] = field(default_factory=list)
    theirs: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    episodes: int = 0
    joined: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """
        Whether nothing is lost, readers saw one history, and each page is of a divergence of its own.
        """
        told = all("diverged" in page for page in self.pages)
        return not self.lost and not self.broken and told and len(self.pages) == self.episodes

    def told(self) -> str:
        lines = [f"{len(self.ours)} writes, {len(self.theirs)} merges: {len(self.lost)} lost",
                 f"{self.episodes} divergences, {len(self.pages)} pages, {self.joined} joined by hand",
                 *self.lost, *self.broken, *self.pages]  # fmt: skip
        return "\n".join(lines)


class Town:
    """
    Everything that runs, in *directory*.
    """

    def __init__(self, directory: Path, mode: str, sentry: SentrySink, port: int) -> None:
        make_sample_repository(directory / "data.git")
        self.data, self.remote = Bare(directory / "data.git"), Bare.init(directory / "remote.git")
        self.env = {
            "CFP_DATA_REPO_PATH": str(self.data.path),
            "CFP_DATA_REMOTE": str(self.remote.path),
            "CFP_REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "CFP_DATA_RECONCILE": mode,
            "CFP_DATA_FOLLOW_INTERVAL": "0.5",
            "CFP_PUSH_SWEEP_INTERVAL": "5",
            "CFP_PUSH_TIMEOUT": "60",
            "SENTRY_DSN": sentry.dsn,
        }
        self.sentry = sentry
        self.report = Report()
        self._directory = directory
        self._guard = threading.Lock()
        self._merging = threading.Lock()
        self._seen = ""

    @contextmanager
    def running(self) -> Iterator[None]:
        """
        Run the worker, beat and an API for the block.
        """
        with ExitStack() as stack:
            app = create_app(self.env, open_access=True)
            self.built: Services = app.extensions[EXTENSION]
            self._client: Callable[[], Any] = app.test_client
            processes: list[Process] = [
                Worker.start(self.env, self._directory / "worker.log"),
                start_beat(self.env, self._directory / "beat.log"),
            ]
            for each in processes:
                stack.callback(each.kill)
            wait_until(lambda: self.remote.head() == self.data.head(), what="the backlog on the remote")
            yield

    def play(self, traffic: Traffic, seed: int) -> None:
        """
        Let all of *traffic* happen, then bring both sides level.
        """
        chance, over = random.Random(seed), threading.Event()  # noqa: S311 - the same at each run
        acts = traffic.acts(chance)
        operator = threading.Thread(target=self._operate, args=(over,))
        operator.start()
        try:
            with ThreadPoolExecutor(_THREADS) as pool:
                for done in [pool.submit(self._act, *act, traffic) for act in acts]:
                    done.result(timeout=240)
            wait_until(self._is_level, timeout_s=60, every_s=0.2, what="both sides level")
        finally:
            over.set()
            operator.join()
        self._count()

    def _act(self, kind: str, number: int, traffic: Traffic) -> None:
        getattr(self, f"_{kind}")(number, traffic)

    def _write(self, number: int, traffic: Traffic) -> None:
        body = {"slug": f"api-{number}", "name": f"Api {number}"}
        answer = self._client().put(f"/api/sheets/people/records/{body['slug']}", json=body)
        assert answer.status_code in (200, 201), answer.text
        if made := answer.json["commit"]:
            with self._guard:
                self.report.ours.append(made["hash"])
        found = self._client().get(f"/api/sheets/people/records/{body['slug']}")
        if found.status_code != 200:
            self.report.broken.append(f"{body['slug']} was written and is not read: {found.text}")

    def _merge(self, number: int, traffic: Traffic) -> None:
        """
        Merge a pull request at the remote; whoever comes too late begins again, as people do.
        """
        shared = number < traffic.merges * traffic.overlap
        slug = f"api-{number}" if shared else f"hand-{number}"
        files = {f"people/{slug}.toml": f'name = "Hand {number}"\nslug = "{slug}"\n'}
        with self._merging:
            for _ in range(_TRIES):
                try:
                    self.remote.edit(files)
                except subprocess.CalledProcessError:
                    continue
                # A push of Ferry's may have come on top of it by now.
                made = self.remote.git("log", "-1", "--format=%H", "main", "--", *files)
                self.report.theirs.append(made)
                return
        raise AssertionError(f"merge {number} found no moment in {_TRIES}")

    def _nudge(self, number: int, traffic: Traffic) -> None:
        self.built.push_queue.enqueue_follow(self.built.pipeline.ledger, "webhook")

    def _read(self, number: int, traffic: Traffic) -> None:
        """
        Each read is of the commit that the last one was of, or of a later one.
        """
        with self._guard:
            before = self._seen
            answer = self._client().get("/api/sheets/people/records?limit=5")
            self._seen = answer.headers["X-Ferry-Commit"]
            if before and not self.built.pipeline.repository.contains(before, self._seen):
                self.report.broken.append(f"a read of {before} was followed by one of {self._seen}")

    def _pack(self, number: int, traffic: Traffic) -> None:
        self.built.pipeline.maintenance.run()

    def _operate(self, over: threading.Event) -> None:
        """
        Join both sides whenever Ferry says that a person is needed for a divergence.
        """
        pipeline = self.built.pipeline
        while not over.wait(0.1):
            entry = pipeline.ledger.read(ORIGIN)
            if "non-fast-forward" not in entry.paged:
                continue
            try:
                found = pipeline.reconciler.reconcile(ORIGIN, "merge", by=_OPERATOR)
                if found.conflicts:
                    takes: Any = {str(conflict): "ours" for conflict in found.conflicts}
                    found = pipeline.reconciler.reconcile(ORIGIN, "merge", takes=takes, by=_OPERATOR)
            except WorkerError:
                continue  # a conflict went or came meanwhile, or a push took long
            self.report.joined += found.is_joined
            if head := pipeline.repository.head():
                self.built.push_queue.enqueue_push(head, "operator")

    def _is_level(self) -> bool:
        entry = self.built.pipeline.ledger.read(ORIGIN)
        return self.remote.head() == self.data.head() and entry.last_failure is None

    def _count(self) -> None:
        head = str(self.data.head())
        kept = set(self.data.git("rev-list", head).split())
        there = set(self.remote.git("rev-list", "main").split())
        made = [*self.report.ours, *self.report.theirs]
        self.report.lost = [commit for commit in made if commit not in kept or commit not in there]
        episodes = self.built.pipeline.ledger.read(ORIGIN).episodes
        self.report.episodes = sum(episodes.values())
        wait_until(lambda: len(self.sentry.events) >= self.report.episodes, what="the pages")
        self.report.pages = [event.get("message", "") for event in self.sentry.events]


def run(directory: Path, mode: str, traffic: Traffic, seed: int, *, port: int) -> Report:
    """
    Let *traffic* happen in one mode of CFP_DATA_RECONCILE.

    Args:
        port: A Valkey server's.
    """
    with sentry_sink() as sentry:
        town = Town(directory, mode, sentry, port)
        with town.running():
            town.play(traffic, seed)
        return town.report


def main() -> int:
    """
    Run each mode, and print what came of it; returns the exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=MODES, action="append")
    parser.add_argument("--writes", type=int, default=300)
    parser.add_argument("--merges", type=int, default=100)
    parser.add_argument("--nudges", type=int, default=60)
    parser.add_argument("--overlap", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    traffic = Traffic(given.writes, given.merges, given.nudges, given.overlap)
    is_clean = True
    for mode in given.mode or MODES:
        with tempfile.TemporaryDirectory(prefix="colleagues-") as directory, ValkeyServer() as valkey:
            begun = time.monotonic()
            report = run(Path(directory), mode, traffic, given.seed, port=valkey.port)
            sys.stdout.write(
                f"{mode}, seed {given.seed}, {time.monotonic() - begun:.0f} s: {report.told()}\n"
            )
            is_clean = is_clean and report.is_clean
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
