"""
Orderly ends: a pool process finishes its push first.

A supervisor, or a terminal that closes, may signal the whole process group. Celery's main process then waits
for its tasks, but SIGTERM would end the pool process that runs one. So SIGTERM is deferred while a task runs.
A long task that can stop half-way without loss is interrupted instead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import billiard.pool
from celery.signals import task_postrun, task_prerun, worker_process_init
from celery.worker import state

_LOOKS_FOR_A_READER = 20  # a tenth of a second apart
# Long enough for a finished task's result to reach the main process, and for a new message to reach this one.
_AFTER_S = 1.0
_BORN_S = 0.05


class TaskInterrupted(Exception):
    """
    The worker ends and interrupts this task.
    """


class _PutOff:
    """
    Defers SIGTERM in a pool process: to a second after its task has ended, or after a second without a task.

    An idle process may just have been sent a message. If it ended at once, the message would be lost, and the
    main process would wait for the result for ever.
    """

    def __init__(self) -> None:
        self._obey: Callable[[int, Any], Any] | int | None = signal.SIG_DFL
        self._is_listening = False
        self._asked = False
        self._busy = False
        self._is_interruptible = False

    def be_born(self, **_: Any) -> None:
        # billiard sets its own handlers right after this.
        signal.signal(signal.SIGALRM, self._listen)
        signal.setitimer(signal.ITIMER_REAL, _BORN_S)

    def begin(self, **_: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # another kind of pool, whose threads get no signals
        self._busy = True
        self._listen(0, None)

    def finish(self, **_: Any) -> None:
        if not self._busy:
            return
        self._busy = False
        if self._asked:
            signal.setitimer(signal.ITIMER_REAL, _AFTER_S)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        self._is_interruptible = True
        try:
            yield
        finally:
            self._is_interruptible = False

    def _interrupt(self, number: int, frame: Any) -> None:
        if self._is_interruptible:  # otherwise that task has just ended, and another may run
            self._is_interruptible = False
            raise TaskInterrupted

    def _listen(self, number: int, frame: Any) -> None:
        if not self._is_listening:
            self._is_listening = True
            signal.signal(signal.SIGUSR1, self._interrupt)
            self._obey = signal.signal(signal.SIGTERM, self._remember)
            signal.signal(signal.SIGALRM, self._end)

    def _remember(self, number: int, frame: Any) -> None:
        self._asked = True
        if not self._busy:
            signal.setitimer(signal.ITIMER_REAL, _AFTER_S)

    def _end(self, number: int, frame: Any) -> None:
        if self._asked and not self._busy:  # otherwise a task has begun meanwhile and defers the signal again
            signal.signal(signal.SIGTERM, self._obey)
            os.kill(os.getpid(), signal.SIGTERM)


_put_off = _PutOff()
interruptible = _put_off.interruptible


def interrupt(task: str) -> None:
    """
    Interrupt every task named *task* that this worker runs, where it has marked itself ``interruptible``.
    """
    for request in [*state.active_requests]:
        if request.name == task and request.worker_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(request.worker_pid, signal.SIGUSR1)


def finish_tasks_first() -> None:
    """
    Defer SIGTERM while a task runs or arrives, in every pool process that is started from now on.

    Such a process also waits two seconds, not half a minute, for its result to be read: the main process
    does not read it where SIGTERM came in the worker's first moments. The push is then run again, and finds
    everything there. The number of tries is a constant of billiard's
    (https://github.com/celery/billiard/blob/main/billiard/pool.py).
    """
    billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = _LOOKS_FOR_A_READER
    worker_process_init.connect(_put_off.be_born)
    task_prerun.connect(_put_off.begin)
    task_postrun.connect(_put_off.finish)
