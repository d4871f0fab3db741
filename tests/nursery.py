"""
Ferry's processes for tests, forked from one that has imported what they need (``ferry.app.dev.nursery``).

A process of Ferry's spends most of its start on imports: half a second of processor time and more, some
hundred times in a run of all tests. Here one process per run imports them once. What the interpreter, the
linker or an import takes from the environment is decided before the fork: a command whose environment says
otherwise there is started in the ordinary way. So are the storm's, whose clock jumps, and nearly all that the
tests of ``ferry dev``, of pages and of ends at a wrong environment start.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any

from ferry.app.dev.nursery import Child, Nursery

_ROOT = Path(__file__).parents[1]
_IMPORTED = (
    *("celery.bin.celery", "celery.apps.worker", "celery.apps.beat", "celery.concurrency.prefork"),
    *("celery.worker.worker", "celery.worker.autoscale", "celery.worker.components", "celery.app.amqp"),
    *("celery.worker.consumer.delayed_delivery", "celery.worker.loops", "celery.worker.pidbox"),
    *("celery.worker.strategy", "celery.app.control", "celery.app.events", "celery.app.log"),
    *("billiard.popen_fork", "billiard.sharedctypes", "billiard.synchronize"),
    *("ferry.worker.broker.connection", "ferry.worker.broker.consumer"),
    *("ferry.worker.broker.redis_transport",),
    *("gunicorn.app.wsgiapp", "gunicorn.workers.gthread", "uvicorn_worker", "sentry_sdk.integrations.flask"),
    *("sentry_sdk.integrations.celery", "ferry.worker.observe.sentry"),
    *("ferry.worker.roles.worker", "ferry.worker.roles.beside", "ferry.app.factory", "ferry.app.production"),
    *("ferry.worker.hosting.inside", "ferry.worker.hosting.merge_writes", "ferry.worker.after.work"),
    *("ferry.app.cli.main", "ferry.app.cli.checks", "ferry.app.cli.exchange", "ferry.app.cli.pushes"),
    *("ferry.app.cli.branches", "ferry.app.cli.hooks", "ferry.app.cli.processes", "ferry.app.cli.promote"),
    *("ferry.app.cli.reconcile", "ferry.app.cli.repository", "ferry.app.cli.tokens"),
)
_DECIDED = ("PYTHON", "LD_", "PATH", "OTEL_", "PROMETHEUS_")


def _decided(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_DECIDED)}


def spawn(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path = _ROOT, output: IO[bytes], errors: IO[bytes]
) -> Child | subprocess.Popen[bytes]:
    """
    Start ``python -m …``, ``python -c …`` or a script of the virtual environment, such as ``ferry``.

    Any other command is started in the ordinary way.
    """
    is_ours = Path(command[0]).parent == Path(sys.executable).parent
    if not is_ours or not is_decided_alike(env):
        return subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
    return _nursery().fork(command, env=env, directory=cwd, output=output, errors=errors)


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


_AS_A_CHILD = """
import runpy, sys
del sys.path[0], sys.modules[{module!r}]
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""


def start_child(command: Sequence[str], stdout: IO[bytes], *, env: Mapping[str, str], cwd: Path) -> Any:
    """
    Start a process that calls extensions' code, ``python -P -m MODULE PARENT …``, as a fork.

    It has standard error as a pipe, as a ``subprocess.Popen`` has, and ends with the nursery.
    """
    _, _, _, module, _, *arguments = command
    script = _AS_A_CHILD.format(module=module)
    nursery = _nursery()
    ours, theirs = os.pipe()
    with os.fdopen(theirs, "wb") as errors:
        command = [sys.executable, "-c", script, str(nursery.pid), *arguments]
        child: Any = nursery.fork(command, env=env, directory=cwd, output=stdout, errors=errors)
    child.stdin, child.stdout, child.stderr = None, None, os.fdopen(ours, "rb", 0)
    return child


def is_decided_alike(env: Mapping[str, str]) -> bool:
    """
    Whether a fork of the nursery differs in nothing from a process with *env*.
    """
    return _decided(env) == _decided(os.environ)


@cache
def _nursery() -> Nursery:
    return Nursery(_IMPORTED, env=os.environ, directory=_ROOT)
