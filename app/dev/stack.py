"""
All of Ferry on one machine: what ``ferry dev`` and ``ferry demo`` run.

A Valkey server, a worker, beat, Flower and the API run as one process each, all but the first forked from a
nursery. They start at once and stop in the reverse order in which they need each other, so that a push that
is running at Ctrl-C still completes.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import click
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from ferry.app.dev import running, valkey
from ferry.app.dev.console import Console, end_of
from ferry.app.dev.nursery import Child, Nursery
from ferry.app.dev.preloaded import with_extensions
from ferry.app.dev.sample import make_sample_repository
from ferry.app.dev.valkey import LOOPBACK
from ferry.worker.after.calling import registered_in
from ferry.worker.bootstrap import build
from ferry.worker.files.places import flower_history
from ferry.worker.observe import logs
from ferry.worker.observe.logs import log
from ferry.worker.pipeline import Pipeline
from ferry.worker.process.gitpython import git
from ferry.worker.process.groups import end_with_parent

_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 15.0
_POLL_S = 0.1
_LOOK_S = 0.02  # while it starts
_PING_S = 0.2
_RESTART_PAUSE_S = 1.0
_TOO_MANY_RESTARTS = 5  # in a row, each within ten seconds of its start


class DevError(Exception):
    """
    Ferry cannot run on this machine; the message says what to change.
    """


@dataclass(slots=True)
class _Part:
    """
    One process of the stack, and how to restart it.
    """

    name: str
    command: list[str]
    stop_timeout_s: float
    env: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | Child | None = None
    started_at: float = 0.0
    quick_ends: int = 0


@dataclass(slots=True)
class Stack:
    """
    Ferry's processes over one data repository.

    Attributes:
        env: Environment of every process; complete, ``CFP_*`` included.
        directory: Working directory of every process.
        port: The API's port.
        flower_port: Flower's port.
        nursery: Forks the processes.
        output: Where the processes write; None: where this process does.
    """

    env: Mapping[str, str]
    directory: Path
    port: int
    flower_port: int
    nursery: Nursery
    output: IO[bytes] | None = None
    pipeline: Pipeline = field(init=False)
    _parts: list[_Part] = field(init=False, default_factory=list)

    @property
    def url(self) -> str:
        """
        Where the API answers.
        """
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def flower_url(self) -> str:
        """
        Where Flower answers.
        """
        return f"http://{LOOPBACK}:{self.flower_port}"

    def start(self) -> None:
        """
        Start every process and wait until the API, the worker and Flower answer.

        Raises:
            WorkerError: The environment or the repository is wrong.
            DevError: A process does not come up.
        """
        redis_port = free_port()
        own_redis = not self.env.get("CFP_REDIS_URL")
        if own_redis:
            self.env = {**self.env, "CFP_REDIS_URL": f"redis://{LOOPBACK}:{redis_port}/0"}
        self.pipeline = build(self.env, publisher=True)
        registered_in(self.pipeline.settings, self.env)  # says once what each process would say at each start
        self._parts = [*([_valkey(redis_port)] if own_redis else []), *self._own_parts()]
        for part in self._parts:
            self._spawn(part)
            if part.name == "valkey":
                self._await("valkey", lambda: accepts(redis_port))
        waits: dict[str, Callable[[], bool]] = {
            "api": lambda: _answers(f"{self.url}/api/health"),
            "flower": lambda: _answers(self.flower_url),
            "worker": lambda: self._worker_answers(),
        }
        for name, is_ready in waits.items():
            self._await(name, is_ready)

    def _own_parts(self) -> list[_Part]:
        ferry = [sys.executable, "-m", "ferry.app.cli.main"]
        flower = [sys.executable, "-m", "ferry.app.dev.flower", "--quiet", "-A", "ferry.worker", "flower"]
        listen = [f"--address={LOOPBACK}", f"--port={self.flower_port}"]
        gunicorn = [sys.executable, "-m", "gunicorn", "--config", "python:ferry.app.production"]
        options = ["--bind", f"{LOOPBACK}:{self.port}", "--graceful-timeout", "5", "--log-level", "warning"]
        # By default gunicorn works where the process was that imported it.
        options += ["--chdir", str(self.directory)]
        worker_stop_s = self.pipeline.settings.push_timeout_s + _STOP_TIMEOUT_S
        return [
            _Part("worker", [*ferry, "worker", "--loglevel=INFO"], worker_stop_s),
            _Part("beat", [*ferry, "beat"], _STOP_TIMEOUT_S),
            _Part("flower", [*flower, *listen], _STOP_TIMEOUT_S),
            _Part("api", [*gunicorn, *options, "ferry.app:create_app(open_access=True)"], _STOP_TIMEOUT_S),
        ]

    def _await(self, name: str, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while not is_ready():
            self.check()
            if time.monotonic() > deadline:
                raise DevError(f"the {name} did not come up within {_READY_TIMEOUT_S:.0f} s")
            time.sleep(_LOOK_S)

    def _worker_answers(self) -> bool:
        try:
            return bool(self.pipeline.celery.control.ping(timeout=_PING_S, limit=1))
        except (KombuError, RedisError, OSError):
            return False  # the broker that CFP_REDIS_URL names does not answer now

    def check(self) -> None:
        """
        Restart every process that has ended.

        Raises:
            DevError: A process has ended too often.
        """
        for part in self._parts:
            if part.process is None or part.process.poll() is None:
                continue
            age_s = time.monotonic() - part.started_at
            part.quick_ends = part.quick_ends + 1 if age_s < 10 else 1
            status = part.process.returncode
            if part.quick_ends >= _TOO_MANY_RESTARTS:
                raise DevError(f"the {part.name} keeps ending (status {status}); the log says why")
            log().warning("dev.restarted", part=part.name, exit_status=status)
            time.sleep(_RESTART_PAUSE_S)
            self._spawn(part)

    def stop(self) -> None:
        """
        End every process, the API first and the worker last.
        """
        for part in reversed(self._parts):
            self._end(part)

    def process_id(self, name: str) -> int:
        """
        Return the process id of a part: ``api``, ``worker``, ``beat`` or ``flower``.
        """
        process = next(part.process for part in self._parts if part.name == name)
        if process is None:
            raise DevError(f"the {name} was not started")
        return process.pid

    def _spawn(self, part: _Part) -> None:
        part.started_at = time.monotonic()
        env, output = {**self.env, **part.env}, self.output or sys.stderr.buffer
        # Standard output is for this command's own messages. Ctrl-C in the terminal reaches this process
        # alone, which ends the others in order: each is in a session of its own.
        if part.command[0] == sys.executable:
            part.process = self.nursery.fork(
                part.command,
                env=env,
                directory=self.directory,
                output=output,
                errors=output,
                name=f"ferry-{part.name}",
            )
            return
        part.process = subprocess.Popen(
            part.command,
            cwd=self.directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=partial(end_with_parent, signal.SIGTERM),
        )

    def _end(self, part: _Part) -> None:
        if part.process is None or part.process.poll() is not None:
            return
        part.process.terminate()
        try:
            part.process.wait(part.stop_timeout_s)
        except subprocess.TimeoutExpired:
            log().warning("dev.killed", part=part.name, after_s=part.stop_timeout_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(part.process.pid, signal.SIGKILL)
            part.process.wait(_STOP_TIMEOUT_S)


def _valkey(port: int) -> _Part:
    try:
        executable, note = valkey.valkey_server()
    except valkey.NoValkey as exc:
        raise DevError(str(exc)) from exc
    if note:
        click.echo(note)
    return _Part("valkey", valkey.server_command(executable, port), _STOP_TIMEOUT_S, valkey.ENVIRONMENT)


def accepts(port: int) -> bool:
    """
    Whether anything listens on *port* of loopback.
    """
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as exc:
        exc.close()
        return True
    except OSError:
        return False


def make_sample(directory: Path) -> tuple[Path, Path]:
    """
    Make the sample repository and an empty bare remote in *directory*; returns both paths.
    """
    repository, remote = directory / "data.git", directory / "remote.git"
    make_sample_repository(repository)
    with git.Repo.init(remote, bare=True, initial_branch="main") as repo, repo.config_writer() as config:
        config.set_value("transfer", "fsckObjects", "true")
    return repository, remote


def free_port() -> int:
    """
    Return a port that is free on loopback now.
    """
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def claim_port(port: int, option: str) -> int:
    """
    Return *port*, or a free one for 0.

    Raises:
        DevError: It is in use.
    """
    if port == 0:
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as exc:
            raise DevError(
                f"port {port} cannot be used ({exc.strerror}); choose another with {option}"
            ) from exc
    return port


def run_dev(
    nursery: Nursery, repository: Path | None, remote: str | None, *, port: int, flower_port: int
) -> None:
    """
    Run Ferry until SIGINT or SIGTERM.

    Args:
        nursery: Forks the processes.
        repository: A bare data repository; None makes a sample with a remote of its own.
        remote: git URL of ``origin``; None: ``CFP_DATA_REMOTE``, or no remote.
        port: The API's port; 0 for a free one.
        flower_port: Flower's port; 0 for a free one.

    Raises:
        DevError, WorkerError: Ferry cannot run; the message says why.
    """
    remote = _located(remote)
    port, flower_port = claim_port(port, "--port"), claim_port(flower_port, "--flower-port")
    stop = _stop_requests()
    work = Path(tempfile.mkdtemp(prefix=running.PREFIX))
    log_path = work / "log"
    if repository is None:
        try:
            repository, remote = _announced_sample(
                work, remote or _located(os.environ.get("CFP_DATA_REMOTE"))
            )
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)  # a sample that is not whole serves nobody
            raise
    try:
        with log_path.open("ab") as output, log_path.open("a") as own_output:
            logs.configure(output=own_output)
            stack = Stack(
                _environment(repository, remote),
                work,
                port=port,
                flower_port=flower_port,
                nursery=nursery,
                output=output,
            )
            _run(stack, log_path, stop)
    except DevError:
        click.echo(end_of(log_path), err=True)
        raise
    finally:
        log_path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            work.rmdir()  # fails, and so keeps the sample, where there is one


def _run(stack: Stack, log_path: Path, stop: list[int]) -> None:
    try:
        stack.start()
        console = Console(log_path, stack.pipeline.repository)
        with running.announced(stack.directory, stack.env) as environment:
            click.echo(f"Flower shows the tasks: {stack.flower_url}")
            click.echo(f"The status page: {stack.url}/status")
            click.echo(f"The log of every process: {log_path}")
            click.echo(f"Try, in another terminal: curl {stack.url}/api/sheets; ferry push status")
            click.echo(f"Its settings, for other programs: . {environment}")
            click.echo(f"Ferry is ready: {stack.url}")
            while not stop:
                stack.check()
                console.look()
                time.sleep(_POLL_S)
    finally:
        stack.stop()


def _located(remote: str | None) -> str | None:
    """
    Return *remote*; a relative path is made absolute, since git would read it from the data repository.

    Raises:
        DevError: There is nothing at the path.
    """
    if not remote or ":" in remote.partition("/")[0]:  # a scheme, or the host of ssh's short form
        return remote
    path = Path(remote).resolve()
    if not path.exists():
        raise DevError(
            f"the remote {path} does not exist; make it with: git init --bare {shlex.quote(str(path))}"
        )
    return str(path)


def _announced_sample(directory: Path, remote: str | None) -> tuple[Path, str]:
    """
    Make the sample repository; returns it and the remote that it pushes to: *remote*, or one of its own.
    """
    try:
        repository, own_remote = make_sample(directory)
    except git.GitError as exc:
        detail = exc.stderr.strip() if isinstance(exc, git.CommandError) else exc
        raise DevError(f"the sample repository could not be made: {detail}") from exc
    remote = remote or str(own_remote)
    click.echo(f"Made a sample repository: {repository}, with the remote {remote}")
    click.echo(f"To use it again later: ferry dev {repository} --remote {remote}")
    return repository, remote


def _environment(repository: Path, remote: str | None) -> dict[str, str]:
    env = {**os.environ, "CFP_DATA_REPO_PATH": str(repository.resolve())}
    if remote:
        env["CFP_DATA_REMOTE"] = remote
    env.setdefault("CFP_DATA_BRANCH", _current_branch(repository))
    env.setdefault("FLOWER_DB", str(flower_history(repository.resolve())))
    # Flower's API shows the tasks; it listens on loopback, as the whole stack does.
    env.setdefault("FLOWER_UNAUTHENTICATED_API", "true")
    return with_extensions(env)


def _stop_requests() -> list[int]:
    """
    Return a list that SIGINT and SIGTERM append to; a second signal raises KeyboardInterrupt.
    """
    requests: list[int] = []

    def request(number: int, frame: Any) -> None:
        requests.append(number)
        if len(requests) > 1:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request)
    return requests


def _current_branch(repository: Path) -> str:
    """
    Return the branch that the repository's HEAD names, or ``main``.
    """
    try:
        head = (repository / "HEAD").read_text().strip()
    except OSError:
        return "main"  # not a bare repository: the start reports that
    return head.removeprefix("ref: refs/heads/") if head.startswith("ref: refs/heads/") else "main"
