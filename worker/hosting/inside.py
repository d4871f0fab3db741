"""
What each process does that calls extensions' code: its first and its last steps, and its limit.

It says on standard output, one JSON value a line, what its parent is to know; what the extensions print goes
to standard error. ``process`` starts it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol, TextIO

from ferry.extension import Extension
from ferry.loading import ExtensionError, load
from ferry.worker.errors import WorkerError
from ferry.worker.observe.redaction import redact
from ferry.worker.process.groups import end_with_parent
from ferry.worker.settings import Settings

_SHOWN = 300


class Say(Protocol):
    """
    Tells the parent something.
    """

    def __call__(self, **told: Any) -> None: ...


Main = Callable[[Settings, tuple[Extension, ...], Sequence[str], Say], int]


def serve(main: Main) -> NoReturn:
    """
    Import the extensions, let *main* do what the command line says, and end with all that was started.

    *main* returns the exit status. Where the extensions cannot be imported, the parent is told ``failed``.
    """
    parent, *arguments = sys.argv[1:]
    _end_with_parent(int(parent))
    say = _to(_own_standard_output())
    try:
        settings = Settings.from_env(os.environ)
        extensions = load(settings.extensions)
    except (WorkerError, ExtensionError) as exc:
        say(failed=str(exc))
        status = 1
    else:
        status = main(settings, extensions, arguments, say)
    if os.getpgid(0) == os.getpid():
        # What the functions have started ends with them: the parent waits for whoever holds its pipe.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
    sys.exit(status)


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """
    Have the kernel end this process if the block takes longer, whatever code it is in.

    A fork that the block has left behind ends with it, and calls nothing.
    """
    process = os.getpid()
    try:
        restart_limit(seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if os.getpid() != process:
            os._exit(1)


def restart_limit(seconds: float) -> None:
    """
    Let the limit begin anew.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def told(error: BaseException) -> str:
    """
    Return what an extension raised, in one line.
    """
    text = " ".join(str(error).split())
    return redact(f"{type(error).__name__}: {text}" if text else type(error).__name__)[:_SHOWN]


def _end_with_parent(parent: int) -> None:
    """
    Have the kernel end this process when its parent ends: another may then call the same functions.
    """
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _own_standard_output() -> TextIO:
    """
    Return standard output, and let what is printed go to standard error from now on.
    """
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return report


def _to(report: TextIO) -> Say:
    def say(**told: Any) -> None:
        report.write(f"{json.dumps(told)}\n")
        report.flush()

    return say
