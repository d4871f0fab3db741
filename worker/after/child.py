"""
The process that imports extensions and calls their functions, one hook's at a time.

    python -P -m ferry.worker.after.child PARENT list
    python -P -m ferry.worker.after.child PARENT call town commit
    python -P -m ferry.worker.after.child PARENT again town 3f9a1c…

It says on standard output, one JSON value a line, what it begins and what is done; what the
functions print goes to standard error. ``calling`` starts it and ends it at its limit.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from ferry.loading import ExtensionError, load
from ferry.worker.after.hooks import Hook, hooks_of
from ferry.worker.after.positions import Positions
from ferry.worker.after.work import Item, Work
from ferry.worker.errors import WorkerError
from ferry.worker.files.places import remotes_directory
from ferry.worker.git.credentials import Credentials
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.observe.redaction import redact
from ferry.worker.settings import Settings

TURN_S = 10.0  # then the message is sent again: a worker that stops waits for its tasks
_PR_SET_PDEATHSIG = 1
_SHOWN = 300


def main(arguments: Sequence[str], report: TextIO) -> int:
    """
    Do what *arguments* say; returns the exit status.
    """

    def say(**told: Any) -> None:
        report.write(f"{json.dumps(told)}\n")
        report.flush()

    try:
        settings = Settings.from_env(os.environ)
        extensions = load(settings.extensions)
    except (WorkerError, ExtensionError) as exc:
        say(failed=str(exc))
        return 1
    if arguments == ["list"]:
        say(hooks=[[hook.extension, hook.event] for hook in hooks_of(extensions)])
        return 0
    verb, name, what = arguments
    hook = Hook(name, "commit" if verb == "again" else what)  # type: ignore[arg-type]
    functions = [
        function
        for extension in extensions
        if extension.name == name
        for function in extension.hooks.after.get(hook.event, ())
    ]
    if not functions:
        say(failed=f"no function is registered for {hook}")
        return 1
    caller = Caller(settings, hook, functions, say)
    return caller.again(what) if verb == "again" else caller.call()


class Caller:
    """
    Calls the functions of one hook.

    Args:
        settings: The data repository, and how long one function may take.
        hook: The hook.
        functions: Its functions, in order.
        say: Called with what the parent is to know.
    """

    def __init__(
        self,
        settings: Settings,
        hook: Hook,
        functions: Sequence[Callable[[Any], None]],
        say: Callable[..., None],
    ) -> None:
        path = settings.data_repo_path
        repository = Repository.of(settings, Credentials.from_settings(settings, os.environ))
        self._hook = hook
        self._functions = functions
        self._limit_s = settings.api_hook_timeout_s
        self._say = say
        self._work = Work(repository, Ledger(remotes_directory(path)))
        self._positions = Positions(path)
        self._process = os.getpid()

    def call(self) -> int:
        """
        Call the functions for what waits, until nothing does or the turn is over; returns the exit status.
        """
        turn_ends = time.monotonic() + TURN_S
        try:
            for item in self._work.items(self._hook.event, self._positions.read(self._hook) or ()):
                if time.monotonic() > turn_ends:
                    break
                if not self._is_called(item):
                    return 1
                self._positions.write(self._hook, item[2])
                self._say(done=item[0])
        except (WorkerError, OSError) as exc:
            self._say(failed=str(exc))
            return 1
        self._say(ended=True)
        return 0

    def again(self, commit: str) -> int:
        """
        Call the functions once more for *commit*, wherever the position is; returns the exit status.
        """
        try:
            [found] = self._work.reader.read([commit])
        except WorkerError as exc:
            self._say(failed=str(exc))
            return 1
        if not self._is_called((found.hash, found, ())):
            return 1
        self._say(done=found.hash)
        self._say(ended=True)
        return 0

    def _is_called(self, item: Item) -> bool:
        name, given, _ = item
        self._say(begun=name)
        try:
            for function in self._functions:
                # The kernel ends this process, whatever code it is in.
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.setitimer(signal.ITIMER_REAL, self._limit_s)
                function(given)
        except BaseException as exc:  # noqa: BLE001 - SystemExit and KeyboardInterrupt are failures of it, too
            if os.getpid() == self._process:
                traceback.print_exc()
                text = " ".join(str(exc).split())
                self._say(
                    failed=redact(f"{type(exc).__name__}: {text}" if text else type(exc).__name__)[:_SHOWN]
                )
            return False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if os.getpid() != self._process:
                os._exit(1)  # a fork that the function has left behind, which must call nothing
        return True


def _end_with_parent(parent: int) -> None:
    """
    Have the kernel end this process when its parent ends: another may then call the same functions.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _own_standard_output() -> TextIO:
    """
    Return standard output, and let what is printed go to standard error from now on.
    """
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return report


if __name__ == "__main__":
    _end_with_parent(int(sys.argv[1]))
    status = main(sys.argv[2:], _own_standard_output())
    if os.getpgid(0) == os.getpid():
        # What the functions have started ends with them: the parent waits for whoever holds its pipe.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
    sys.exit(status)
