"""
A whole deployment under load while its parts are killed, hung and emptied; nothing may be lost.

Meanwhile people read, reload, reconcile, push to the remote and run git commands of their own in the data
repository, and the clock jumps.

    python -m tests.storm --seconds 600 --seed 7

prints a table and exits with 0 only if it shows zero lost. ``make soak`` runs it
for ten minutes, ``tests/faults/test_storm.py`` for some seconds. With ``TMPDIR=/dev/shm``
the table is free of the disk's own pauses: a flush waits for all that any program has
written to that disk.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import redis

from ferry.app.dev.sample import make_sample_repository
from ferry.app.dev.sentry_sink import SentrySink
from ferry.app.dev.stack import free_port
from ferry.worker.files.places import remotes_directory
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.settings import ORIGIN
from tests.bystanders import Clock, Readers, push_as_a_stranger, run_foreign_git
from tests.parts import CELERY, Bare, Process, clean_environment, wait_until
from tests.valkey_server import ValkeyServer

_APP = "ferry.app:create_app(open_access=True)"
_WRITERS = 4
# Four writers without a pause fill both processors of a small machine, and then what is waited for is a
# processor. Some ten writes a second are more than a data repository of people ever sees, and leave a slow
# machine time for all that goes on beside them.
_REST_S = 0.3
_FLOOR_PUSHES = 5
# In one directory, git would need a second to compare the trees of a hundred commits after some thousand
# writes; a record more makes each tree longer.
_IN_A_DIRECTORY = 100
_BETWEEN_S = (0.5, 3.0)  # from one fault to the next
_LASTING_S = (0.3, 1.5)  # for as long as a fault lasts
_SETTLE_S = 90.0
_REQUEST_TIMEOUT_S = 10.0
_STOP_S = 90.0  # a push may run for ten seconds first, on a machine that is busy
_LATE_S = 2.0
# A page comes so long after what it speaks of, at most: a worker starts, a request to Sentry is made.
_PAGED_WITHIN_S = 20.0
_AWAY = ("worker", "pool", "beat", "redis", "connections", "clock")
# What may be paged, and words in the names of the faults that are such a thing.
_PAGES = {
    "not-found": ("take the remote",),
    # A receive-pack whose repository is taken away under it misses objects, and calls them ours.
    "local": ("take the remote",),
    "rejected": ("refuse",),
    "stalled": _AWAY,
}


@dataclass
class Report:
    """
    What a storm came to.
    """

    faults: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    commits: int = 0
    lost_in_branch: list[str] = field(default_factory=list)
    lost_on_remote: list[str] = field(default_factory=list)
    out_of_order: int = 0
    duplicates: int = 0
    slowest_write_s: float = 0.0
    broken: list[str] = field(default_factory=list)
    timeline: list[tuple[float, float, str]] = field(default_factory=list)
    longest_gap: tuple[float, float] = (0.0, 0.0)  # from the commit to its arrival
    late: list[tuple[float, float, float]] = field(default_factory=list)  # each as in ``latest``
    worker_log: list[tuple[float, int]] = field(default_factory=list)  # how long it was, and when
    late_beside: Counter[str] = field(default_factory=Counter)  # what went on while those waited
    median_s: float = 0.0  # from when commits could have arrived to when they did
    floor_s: float = 0.0  # what a push of one commit by git alone takes here
    latest: tuple[float, float, float] = (0.0, 0.0, 0.0)  # its commit, and when it could have arrived
    wedged: list[str] = field(default_factory=list)
    pages: Counter[str] = field(default_factory=Counter)
    false_pages: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def latest_s(self) -> float:
        """
        The longest that a commit took while nothing kept it, in seconds.
        """
        return self.latest[2] - self.latest[1]

    @property
    def is_clean(self) -> bool:
        """
        Whether nothing is lost, doubled, out of order, wedged or broken, however slow the machine is.
        """
        lost = self.lost_in_branch or self.lost_on_remote or self.out_of_order or self.duplicates
        return not (lost or self.wedged or self.broken)

    @property
    def is_prompt(self) -> bool:
        """
        Whether no commit was late and no page false; a machine that is busy otherwise can make both so.
        """
        return not (self.late or self.false_pages)

    def table(self) -> str:
        rows = [
            ("faults injected", sum(self.faults.values())),
            *((f"  {name}", count) for name, count in sorted(self.faults.items())),
            ("writes acknowledged", self.acknowledged),
            ("commits made", self.commits),
            ("commits lost", len(self.lost_in_branch) + len(self.lost_on_remote)),
            ("commits out of order", self.out_of_order),
            ("duplicates pushed", self.duplicates),
            ("wedged", "; ".join(self.wedged) or 0),
            ("pages", ", ".join(f"{count} {reason}" for reason, count in self.pages.items()) or 0),
            ("false pages", "; ".join(self.false_pages) or 0),
            ("a push by git alone takes", f"{self.floor_s:.2f} s"),
            ("half arrived, since they could", f"{self.median_s:.2f} s"),
            (f"later than {_LATE_S:g} s", len(self.late)),
            *((f"  beside {name}", count) for name, count in self.late_beside.most_common()),
            ("latest after it could have arrived", f"{self.latest_s:.2f} s"),
            ("longest gap from commit to remote", f"{self.longest_gap[1] - self.longest_gap[0]:.1f} s"),
            ("slowest write that was answered", f"{self.slowest_write_s:.2f} s"),
            ("found broken afterwards", "; ".join(self.broken) or "nothing"),
        ]
        lines = [f"{name:<36}{value}" for name, value in rows] + self.notes
        lines += ["during the longest gap, from its commit on:", *self._meanwhile(*self.longest_gap)]
        if self.latest_s:
            told_at, since, until = self.latest
            lines += [f"the latest could have arrived from {since - told_at:+.1f} s on; from its commit on:"]
            lines += self._meanwhile(told_at, until)
        return "\n".join(lines)

    def explained(self, worker_log: bytes) -> str:
        """
        Return what went on, and what the worker logged, while commits were late.
        """
        lines: list[str] = []
        for told_at, since, until in _bursts(self.late):
            sizes = [size for at, size in self.worker_log if told_at - 1 < at < until + 0.1] or [0]
            logged = worker_log[sizes[0] : sizes[-1]].decode("utf-8", "replace").splitlines()
            lines += [f"could have arrived from {since - told_at:+.1f} s, arrived {until - told_at:+.1f} s"]
            lines += [*self._meanwhile(told_at, until), *(f"    {line}" for line in logged), ""]
        return "\n".join(lines)

    def _meanwhile(self, since: float, until: float) -> list[str]:
        return [
            f"  {begun - since:+.1f} s to {ended - since:+.1f} s: {name}"
            for begun, ended, name in self.timeline
            if begun < until and ended > since - 5
        ]


class Storm:
    """
    One deployment in *directory*, and what happens to it.
    """

    def __init__(self, directory: Path, *, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._directory = directory
        make_sample_repository(directory / "data.git")
        self.data, self.remote = Bare(directory / "data.git"), Bare.init(directory / "remote.git")
        self._first = self.data.head()
        self.report = Report(floor_s=_floor_s(directory))
        self._redis = ValkeyServer()
        self._url = f"http://127.0.0.1:{(port := free_port())}"
        self._sentry, self._paged_at = SentrySink(), []
        self._clock, self._readers = Clock(directory), Readers(self._url)
        env = {
            "CFP_DATA_REPO_PATH": str(self.data.path),
            "CFP_DATA_REMOTE": str(self.remote.path),
            "CFP_REDIS_URL": f"redis://127.0.0.1:{self._redis.port}/0",
            "CFP_PUSH_BACKOFF_BASE": "0.2",
            "CFP_PUSH_BACKOFF_CAP": "1",
            "CFP_PUSH_SWEEP_INTERVAL": "1",
            "CFP_PUSH_TIMEOUT": "10",
            "CFP_DATA_RECONCILE": "auto",
            "CFP_DATA_RELOAD_SECRET": "storm",
            "SENTRY_DSN": self._sentry.dsn,
            **self._clock.env,
        }
        gunicorn = [sys.executable, "-m", "gunicorn", "--config", "python:ferry.app.production"]
        self.parts = {
            "api": Process(
                [*gunicorn, "--bind", f"127.0.0.1:{port}", "--workers", "2", _APP],
                env,
                directory / "api.log",
            ),
            "worker": Process([*CELERY, "worker", "-l", "INFO"], env, directory / "worker.log"),
            "beat": Process([*CELERY, "beat"], env, directory / "beat.log"),
        }
        self._stop_writing = threading.Event()
        self._stop_watching = threading.Event()
        self._told: list[list[tuple[str, float]]] = [[] for _ in range(_WRITERS)]
        self._acknowledged = [0] * _WRITERS
        self._seen_at: list[tuple[float, str]] = []
        self._is_obstructed, self._is_connected = False, True
        self._reconciler: int | None = None
        self._ledger = Ledger(remotes_directory(self.data.path))
        self._worker_seen = (0, 0, False)  # its pid, where its log stood, whether it said that it is ready
        self._ways: list[tuple[float, bool]] = [(time.monotonic(), False)]  # since when a push could arrive
        self._strangers = itertools.count(1)
        self._env = env
        if not self._clock.can_jump:
            self.report.notes.append("the clock did not jump: there is no C compiler (cc) here")

    def run(self, seconds: float, *, faults: int = 0, commits: int = 0) -> Report:
        """
        Write and break things for *seconds*, then let everything settle and look at what is left.

        Goes on while fewer *faults* happened or fewer *commits* were acknowledged, as on a busy machine.
        """
        self._redis.start()
        threading.Thread(target=self._sentry.serve_forever, daemon=True).start()
        try:
            for part in self.parts.values():
                part.spawn()
            wait_until(self._answers, timeout_s=60, what="the API")
            watcher = threading.Thread(target=self._watch)
            writers = [threading.Thread(target=self._write, args=(number,)) for number in range(_WRITERS)]
            for thread in (watcher, *writers, self._readers):
                thread.start()
            try:
                until = time.monotonic() + seconds
                while (
                    time.monotonic() < until
                    or sum(self.report.faults.values()) < faults
                    or sum(self._acknowledged) < commits
                ):
                    self._break_something()
                self._stop_writing.set()
                for writer in writers:
                    writer.join(60)
                self._settle()
                self._readers.stop()
                # git fsck cannot bear that objects move into packs while it reads.
                for name in ("beat", "worker"):
                    self.parts[name].signal(signal.SIGTERM)
                    self.parts[name].wait(_STOP_S)
            finally:
                self._stop_writing.set()
                self._stop_watching.set()
                self._readers.stop()
                watcher.join(60)
            self._judge()
        finally:
            for part in self.parts.values():
                part.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._redis.pid or 2**22, signal.SIGCONT)
            self._redis.stop()
            self._sentry.shutdown()
            self._sentry.server_close()
        return self.report

    # --- what happens ---

    def _break_something(self) -> None:
        faults: list[Callable[[], None]] = [
            self._kill_api,
            self._kill_an_api_process,
            self._kill_worker,
            self._kill_a_pool_process,
            self._terminate_worker,
            self._kill_beat,
            self._kill_a_git_push,
            self._kill_redis,
            self._hang_redis,
            self._empty_redis,
            self._drop_connections,
            self._take_the_remote_away,
            self._lock_the_remote,
            self._refuse_at_the_remote,
        ]
        beside: list[Callable[[], None]] = [
            self._reload,
            self._reconcile,
            self._run_foreign_git,
            self._push_as_a_stranger,
            self._let_the_clock_jump,
        ]
        fault = self._random.choice(faults if self._random.random() < 0.5 else beside)
        name = fault.__name__.strip("_").replace("_", " ")
        begun = time.monotonic()
        self._is_obstructed = fault in faults
        fault()
        self._is_obstructed = False
        self.report.faults[name] += 1
        self.report.timeline.append((begun, time.monotonic(), name))
        self._pause(_BETWEEN_S)

    def _pause(self, range_s: tuple[float, float] = _LASTING_S) -> None:
        until = time.monotonic() + self._random.uniform(*range_s)
        while time.monotonic() < until:
            self._supervise()
            self._stop_watching.wait(0.1)

    def _supervise(self) -> None:
        """
        Start again what has ended, as compose or Kubernetes would.
        """
        for part in self.parts.values():
            if part.ended():
                part.spawn()

    def _kill_api(self) -> None:
        self._restart("api")

    def _kill_an_api_process(self) -> None:
        self._kill_child("api")

    def _kill_worker(self) -> None:
        self._restart("worker")

    def _kill_a_pool_process(self) -> None:
        self._kill_child("worker")
        self._end_stretch()

    def _terminate_worker(self) -> None:
        # To its main process, as supervisors do.
        self.parts["worker"].signal(signal.SIGTERM)
        self.parts["worker"].wait(_STOP_S)
        self.parts["worker"].spawn()

    def _kill_beat(self) -> None:
        self._restart("beat")

    def _kill_a_git_push(self) -> None:
        wanted = time.monotonic() + 1
        while time.monotonic() < wanted:
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    if process.name() == "git" and str(self.data.path) in process.environ().get(
                        "GIT_DIR", ""
                    ):
                        process.kill()
                        self._end_stretch()
                        return

    def _end_stretch(self) -> None:
        """
        Note that the push that ran just now could not arrive: one that begins now could.
        """
        self._ways.append((time.monotonic(), False))

    def _kill_redis(self) -> None:
        self._is_connected = False
        port = self._redis.port
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._redis.pid, signal.SIGKILL)
        self._pause()
        self._redis = ValkeyServer(port=port)
        self._redis.start()

    def _hang_redis(self) -> None:
        self._is_connected = False
        os.kill(self._redis.pid, signal.SIGSTOP)
        self._pause()
        os.kill(self._redis.pid, signal.SIGCONT)

    def _empty_redis(self) -> None:
        self._redis.client().flushall()

    def _drop_connections(self) -> None:
        self._is_connected = False
        self._redis.client().execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def _take_the_remote_away(self) -> None:
        # Without HEAD it is no repository any more. To pull the whole directory from
        # under a git that writes there leaves git's locks in it, for ever.
        head = self.remote.path / "HEAD"
        away = head.rename(head.with_name("HEAD.away"))
        self._pause()
        away.rename(head)

    def _lock_the_remote(self) -> None:
        lock = self.remote.path / "refs/heads/main.lock"
        try:
            lock.open("x").close()
        except FileExistsError:
            return  # a push is at it
        self._pause()
        lock.unlink()

    def _refuse_at_the_remote(self) -> None:
        self.remote.hook("pre-receive", "echo not now >&2; exit 1")
        self._pause()
        (self.remote.path / "hooks/pre-receive").unlink()

    # What goes on beside it, and keeps no commit from arriving.

    def _reload(self) -> None:
        request = urllib.request.Request(
            f"{self._url}/api/_internal/reload-data", method="POST", headers={"Authorization": "Bearer storm"}
        )
        with contextlib.suppress(OSError, http.client.HTTPException):
            urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S).close()

    def _reconcile(self) -> None:
        ferry = str(Path(sys.executable).with_name("ferry"))
        environment = {**clean_environment(), **self._env}
        command = [ferry, "reconcile", "--remote", "origin"]
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) as process:
            self._reconciler = process.pid
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
            self._reconciler = None

    def _run_foreign_git(self) -> None:
        run_foreign_git(self.data, self._random)

    def _push_as_a_stranger(self) -> None:
        # What is on its way is refused now. The remote can have our commits once both sides are merged.
        self._is_obstructed = True
        push_as_a_stranger(self.remote, next(self._strangers))

    def _let_the_clock_jump(self) -> None:
        if self._clock.can_jump:
            self._clock.jump(self._random)

    def _restart(self, name: str) -> None:
        self.parts[name].kill()
        self.parts[name].spawn()

    def _kill_child(self, name: str) -> None:
        with contextlib.suppress(psutil.Error, IndexError):
            self._random.choice(psutil.Process(self.parts[name].pid).children()).kill()

    # --- who writes and who watches ---

    def _write(self, writer: int) -> None:
        number = 0
        while not self._stop_writing.is_set():
            number += 1
            place = {"district": f"w{writer}-{number // _IN_A_DIRECTORY}", "slug": str(number)}
            # The same PUT until somebody answers: a write that was made but not
            # answered changes nothing the second time.
            while not self._put(writer, place) and not self._stop_writing.is_set():
                self._stop_writing.wait(0.05)
            self._stop_writing.wait(_REST_S)

    def _put(self, writer: int, place: dict[str, str]) -> bool:
        request = urllib.request.Request(
            f"{self._url}/api/sheets/places/records/{place['district']}/{place['slug']}",
            data=json.dumps(place | {"name": f"Place {place['slug']}"}).encode(),
            method="PUT",
            headers={"Content-Type": "application/json"},
        )
        begun = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S) as response:
                commit = json.load(response)["commit"]
        except (OSError, http.client.HTTPException, ValueError):
            return False
        now = time.monotonic()
        self.report.slowest_write_s = max(self.report.slowest_write_s, now - begun)
        self._acknowledged[writer] += 1
        if commit is not None:
            self._told[writer].append((commit["hash"], now))
        return True

    def _watch(self) -> None:
        last = None
        while not self._stop_watching.wait(0.02):
            now = time.monotonic()
            with contextlib.suppress(OSError):
                head = (self.remote.path / "refs/heads/main").read_text().strip()
                if head != last:
                    self._seen_at.append((now, head))
                    last = head
            with contextlib.suppress(OSError):
                size = self.parts["worker"].log_path.stat().st_size
                if not self.report.worker_log or size != self.report.worker_log[-1][1]:
                    self.report.worker_log.append((now, size))
            self._paged_at += [now] * (len(self._sentry.events) - len(self._paged_at))
            is_free = not self._is_obstructed and self._worker_is_ready() and self._worker_is_connected()
            is_free = is_free and not self._is_reconciled()
            if is_free != self._ways[-1][1]:
                self._ways.append((now, is_free))

    def _is_reconciled(self) -> bool:
        """
        Whether an operator's reconcile holds the remote: no push can begin before it has let go.
        """
        step = self._ledger.step(ORIGIN) if self._reconciler else None
        is_its = step is not None and step.holder.startswith(f"process {self._reconciler} ")
        return is_its and self._ledger.is_claimed(ORIGIN)

    def _worker_is_connected(self) -> bool:
        """
        Whether it waits for messages again where the broker was away: it tries every five seconds at least.
        """
        if not self._is_connected:
            with contextlib.suppress(OSError, redis.RedisError):
                clients = self._redis.client().client_list()
                self._is_connected = any(client["cmd"] in ("brpop", "blmove") for client in clients)
        return self._is_connected

    def _worker_is_ready(self) -> bool:
        worker = self.parts["worker"]
        pid, size, is_ready = self._worker_seen
        if worker.ended():
            return False
        if pid != worker.pid:
            size = worker.log_path.stat().st_size if pid else 0
            pid, is_ready = worker.pid, False
        if not is_ready:
            with worker.log_path.open("rb") as log:
                log.seek(size)
                is_ready = b" ready." in log.read()
        self._worker_seen = (pid, size, is_ready)
        return is_ready

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/api/health/ready", timeout=1):
                return True
        except OSError:
            return False

    # --- what is left ---

    def _settle(self) -> None:
        try:
            wait_until(self._has_settled, timeout_s=_SETTLE_S, what="everything on the remote")
        except AssertionError as exc:
            self.report.wedged.append(str(exc))
        self._stop_watching.wait(0.1)

    def _has_settled(self) -> bool:
        self._supervise()
        return self.remote.head() == self.data.head()

    def _judge(self) -> None:
        report = self.report
        listed = self.data.git("rev-list", "--reverse", "--topo-order", "--parents", f"{self._first}..main")
        parents = {commit: rest for commit, *rest in map(str.split, listed.splitlines())}
        place = {commit: number for number, commit in enumerate(parents)}
        there = set(self.remote.git("rev-list", "main").split()) if self.remote.head() else set()
        report.acknowledged = sum(self._acknowledged)
        report.commits = len(parents)
        for told in self._told:
            names = [commit for commit, _ in told]
            report.lost_in_branch += [commit for commit in names if commit not in place]
            report.lost_on_remote += [commit for commit in names if commit not in there]
            places = [place[commit] for commit in names if commit in place]
            report.out_of_order += sum(early > late for early, late in itertools.pairwise(places))
        touched = Counter(self.data.git("log", "--format=", "--name-only", f"{self._first}..main").split())
        report.duplicates = sum(count - 1 for count in touched.values())
        self._judge_times(parents)
        self._judge_pages()
        for name, bare in (("the data repository", self.data), ("the remote", self.remote)):
            try:
                bare.git("fsck", "--strict")
            except subprocess.SubprocessError as exc:
                report.broken.append(f"git fsck of {name}: {exc}")
            locks = [str(lock.relative_to(bare.path)) for lock in bare.path.glob("refs/**/*.lock")]
            report.broken += [f"{lock} left in {name}" for lock in locks]

    def _judge_times(self, parents: dict[str, list[str]]) -> None:
        arrived: dict[str, float] = {}
        for at, head in self._seen_at:
            reached = [head]
            while reached:
                commit = reached.pop()
                if commit in parents and commit not in arrived:
                    arrived[commit] = at
                    reached += parents[commit]
        report, took = self.report, []
        for commit, told_at in itertools.chain(*self._told):
            at = arrived.get(commit, told_at)
            if at - told_at > report.longest_gap[1] - report.longest_gap[0]:
                report.longest_gap = (told_at, at)
            since, until = self._free(told_at, at)
            if until > since:
                took.append(until - since)
            if until - since > report.latest_s:
                report.latest = (told_at, since, until)
            if until - since > _LATE_S:
                report.late.append((told_at, since, until))
                report.late_beside.update(
                    {name for begun, ended, name in report.timeline if begun < until and ended > since - 1}
                )
        report.median_s = statistics.median(took) if took else 0.0

    def _free(self, since: float, until: float) -> tuple[float, float]:
        """
        Return the longest stretch of that time in which a worker was up, and the remote and the broker too.
        """
        ends = [at for at, _ in self._ways[1:]] + [until]
        stretches = [
            (max(begun, since), min(end, until))
            for (begun, is_free), end in zip(self._ways, ends, strict=True)
            if is_free and begun < until and end > since
        ]
        return max(stretches, key=lambda stretch: stretch[1] - stretch[0], default=(since, since))

    def _judge_pages(self) -> None:
        for at, event in zip(self._paged_at, list(self._sentry.events), strict=False):
            if event.get("level") != "fatal":
                continue
            reason = event.get("tags", {}).get("reason", "no reason")
            self.report.pages[reason] += 1
            lately = {name for begun, ended, name in self.report.timeline
                      if begun < at and ended > at - _PAGED_WITHIN_S}  # fmt: skip
            if not any(word in name for name in lately for word in _PAGES.get(reason, ())):
                said = event.get("logentry") or event.get("exception", {}).get("values", [{}])[-1].get(
                    "value"
                )
                self.report.false_pages.append(f"{reason}: {said} (after: {', '.join(sorted(lately))})")


def _floor_s(directory: Path) -> float:
    """
    Return what ``git push`` of one commit takes while nothing else runs, in seconds.
    """
    make_sample_repository(directory / "floor.git")
    data, remote, took = Bare(directory / "floor.git"), Bare.init(directory / "floor-remote.git"), []
    for number in range(_FLOOR_PUSHES):
        data.edit({f"people/p{number}.toml": f'name = "P"\nslug = "p{number}"\n'})
        begun = time.perf_counter()
        data.git("push", "--quiet", str(remote.path), "main")
        took.append(time.perf_counter() - begun)
    return statistics.median(took)


def _bursts(late: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """
    Return the first of each burst of late commits.
    """
    bursts: list[tuple[float, float, float]] = []
    last = 0.0
    for told_at, since, until in sorted(late):
        if told_at > last:
            bursts.append((told_at, since, until))
        last = max(last, until)
    return bursts


def main() -> int:
    """
    Run one storm and print its table.
    """
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--seconds", type=float, default=600)
    arguments.add_argument("--seed", type=int, default=None)
    given = arguments.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    with tempfile.TemporaryDirectory(prefix="ferry-storm-") as directory:
        storm = Storm(Path(directory), seed=seed)
        report = storm.report
        try:
            storm.run(given.seconds)
        except (AssertionError, OSError, subprocess.SubprocessError) as exc:
            report.broken.append(f"the storm itself: {exc}")
        sys.stdout.write(f"seed {seed}, {given.seconds:g} s\n{report.table()}\n")
        if not (report.is_clean and report.is_prompt):
            kept = Path(tempfile.mkdtemp(prefix="ferry-storm-kept-"))
            for log in Path(directory).glob("*.log"):
                log.rename(kept / log.name)
            (kept / "late.txt").write_text(report.explained((kept / "worker.log").read_bytes()))
            sys.stdout.write(f"the logs are kept in {kept}\n")
    return 0 if report.is_clean and report.is_prompt else 1


if __name__ == "__main__":
    sys.exit(main())
