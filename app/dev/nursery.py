"""
Python processes that are forked from one that has imported what they need.

A process of Ferry's spends most of its start on imports. The nursery imports them once and starts nothing.
Each fork takes the environment, directory and files that it is given, becomes the leader of a session of its
own, and runs its command as the interpreter would. The kernel ends it with the nursery, and the nursery ends
with the process that uses it.

What the interpreter, the linker or an import takes from the environment is decided before the fork.
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
import threading
import time
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO

from ferry.worker.process.groups import end_with_parent

_LONGEST_MESSAGE = 200_000
_END_TIMEOUT_S = 30.0
_LOST = 1  # the exit status of a fork whose nursery was killed


class Child:
    """
    A forked process, with the methods of ``subprocess.Popen`` that are needed.
    """

    def __init__(self, pid: int, status: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status  # the end of a pipe through which the exit status comes

    def poll(self) -> int | None:
        """
        Return the exit status; None while the process runs.
        """
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """
        Return the exit status.

        Raises:
            subprocess.TimeoutExpired: The process has not ended within *timeout* seconds.
        """
        if self.returncode is None:
            ended, _, _ = select.select([self._status], [], [], timeout)
            if not ended:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.returncode = int(os.read(self._status, 16) or _LOST)
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """
        Send a signal, unless the process has ended.
        """
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """
        Send SIGTERM.
        """
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """
        Send SIGKILL.
        """
        self.send_signal(signal.SIGKILL)


class Nursery:
    """
    The process that forks, as seen from the one that uses it.

    Args:
        imported: Names of the modules that it imports. Importing them starts no thread.
        env: Its environment, which decides what the interpreter and the linker take from one.
        directory: Its working directory.
    """

    def __init__(self, imported: Iterable[str], *, env: Mapping[str, str], directory: Path) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._turn = threading.Lock()
        self._has_forked = False
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno()), *imported],
                pass_fds=[theirs.fileno()], env=env, cwd=directory, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        self.pid = self._process.pid
        atexit.register(self.close)

    def fork(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        directory: Path,
        output: IO[bytes],
        errors: IO[bytes],
        name: str = "",
    ) -> Child:
        """
        Start a process that runs *command*: an interpreter with ``-m`` or ``-c``, or a Python script.

        Args:
            name: What ``ps`` shows.

        Raises:
            OSError: The nursery has ended.
        """
        status, theirs = os.pipe()
        message = json.dumps([[*command], dict(env), str(directory), name]).encode()
        with self._turn:
            self._has_forked = True
            socket.send_fds(self._socket, [message], [output.fileno(), errors.fileno(), theirs])
            os.close(theirs)
            answer = self._socket.recv(16)
        if not answer:
            raise BrokenPipeError("the process that starts the others has ended")
        return Child(int(answer), status)

    def close(self) -> None:
        """
        End the nursery, which ends what it has forked; were this process killed, it would end by itself.
        """
        atexit.unregister(self.close)
        self._socket.close()
        if not self._has_forked:
            self._process.kill()  # it may have a second of imports before it
        self._process.wait(_END_TIMEOUT_S)


# --- What follows runs in the nursery and its forks ---


def main() -> None:
    """
    Serve the process that has started this one; in a fork, run its command.
    """
    descriptor, *imported = sys.argv[1:]
    gc.disable()
    for name in imported:
        importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()  # noqa: S101 - a fork would lack the others
    gc.collect()
    gc.freeze()  # or each fork's first collection would copy all that is shared
    gc.enable()
    _serve(socket.socket(fileno=int(descriptor)))
    try:
        _run()
    except SystemExit as exc:
        if not isinstance(exc.code, int | None):
            raise
        _exit(exc.code or 0)
    _exit(0)


def _serve(line: socket.socket) -> None:
    """
    Fork at each message, and pass on how each fork ended, until the other end is closed.

    Returns in the forks, once they are what they are to be.
    """
    running: dict[int, tuple[int, int]] = {}  # by the descriptor of each: its pid, and where its status goes
    while True:
        for ready in select.select([line.fileno(), *running], [], [])[0]:
            if ready != line.fileno():
                pid, theirs = running.pop(ready)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(BrokenPipeError):  # the user has gone
                    os.write(theirs, str(status).encode())
                os.close(theirs)
                os.close(ready)
                continue
            message, files, _, _ = socket.recv_fds(line, _LONGEST_MESSAGE, 3)
            if not message:
                sys.exit()
            pid = os.fork()
            if not pid:
                line.detach()
                _become(files, *json.loads(message))
                return
            running[os.pidfd_open(pid)] = pid, files.pop()
            for file in files:
                os.close(file)
            line.send(str(pid).encode())


def _become(files: list[int], command: list[str], env: dict[str, str], directory: str, name: str) -> None:
    end_with_parent(signal.SIGTERM)
    os.setsid()
    for number, file in enumerate(files[:2], start=1):
        os.dup2(file, number)
    os.closerange(3, max(map(int, os.listdir("/proc/self/fd"))) + 1)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    if name:
        Path("/proc/self/comm").write_text(name)
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
        exec(rest[0], vars(sys.modules["__main__"]))  # noqa: S102 - a script of the process that started this
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
    main()
