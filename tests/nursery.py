"""
Ferry's processes for tests, forked from one that has imported what they need.

A process of Ferry's spends most of its start on imports: nearly a second of processor time, some hundred
times in a run of all tests. Here one process per run imports them once and starts nothing; each process
that a test asks for is a fork of it, which takes the environment, directory and files that it was given,
becomes the leader of a session of its own and runs its command as the interpreter would. What the
interpreter, the linker or an import takes from the environment is decided before the fork: a command whose
environment says otherwise there is started in the ordinary way. So are the storm's, whose clock jumps, and
all that the tests of ``ferry dev``, of pages and of ends at a wrong environment start.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

_ROOT = Path(__file__).parents[1]
_IMPORTED = (
    *("celery.bin.celery", "celery.apps.worker", "celery.apps.beat", "celery.concurrency.prefork"),
    *("celery.worker.worker", "kombu.transport.redis"),
    *("gunicorn.app.wsgiapp", "gunicorn.workers.gthread", "uvicorn_worker", "sentry_sdk.integrations.flask"),
    *("sentry_sdk.integrations.celery", "ferry.worker.observe.sentry"),
    *("ferry.worker.bootstrap", "ferry.worker.tasks", "ferry.app.factory", "ferry.app.production"),
    *("ferry.app.cli.main", "ferry.app.cli.checks", "ferry.app.cli.exchange", "ferry.app.cli.pushes"),
    *("ferry.app.cli.branches", "ferry.app.cli.hooks", "ferry.app.cli.processes", "ferry.app.cli.promote"),
    *("ferry.app.cli.reconcile", "ferry.app.cli.repository", "ferry.app.cli.tokens"),
)
_DECIDED = ("PYTHON", "LD_", "PATH", "OTEL_", "PROMETHEUS_")
_LONGEST_MESSAGE = 200_000


def _decided(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_DECIDED)}


class Child:
    """
    A forked process: as much of ``subprocess.Popen`` as tests use.
    """

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status  # the end of a pipe through which the exit status comes

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            ended, _, _ = select.select([self._status], [], [], timeout)
            if not ended:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = int(os.read(self._status, 16))
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def spawn(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path = _ROOT, output: IO[bytes], errors: IO[bytes]
) -> Child | subprocess.Popen[bytes]:
    """
    Start ``python -m …``, ``python -c …`` or a script of the virtual environment, such as ``ferry``.

    Any other command is started in the ordinary way.
    """
    is_ours = Path(command[0]).parent == Path(sys.executable).parent
    if not is_ours or _decided(env) != _decided(os.environ):
        return subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
    return _nursery().fork([*command], dict(env), str(cwd), [output.fileno(), errors.fileno()])


def run(
    command: Sequence[str], *, env: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """
    Run such a command to its end, and return what it said.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = spawn(command, env=env, output=output, errors=errors)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        said = []
        for file in (output, errors):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess(command, status, *said)


class _Nursery:
    """
    The process that forks, as seen from a test's.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._turn = threading.Lock()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.nursery", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], cwd=_ROOT, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        atexit.register(self.close)

    def fork(self, command: list[str], env: dict[str, str], cwd: str, files: list[int]) -> Child:
        status, theirs = os.pipe()
        message = json.dumps([command, env, cwd]).encode()
        with self._turn:
            socket.send_fds(self._socket, [message], [*files, theirs])
            os.close(theirs)
            pid = int(self._socket.recv(16))
        return Child(pid, status)

    def close(self) -> None:
        """
        End it; were this process killed, it would end by itself, as its socket does.
        """
        self._socket.close()
        self._process.wait(30)


@cache
def _nursery() -> _Nursery:
    return _Nursery()


def _serve(tests: socket.socket) -> None:
    """
    Fork at each message, and pass on how each fork ended, until the tests' process is gone.

    Returns in the forks' processes too, once they are what they are to be.
    """
    running: dict[int, tuple[int, int]] = {}  # by the descriptor of each: its pid, and where its status goes
    while True:
        for ready in select.select([tests, *running], [], [])[0]:
            if ready is not tests:
                pid, theirs = running.pop(ready)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(BrokenPipeError):  # nobody asks any more
                    os.write(theirs, str(status).encode())
                os.close(theirs)
                os.close(ready)
                continue
            message, files, _, _ = socket.recv_fds(tests, _LONGEST_MESSAGE, 3)
            if not message:
                sys.exit()
            pid = os.fork()
            if not pid:
                tests.detach()
                _become(*json.loads(message), files)
                return
            running[os.pidfd_open(pid)] = pid, files.pop()
            for file in files:
                os.close(file)
            tests.send(str(pid).encode())


def _become(command: list[str], env: dict[str, str], cwd: str, files: list[int]) -> None:
    os.setsid()
    for number, file in enumerate(files[:2], start=1):
        os.dup2(file, number)
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    sys.argv = command[1:] if command[0] == sys.executable else command


def _run() -> None:
    """
    Run ``sys.argv`` as the interpreter would.
    """
    first, *rest = sys.argv
    sys.path[0] = os.getcwd()
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(rest[0], vars(sys.modules["__main__"]))  # noqa: S102 - a test's own script
    else:
        sys.path[0] = str(Path(first).parent)
        runpy.run_path(first, run_name="__main__")


def _exit(status: int) -> None:
    """
    End as the interpreter does, but for what it takes apart: a copy of all that this process shares.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    for _name in _IMPORTED:
        importlib.import_module(_name)
    assert threading.active_count() == 1, threading.enumerate()
    gc.collect()
    gc.freeze()  # or each fork's first collection would copy all that is shared
    _serve(socket.socket(fileno=int(sys.argv[1])))
    try:
        _run()
    except SystemExit as exc:
        if not isinstance(exc.code, int | None):
            raise
        _exit(exc.code or 0)
    _exit(0)
