"""
What is measured on: repositories of any size, a real Valkey, real workers and API processes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import gitsheets
import psutil
from flask.testing import FlaskClient
from inotify_simple import INotify, flags

from ferry.app import create_app
from ferry.app.dev.stack import LOOPBACK
from ferry.app.store.store import Store
from ferry.app.transact import transact
from ferry.worker.bootstrap import build
from ferry.worker.enqueue import PushQueue
from ferry.worker.git.refs import read_ref
from ferry.worker.pipeline import Pipeline
from tests.parts import Bare, Worker, wait_until

AUTHOR = ("Bench", "bench@example.org")
MAIN = "refs/heads/main"
_LOOK_EVERY_S = 0.0003

_SHEET = """[gitsheet]
root = 'people'
path = '{path}'

[gitsheet.schema]
type = 'object'
required = {required}

[gitsheet.schema.properties.slug]
type = 'string'

[gitsheet.schema.properties.name]
type = 'string'

[gitsheet.schema.properties.shard]
type = 'string'

[gitsheet.schema.properties.age]
type = 'integer'
"""


def record(number: int, *, sharded: bool = False, name: str = "Person") -> dict[str, object]:
    """
    Return the record with this number.
    """
    made: dict[str, object] = {"age": number % 90, "name": f"{name} {number}", "slug": f"p{number:06d}"}
    return {**made, "shard": f"{number % 1000:03d}"} if sharded else made


def path_of(number: int, *, sharded: bool = False) -> str:
    """
    Return where that record stands in its sheet.
    """
    return f"{number % 1000:03d}/p{number:06d}" if sharded else f"p{number:06d}"


def make_repository(path: Path, records: int, *, sharded: bool = False, commits: int = 0) -> Path:
    """
    Make a bare repository with one sheet of that many records, and that many commits after it.
    """
    template = "${{ shard }}/${{ slug }}" if sharded else "${{ slug }}"
    required = ["slug", "name", "shard"] if sharded else ["slug", "name"]
    Bare.init(path)
    with subprocess.Popen(["git", "fast-import", "--quiet"], cwd=path, stdin=subprocess.PIPE) as importer:
        assert importer.stdin

        def put(name: str, text: str) -> None:
            importer.stdin.write(f"M 100644 inline {name}\ndata {len(text.encode())}\n{text}\n".encode())

        importer.stdin.write(_commit("everything", 0))
        put(".gitsheets/people.toml", _SHEET.format(path=template, required=required))
        for number in range(records):
            made = record(number, sharded=sharded)
            shard = f'shard = "{made["shard"]}"\n' if sharded else ""
            text = f'age = {made["age"]}\nname = "{made["name"]}"\n{shard}slug = "{made["slug"]}"\n'
            put(f"people/{path_of(number, sharded=sharded)}.toml", text)
        for number in range(commits):
            importer.stdin.write(_commit(f"commit {number}", number))
            put("people/p000000.toml", f'age = {number}\nname = "Somebody"\nslug = "p000000"\n')
    return path


def _commit(message: str, second: int) -> bytes:
    return (
        f"commit {MAIN}\ncommitter Bench <bench@example.org> {1_700_000_000 + second} +0000\n"
        f"data {len(message)}\n{message}\n"
    ).encode()


@dataclass(eq=False)
class Site:
    """
    One data repository, its remote, and how Ferry is set up over them.
    """

    data: Path
    remote: Path
    env: dict[str, str]
    pipeline: Pipeline = field(init=False)
    store: Store = field(init=False)
    queue: PushQueue = field(init=False)

    def __post_init__(self) -> None:
        self.pipeline = build(self.env, publisher=True)
        self.store = Store(self.pipeline.repository)
        self.queue = PushQueue(self.pipeline.celery, list(self.pipeline.settings.remotes))

    def write(self, number: int, *, sharded: bool = False, name: str = "Changed") -> str:
        """
        Commit one record, as the API does, and queue nothing.
        """
        with self.store.commit(f"change {number}", author=AUTHOR) as transaction:
            transaction.upsert("people", record(number, sharded=sharded, name=name))
        assert transaction.commit, "the record is the same as before"
        return transaction.commit

    def transact(self, number: int, *, name: str = "Changed") -> str:
        """
        Commit one record and queue its push.
        """
        with transact(self.store, self.queue, f"change {number}", author=AUTHOR) as transaction:
            transaction.upsert("people", record(number, name=name))
        assert transaction.commit, "the record is the same as before"
        return transaction.commit

    def await_arrival(self, commit: str, *, timeout_s: float = 60.0) -> None:
        """
        Wait until the remote's branch stands at *commit*.
        """
        deadline = time.monotonic() + timeout_s
        while read_ref(self.remote, MAIN) != commit:
            assert time.monotonic() < deadline, f"{commit} did not arrive"
            time.sleep(_LOOK_EVERY_S)

    @contextmanager
    def arrivals(self) -> Iterator[Callable[[str], None]]:
        """
        Yield what waits until the remote's branch stands at a commit, and takes no processor time meanwhile.
        """
        with INotify() as inotify:
            inotify.add_watch(self.remote / "refs" / "heads", flags.MOVED_TO)

            def wait(commit: str) -> None:
                while read_ref(self.remote, MAIN) != commit:
                    assert inotify.read(timeout=60_000), f"{commit} did not arrive"

            yield wait

    def pushes(self) -> int:
        """
        Return how many attempts to push there were.
        """
        return sum(self.pipeline.ledger.read("origin").outcomes.values())


def bare_write(git_dir: Path, number: int, *, sharded: bool = False, name: str = "Changed") -> None:
    """
    Commit one record by gitsheets alone: the floor of every write.
    """
    with gitsheets.transact(
        str(git_dir), f"change {number}", int(time.time()), parent="main", branch="main", author=AUTHOR
    ) as transaction:
        transaction.open_sheet("people", ".gitsheets/people.toml", ".", "")
        transaction.upsert("people", record(number, sharded=sharded, name=name))


@dataclass
class Ground:
    """
    A directory and a Valkey, for as long as a measurement lasts.
    """

    directory: Path
    valkey_port: int
    resources: contextlib.ExitStack

    def site(
        self, name: str, *, records: int = 200, url: str | None = None, **repository: int | bool
    ) -> Site:
        """
        Make a repository with a remote, under *name*; the remote has nothing yet.
        """
        home = self.directory / name
        home.mkdir()
        data = make_repository(home / "data.git", records, **repository)  # type: ignore[arg-type]
        return self.over(data, Bare.init(home / "remote.git").path, url=url)

    def over(self, data: Path, remote: Path, *, url: str | None = None, **env: str) -> Site:
        """
        Set Ferry up over repositories that are there.
        """
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return Site(
            data,
            remote,
            {
                **kept,
                "CFP_DATA_REPO_PATH": str(data),
                "CFP_DATA_REMOTE": url or str(remote),
                "CFP_REDIS_URL": f"redis://{LOOPBACK}:{self.valkey_port}/0",
                **env,
            },
        )

    def client(self, site: Site) -> FlaskClient:
        """
        Return a client of an API in this process, whose watchdog is not heard when the ground has gone.
        """
        client = create_app(site.env, open_access=True).test_client()
        logging.disable(logging.CRITICAL)
        return client

    def worker(self, site: Site) -> Worker:
        """
        Start a worker over *site*; it is ended with the ground.
        """
        return self.start_worker(site.env, site.data.parent.name)

    def start_worker(self, env: dict[str, str], name: str) -> Worker:
        """
        Start a worker of that name and environment; it is ended with the ground.
        """
        worker = Worker.start(env, self.directory / f"{name}.log", f"--hostname={name}@%h")
        self.resources.callback(_end, worker)
        return worker


def _end(worker: Worker) -> None:
    if not worker.ended():
        worker.stop()


def settle(site: Site) -> None:
    """
    Wait until everything is on the remote and the worker is at rest.
    """
    repository = site.pipeline.repository
    wait_until(lambda: repository.is_pushed("origin"), timeout_s=60, what="everything to arrive")
    time.sleep(0.5)


@contextmanager
def place() -> Iterator[Path]:
    """
    Make a directory for the grounds of one run, for the block.
    """
    with tempfile.TemporaryDirectory(prefix="ferry-bench-", ignore_cleanup_errors=True) as directory:
        # ext4 passes over each file that was deleted in the last five minutes, one by one, for each that it
        # makes in the same group of blocks. So each ground is to have another group, chosen by its name.
        with contextlib.suppress(FileNotFoundError):  # no e2fsprogs, or another file system
            subprocess.run(["chattr", "+T", directory], check=False, capture_output=True)
        yield Path(directory)


@contextmanager
def ground(directory: Path) -> Iterator[Ground]:
    """
    Make one in *directory* for the block.
    """
    from tests.valkey_server import ValkeyServer

    with (
        tempfile.TemporaryDirectory(dir=directory, ignore_cleanup_errors=True) as home,
        ValkeyServer() as valkey,
        contextlib.ExitStack() as resources,
    ):
        yield Ground(Path(home), valkey.port, resources)


def git(directory: Path, *arguments: str) -> None:
    """
    Run a plain git command, and nothing of Ferry's.
    """
    subprocess.run(["git", *arguments], cwd=directory, check=True, capture_output=True)


def timed_s(work: Callable[[], object]) -> float:
    """
    Return how many seconds *work* takes.
    """
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def cpu_s(family: list[psutil.Process]) -> float:
    """
    Return the processor time that processes have taken, in seconds.
    """
    return sum(sum(process.cpu_times()[:2]) for process in family)
