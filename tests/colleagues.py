"""
A town where programs write through the API and people merge pull requests: no commit is lost, no page false.

    python -m tests.colleagues --writes 1000 --merges 300 --nudges 200 --overlap 0.05 --seed 7

Threads take one act after the other from a shuffled list: writes, merges at the remote, webhooks of the host,
reads, packings. They talk to a real server by HTTP; a worker and beat run beside it. In each mode of
CFP_DATA_RECONCILE, an operator solves what pages with the status page alone, or, with ``boot``, by a restart
of the worker.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ferry.app.dev.sample import make_sample_repository
from ferry.app.dev.sentry_sink import SentrySink, sentry_sink
from ferry.app.dev.stack import free_port
from ferry.worker.files.places import remotes_directory, state_directory, write_lock
from ferry.worker.git.packing import Maintenance
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.settings import ORIGIN
from tests.on_call import OnCall
from tests.parts import Bare, Process, Worker, start_beat, wait_until
from tests.valkey_server import ValkeyServer

MODES = ("manual", "boot", "auto")
_THREADS = 6
_TRIES = 200
_SETTLE_S = 180.0  # a person is at it
_TOKEN, _ADMIN, _SECRET = "a-programs-token", "the-operators-token", "the-hosts-webhook-secret"
_GUNICORN = [sys.executable, "-m", "gunicorn", "--config", "python:ferry.app.production"]
_PEOPLE = "/api/sheets/people/records/"


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

    @property
    def clashes(self) -> int:
        return round(self.merges * self.overlap)

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
        operator: Who solved them.
        broken: What readers saw that was inconsistent, and records that are neither side's in the end.
        needless: Whether a page is allowed where nothing conflicts.
    """

    operator: OnCall
    needless: bool
    ours: list[str] = field(default_factory=list)
    theirs: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    episodes: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """
        Whether nothing is lost, readers saw one history, and each page is of a divergence of its own.
        """
        # While the operator restarts the worker, nobody pushes; on a busy machine that may take a minute.
        pages = [page for page in self.pages if not (self.operator.restarts and "nobody pushes" in page)]
        told = all("diverged" in page for page in pages) and len(pages) == self.episodes
        is_needed = self.needless or not self.operator.needless
        return not self.lost and not self.broken and told and is_needed

    def told(self) -> str:
        olga = self.operator
        lines = [f"{len(self.ours)} writes, {len(self.theirs)} merges: {len(self.lost)} lost",
                 f"{self.episodes} divergences, {len(self.pages)} pages, {olga.joined} joined by hand, "
                 f"{olga.conflicts} with conflicts, {olga.decided} of them decided, {olga.needless} without",
                 *self.lost, *self.broken, *self.pages]  # fmt: skip
        return "\n".join(lines)


