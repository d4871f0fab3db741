"""
The real parts that tests run against: repositories, a Valkey server, workers, a Sentry sink.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import kombu.pools
import pytest
import sentry_sdk
from flask.testing import FlaskClient
from jinja2 import Environment
from werkzeug.routing import Rule

from ferry.app import create_app
from ferry.app.dev.sample import make_sample_repository
from ferry.app.dev.sentry_sink import SentrySink, sentry_sink
from ferry.app.sheets import evaluation
from ferry.worker.git import command, history
from ferry.worker.git import remote as remote_module
from ferry.worker.git.express import standing
from ferry.worker.git.prepare import prepare
from ferry.worker.process import apart, running
from ferry.worker.process.running import Finished
from ferry.worker.settings import Settings
from ferry.worker.watchdog import Watchdog
from tests import nursery
from tests.git_http import GitHttpServer, git_http_server
from tests.line import deploy, deployment, line, line_with
from tests.longest import dealt
from tests.parts import Bare, Process, Worker, clean_environment, start_beat
from tests.valkey_server import ValkeyServer

__all__ = ["deploy", "deployment", "line", "line_with"]  # fixtures

# A flush waits for all that any program has written to that disk, and the tests flush all the time. In memory
# it costs nothing; what a power cut leaves on a disk is tested on images of it (crash_images.py).
_MEMORY, _ENOUGH_BYTES = Path("/dev/shm"), 4 << 30
if "TMPDIR" not in os.environ and _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ENOUGH_BYTES:
    os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)

# The git configuration of the person who runs the tests is none of theirs; that of pip is, for its mirror.
_home = tempfile.TemporaryDirectory(prefix="home-")
_pip = Path.home() / ".config" / "pip" / "pip.conf"
if _pip.exists():
    os.environ.setdefault("PIP_CONFIG_FILE", str(_pip))
os.environ |= {"HOME": _home.name, "XDG_CONFIG_HOME": _home.name}
os.environ["LC_ALL"] = "C.UTF-8"  # Valkey does not start where it names a locale that is not installed

# Until all tests are collected: what is imported and collected stays, and there are a million objects of it.
gc.disable()

# What is installed for tests alone takes a quarter of a process' start: redis, structlog and httpcore use it
# where they find it. The processes that tests start do without, as where Ferry is deployed.
os.environ["PYTHONPATH"] = str(Path(__file__).parent / "lean")

# jsonschema compiles a grammar for the format `iri`, in seconds for each process. No schema here has it.
sys.modules.setdefault("rfc3987_syntax", None)

# The same examples at each run: what stands on main passes or fails by itself. To look for more:
# PYTEST_ARGS="--hypothesis-profile=searching". Examples start git or touch the disk; on a busy machine a slow
# one is no failure.
hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    max_examples=50,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("searching", max_examples=1000, deadline=None)
hypothesis.settings.load_profile("repeatable")

# A shell starts what it runs in the background with SIGINT ignored; what tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """
    Let one process of a run compile a module of tests, and the others read what it has compiled.
    """
    if not isinstance(collector, pytest.Module):
        return (yield)
    with collector.path.open() as module:
        fcntl.flock(module, fcntl.LOCK_EX)
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Begin with the longest tests: xdist gives each process a stretch of the list.
    """
    items[:] = dealt(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def pytest_collection_finish() -> None:
    """
    Leave modules and tests out of every search for garbage, of which the first may now begin. Searches come a
    tenth as often as usual: they were a tenth of what these processes did.
    """
    gc.freeze()
    gc.set_threshold(7_000)
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _connections_of_past_apps() -> Iterator[None]:
    """
    Close them: an app is made to last, and a run of all tests makes hundreds, in a process with 1,024 files.
    """
    yield
    with contextlib.suppress(
        RuntimeError
    ):  # a past app's thread asks its broker now; the next module resets, too
        kombu.pools.reset()
    if len(os.listdir("/proc/self/fd")) > 100:
        gc.collect()


@pytest.fixture(autouse=True)
def _talks_that_stand_ready() -> Iterator[None]:
    """
    End them with the test: each is a process, and waits for a minute.
    """
    yield
    standing.close()


@pytest.fixture(scope="session", autouse=True)
def _apps_share_what_they_compile() -> Iterator[None]:
    """
    Let the apps of this process share what Werkzeug compiles for each rule and Jinja for each template, and
    make no tasks of Celery's own, which none of them runs: half of what an app costs that shows a page.
    """
    compiled: dict[object, Any] = {}
    compile_rule, compile_template = Rule.compile, Environment.compile

    def rule_once(rule: Rule) -> None:
        assert rule.map is not None
        converters = tuple(rule.map.converters.items())
        key = (rule.rule, rule.subdomain, rule.merge_slashes, repr(rule.defaults), converters)
        if key not in compiled:
            compile_rule(rule)
            compiled[key] = rule
        first = compiled[key]
        rule.arguments |= first.arguments
        rule._trace, rule._converters, rule._parts = first._trace, first._converters, first._parts
        rule._build = first._build.__func__.__get__(rule)
        rule._build_unknown = first._build_unknown.__func__.__get__(rule)

    def template_once(environment: Environment, source: Any, *rest: Any, **options: Any) -> Any:
        key = (source, rest, environment.trim_blocks, environment.lstrip_blocks, repr(options))
        if key not in compiled:
            compiled[key] = compile_template(environment, source, *rest, **options)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "compile", rule_once)
        patch.setattr(Environment, "compile", template_once)
        patch.setattr("celery._state._on_app_finalizers", set())
        yield


