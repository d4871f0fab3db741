"""
Talks that stand ready: begun before there is anything to push, so that a push costs one round trip.

A talk over ssh takes two round trips until the remote has listed its refs, and one with a repository on this
machine the start of a process, a tenth of a push. So after each push Ferry begins the next talk, which waits
at the remote. It ends with this process, after a minute without a push, and at the next push if that needs
another program. The refs that the remote listed are as old as the talk, so they are not compared with the old
tip. That does no harm: a request names the old tip, and a remote that is not there refuses it.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ferry.worker.git.express.wire import NOTHING
from ferry.worker.process.talking import Talk

IDLE_S = 60.0  # as long as a shared ssh connection without a session
ENDING_S = 2.0  # for a program that gets no request, or is in doubt


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """
    A program to talk to, with all that it depends on.

    Attributes:
        command: Its words.
        env: Its complete environment.
        directory: Its working directory.
        reads: What changes with the files that it reads when it starts.
        stands: Whether a talk may begin before it is needed.
    """

    command: Sequence[str]
    env: Mapping[str, str]
    directory: Path
    reads: object = None
    stands: bool = False

    def start(self) -> Talk:
        """
        Begin a talk.

        Raises:
            OSError: The program cannot be started.
        """
        return Talk(self.command, env=self.env, directory=self.directory)


@dataclass(frozen=True, slots=True)
class _Waiting:
    program: Program
    talk: Talk
    until: float


_waiting: dict[str, _Waiting] = {}
_changed = threading.Condition(threading.Lock())
# One thread for all talks: to start and to stop one for each would delay every push. It sleeps until then.
_ending: threading.Thread | None = None
_wakes_at = 0.0


def take(url: str, program: Program) -> tuple[Talk, bool]:
    """
    Return a talk with *program*, and whether it is new; else it stood ready.

    Raises:
        OSError: The program cannot be started.
    """
    with _changed:
        found = _waiting.pop(url, None)
    if found is None:
        return program.start(), True
    if found.program == program and found.talk.is_running():
        return found.talk, False
    _end(found.talk)
    return program.start(), True


def prepare(url: str, program: Program) -> None:
    """
    Begin the next talk, if this program may stand ready.
    """
    if not program.stands:
        return
    try:
        talk = program.start()
    except OSError:
        return  # the next push finds out why
    global _ending
    waiting = _Waiting(program, talk, time.monotonic() + IDLE_S)
    with _changed:
        _waiting[url] = waiting
        if _ending is None:
            _ending = threading.Thread(target=_end_idle, args=(_changed,), daemon=True)
            _ending.start()
        elif waiting.until < _wakes_at:
            _changed.notify_all()


def close() -> None:
    """
    End all talks that stand ready.
    """
    with _changed:
        found = [*_waiting.values()]
        _waiting.clear()
        _changed.notify_all()
    for each in found:
        _end(each.talk)


def _end_idle(changed: threading.Condition) -> None:
    """
    End each talk when it was not needed for a minute; returns when none is left.
    """
    global _ending, _wakes_at
    while True:
        with changed:
            now = time.monotonic()
            idle = [_waiting.pop(url) for url, each in [*_waiting.items()] if each.until <= now]
            if not idle and not _waiting:
                _ending = None
                return
            if not idle:
                _wakes_at = min(each.until for each in _waiting.values())
                changed.wait(_wakes_at - now)
        for each in idle:
            _end(each.talk)


def _end(talk: Talk) -> None:
    talk.send(NOTHING)
    talk.finish(time.monotonic() + ENDING_S)


def _forget_parents() -> None:
    """
    Forget all talks after a fork: they are the parent's.
    """
    global _changed, _ending
    _changed, _ending = threading.Condition(threading.Lock()), None
    for found in _waiting.values():
        found.talk.let_go()
    _waiting.clear()


os.register_at_fork(after_in_child=_forget_parents)
atexit.register(close)