class Town:
    """
    Everything that runs, in *directory*.
    """

    def __init__(self, directory: Path, mode: str, sentry: SentrySink, port: int, seed: int) -> None:
        make_sample_repository(directory / "data.git")
        self.data, self.remote = Bare(directory / "data.git"), Bare.init(directory / "remote.git")
        self._port = free_port()
        self.env = {
            "CFP_DATA_REPO_PATH": str(self.data.path),
            "CFP_DATA_REMOTE": str(self.remote.path),
            "CFP_REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "CFP_DATA_RECONCILE": mode,
            "CFP_DATA_FOLLOW_INTERVAL": "0.5",
            "CFP_PUSH_SWEEP_INTERVAL": "5",
            "CFP_PUSH_TIMEOUT": "60",
            "CFP_API_TOKENS": f"program:{hashlib.sha256(_TOKEN.encode()).hexdigest()}",
            "CFP_ADMIN_TOKEN": _ADMIN,
            "CFP_DATA_RELOAD_SECRET": _SECRET,
            "SENTRY_DSN": sentry.dsn,
        }
        self.sentry = sentry
        self._chance = random.Random(seed)  # noqa: S311 - the same at each run
        self._url = f"http://127.0.0.1:{self._port}"
        restart = self._restart if mode == "boot" else None
        self._guard, self._merging = threading.Lock(), threading.RLock()
        choice = random.Random(seed)  # noqa: S311
        operator = OnCall(self._url, _ADMIN, self.env, choice, lambda: self._merging, restart)
        self.report = Report(operator, needless=mode != "auto")
        self._ledger = Ledger(remotes_directory(self.data.path))
        self._directory = directory
        self._seen = ""
        self._clashes: dict[str, tuple[str | None, str | None]] = {}

    @contextmanager
    def running(self, clashes: int) -> Iterator[None]:
        """
        Run an API, a worker and beat for the block, over records for so many *clashes*.
        """
        base = {}
        for number in range(clashes):
            base[f"people/both-{number}.toml"] = _person(f"both-{number}", "Base")
            base[f"people/both-{number}/cv.txt"] = "base\n"
        self.data.edit(base)
        bind, app = f"127.0.0.1:{self._port}", "ferry.app:create_app()"
        command = [*_GUNICORN, "--bind", bind, "--workers", "2", app]
        api = Process(command, self.env, self._directory / "api.log")
        with ExitStack() as stack:
            api.spawn()
            stack.callback(api.kill)
            wait_until(lambda: self._ask("GET", "/api/health")[0] == 200, timeout_s=60, what="the API")
            self._worker = Worker.start(self.env, self._directory / "worker.log")
            stack.callback(lambda: self._worker.kill())
            stack.callback(start_beat(self.env, self._directory / "beat.log").kill)
            wait_until(lambda: self.remote.head() == self.data.head(), what="the backlog on the remote")
            yield

    def play(self, traffic: Traffic) -> None:
        """
        Let all of *traffic* happen, then bring both sides level.
        """
        over, acts = threading.Event(), traffic.acts(self._chance)
        operator = ThreadPoolExecutor(1)
        watch = operator.submit(self._operate, over)
        try:
            with ThreadPoolExecutor(_THREADS) as pool:
                for done in [pool.submit(self._act, *act, traffic) for act in acts]:
                    done.result(timeout=240)
            wait_until(
                lambda: watch.done() or self._is_level(), timeout_s=_SETTLE_S, every_s=0.2, what="both level"
            )
        finally:
            over.set()
            operator.shutdown()
        watch.result()
        self._count()

    def _act(self, kind: str, number: int, traffic: Traffic) -> None:
        if kind == "merge":
            self._merge(number, is_clash=number < traffic.clashes)
        else:
            getattr(self, f"_{kind}")(number)

    def _write(self, number: int) -> None:
        slug = f"api-{number}"
        self._change("PUT", slug, {"slug": slug, "name": f"Api {number}"})
        status, found, _ = self._ask("GET", _PEOPLE + slug)
        if status != 200:
            self.report.broken.append(f"{slug} was written and is not read: {found!r}")

    def _change(self, method: str, path: str, body: Any) -> None:
        status, answer, _ = self._ask(method, _PEOPLE + path, body)
        if status == 404 and method in ("PATCH", "DELETE"):
            return  # people have removed it, and that was read here already
        assert status in (200, 201), answer
        if made := json.loads(answer)["commit"]:
            with self._guard:
                self.report.ours.append(made["hash"])

    def _merge(self, number: int, *, is_clash: bool) -> None:
        """
        Merge a pull request at the remote; whoever comes too late begins again, as people do.
        """
        files: dict[str, str | None] = {f"people/hand-{number}.toml": _person(f"hand-{number}", "Hand")}
        clash = None
        if is_clash:
            path, ours, theirs, clash = _clash(number)
            files, self._clashes[path] = {path: theirs}, (ours, theirs)
        with self._merging:
            for _ in range(_TRIES):
                try:
                    self.remote.edit(files)
                except subprocess.CalledProcessError:
                    continue
                # A push of Ferry's may have come on top of it by now.
                made = self.remote.git("log", "-1", "--format=%H", "main", "--", *files)
                self.report.theirs.append(made)
                break
            else:
                raise AssertionError(f"merge {number} found no moment in {_TRIES}")
        if clash:
            self._change(*clash)

    def _nudge(self, number: int) -> None:
        body = json.dumps({"ref": "refs/heads/main", "after": self.remote.head()}).encode()
        sign = hmac.new(_SECRET.encode(), body, "sha256").hexdigest()
        headers = {"X-GitHub-Event": "push", "X-Hub-Signature-256": f"sha256={sign}"}
        status, answer, _ = self._ask("POST", "/api/_internal/reload-data", body, **headers)
        assert status in (200, 202), answer

    def _read(self, number: int) -> None:
        """
        Each read is of the commit that the last one was of, or of a later one.
        """
        with self._guard:
            before = self._seen
            status, _, headers = self._ask("GET", "/api/sheets/people/records?limit=5")
            self._seen = headers["X-Ferry-Commit"]
            if status != 200 or (before and not self._contains(before, self._seen)):
                self.report.broken.append(f"a read of {before} was followed by one of {self._seen}")

    def _contains(self, commit: str, head: str) -> bool:
        asked = ["git", "-C", str(self.data.path), "merge-base", "--is-ancestor", commit, head]
        return subprocess.run(asked, check=False, timeout=60).returncode == 0

    def _pack(self, number: int) -> None:
        repository, lock = Repository(self.data.path, branch="main"), write_lock(self.data.path)
        Maintenance(repository, state_directory(self.data.path), lock, None).run()

    def _ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, str, Mapping[str, str]]:
        """
        Return the status, the text and the headers of the API's answer.
        """
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json", **headers}
        request = urllib.request.Request(self._url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode(), answer.headers
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode(), exc.headers
        except OSError as exc:  # it does not listen yet
            return 0, str(exc), {}

    def _operate(self, over: threading.Event) -> None:
        """
        Solve what pages, until the status page says that no person is needed.
        """
        seen, is_done = 0, True
        try:
            while not over.wait(0.2):
                pages = len(self.sentry.events)
                if pages > seen or not is_done:
                    seen, is_done = pages, self.report.operator.attend()
        finally:
            self.report.operator.close()

    def _restart(self) -> None:
        """
        Restart the worker, as an init system does.
        """
        self._worker.stop()
        number = len(list(self._directory.glob("worker*.log")))
        self._worker = Worker.start(self.env, self._directory / f"worker-{number}.log")

    def _is_level(self) -> bool:
        entry = self._ledger.read(ORIGIN)
        return self.remote.head() == self.data.head() and entry.last_failure is None

    def _count(self) -> None:
        head = str(self.data.head())
        kept = set(self.data.git("rev-list", head).split())
        there = set(self.remote.git("rev-list", "main").split())
        report = self.report
        made = [*report.ours, *report.theirs]
        report.lost = [commit for commit in made if commit not in kept or commit not in there]
        for path, sides in self._clashes.items():
            is_there = self.remote.git("ls-tree", "main", "--", path)
            text = self.remote.git("show", f"main:{path}") if is_there else None
            if text not in [side and side.strip() for side in sides]:
                report.broken.append(f"{path} is neither side's: {text}")
        report.episodes = self._ledger.read(ORIGIN).episodes.get("non-fast-forward", 0)
        wait_until(lambda: len(self.sentry.events) >= report.episodes, what="the pages")
        report.pages = [event.get("message", "") for event in self.sentry.events]


def _person(slug: str, name: str) -> str:
    return f'name = "{name}"\nslug = "{slug}"\n'


def _clash(number: int) -> tuple[str, str | None, str | None, tuple[str, str, Any]]:
    """
    Return a file that both sides change, what it is then here and there, and what changes it here.
    """
    slug = f"both-{number}"
    path, ours, theirs = f"people/{slug}.toml", _person(slug, "Ours"), _person(slug, "Theirs")
    rename = ("PATCH", slug, {"name": "Ours"})
    match number % 5:
        case 0:
            return path, ours, theirs, rename
        case 1:
            return path, ours, None, rename
        case 2:
            return path, None, theirs, ("DELETE", slug, None)
        case 3:
            return (
                f"people/{slug}/cv.txt",
                "ours\n",
                "theirs\n",
                ("PUT", f"{slug}/attachments/cv.txt", b"ours\n"),
            )
    slug = f"new-{number}"
    body = {"slug": slug, "name": "Ours"}
    return f"people/{slug}.toml", _person(slug, "Ours"), _person(slug, "Theirs"), ("PUT", slug, body)


def run(directory: Path, mode: str, traffic: Traffic, seed: int, *, port: int) -> Report:
    """
    Let *traffic* happen in one mode of CFP_DATA_RECONCILE.

    Args:
        port: A Valkey server's.
    """
    with sentry_sink() as sentry:
        town = Town(directory, mode, sentry, port, seed)
        with town.running(traffic.clashes):
            town.play(traffic)
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