@pytest.fixture(scope="session", autouse=True)
def _extensions_are_called_in_forks() -> Iterator[None]:
    """
    Fork the processes that call extensions' code from the nursery, where this process asks for one.
    """
    start = running._start

    def start_or_fork(command: Sequence[str], stdin: Any, stdout: Any, **options: Any) -> Any:
        is_child = command[1:3] == ["-P", "-m"] and command[3].startswith("ferry.")
        if not is_child or not nursery.is_decided_alike(options["env"]):
            return start(command, stdin, stdout, **options)
        return nursery.start_child(command, stdout, env=options["env"], cwd=options["cwd"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "_start", start_or_fork)
        yield


@pytest.fixture(scope="session")
def valkey_port() -> Iterator[int]:
    with ValkeyServer() as server:
        yield server.port


@pytest.fixture(scope="session")
def _sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "data.git"
    make_sample_repository(path)
    # Two thousand tests copy it. Records are packed. All else is loose, as in a young repository: Ferry reads
    # such objects in its own process, and each start reads a dozen.
    sample = Bare(path)
    records = [
        line.split()[2]
        for line in sample.git(
            "ls-tree", "-r", "--format=%(objecttype) %(path) %(objectname)", "main"
        ).splitlines()
        if not line.startswith("blob .gitsheets/")
    ]
    sample.feed(
        "pack-objects", "--quiet", str(path / "objects/pack/pack"), content="\n".join(records).encode()
    )
    sample.git("prune-packed")
    shutil.rmtree(path / "hooks")
    return path


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """
    A directory whose name leaves room for a socket's; pytest's own are too long.
    """
    with tempfile.TemporaryDirectory(prefix="f") as name:
        yield Path(name)


@pytest.fixture
def data(tmp_path: Path, _sample: Path) -> Bare:
    """
    A bare data repository with the sample's sheets and records.
    """
    return Bare.like(_sample, tmp_path / "data.git")


@pytest.fixture
def remote(tmp_path: Path) -> Bare:
    """
    An empty bare repository, for a remote.
    """
    return Bare.init(tmp_path / "remote.git")


@pytest.fixture(scope="session")
def _configuration(_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """
    The configuration that a first start leaves, with the fields ``{identity}`` and ``{remote}``.
    """
    data, remote = Bare.copy(_sample, tmp_path_factory.mktemp("prepared") / "data.git"), "/of/a/test"
    settings = {"CFP_DATA_REPO_PATH": str(data.path), "CFP_REDIS_URL": "redis://redis.invalid"}
    identity = prepare(Settings.from_env({**settings, "CFP_DATA_REMOTE": remote}))
    text = (data.path / "config").read_text()
    assert text.count(identity) == text.count(remote) == 1
    return text.replace(identity, "{identity}").replace(remote, "{remote}")


@pytest.fixture
def _was_started(data: Bare, remote: Bare, _configuration: str) -> None:
    """
    Give ``data`` what a first start leaves, which takes two processes of git to replace its configuration.
    """
    config = _configuration.format(identity=uuid.uuid4().hex[:12], remote=remote.path)
    (data.path / "config").write_text(config)


@pytest.fixture
def env(data: Bare, remote: Bare, valkey_port: int, _was_started: None) -> dict[str, str]:
    """
    A quick and impatient deployment over ``data`` and ``remote``.
    """
    return {
        "CFP_DATA_REPO_PATH": str(data.path),
        "CFP_DATA_REMOTE": str(remote.path),
        "CFP_REDIS_URL": f"redis://127.0.0.1:{valkey_port}/0",
        "CFP_PUSH_BACKOFF_BASE": "0.2",
        "CFP_PUSH_BACKOFF_CAP": "1.6",
        "CFP_PUSH_SWEEP_INTERVAL": "2",
        "CFP_PUSH_TIMEOUT": "20",
    }


def _watchdogs_end() -> Iterator[None]:
    """
    An app that a test or a fixture builds in this process would go on watching: it pages into the next test's
    Sentry, and its tracebacks break CPython 3.11's parser in another thread (python/cpython#106905).
    """
    watching: list[Watchdog] = []
    watch = Watchdog.watch

    def watch_for_now(watchdog: Watchdog) -> None:
        watching.append(watchdog)
        watch(watchdog)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watchdog, "watch", watch_for_now)
        yield
    for watchdog in watching:
        watchdog.stop()


_watchdogs_end_with_their_module = pytest.fixture(scope="module", autouse=True)(_watchdogs_end)
_watchdogs_end_with_their_test = pytest.fixture(autouse=True)(_watchdogs_end)


@pytest.fixture(autouse=True)
def _no_declaration_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    What ran out of its limit in another test of this process does not count.
    """
    monkeypatch.setattr(evaluation, "_caution", evaluation.Caution())
    monkeypatch.setattr(apart.pool, "_overrun_at", -math.inf)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """
    The git commands that a repository has run.
    """
    commands: list[tuple[str, ...]] = []
    run_git = command.run_git

    def run(path: Path, *arguments: str, **options: Any) -> Finished:
        commands.append(arguments)
        return run_git(path, *arguments, **options)

    for module in (command, history, remote_module):
        monkeypatch.setattr(module, "run_git", run)
    return commands


@pytest.fixture
def client(env: dict[str, str]) -> Callable[[], FlaskClient]:
    """
    Start an API process's app in this process; nobody is asked for a token.
    """
    return lambda: create_app(env, open_access=True).test_client()


@pytest.fixture
def worker(env: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """
    Start real ``celery -A ferry.worker worker`` processes; what still runs at the end is killed.
    """
    started: list[Worker] = []

    def start(**extra_env: str) -> Worker:
        log_path = tmp_path / f"worker-{len(started)}.log"
        started.append(Worker.start({**env, **extra_env}, log_path))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def sentry() -> Iterator[SentrySink]:
    with sentry_sink() as sink:
        yield sink
    # Whatever a test switched on in this process, off. `init()` would do so, too, in 40 ms.
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)


@pytest.fixture
def beat(env: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """
    Start a real ``celery -A ferry.worker beat`` process; it is killed at the end.
    """
    started: list[Process] = []

    def start(**extra_env: str) -> Process:
        started.append(start_beat({**env, **extra_env}, tmp_path / f"beat-{len(started)}.log"))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def ferry(env: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """
    Run the command ``ferry``, with further variables as keywords.
    """

    def run(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        done = nursery.run(
            [str(Path(sys.executable).parent / "ferry"), *arguments],
            env={**clean_environment(), **env, **extra},
            timeout=60,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """
    A Valkey server of the test's own, to be hung, killed and emptied.
    """
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def http_remote(tmp_path: Path) -> Iterator[GitHttpServer]:
    """
    The bare repository ``web.git`` behind an HTTP server that misbehaves on demand.
    """
    bare = Bare.init(tmp_path / "web" / "web.git")
    bare.git("config", "http.receivepack", "true")
    with git_http_server(bare.path.parent) as server:
        yield server
