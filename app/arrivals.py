"""
Waiting for commits to come and to arrive, without asking again and again.

Whoever pushes, in whichever process, writes the ledger afterwards, and whoever
commits moves the branch: both are a file that is renamed into its directory, and
the kernel says so (inotify). One thread per process listens, for as long as
somebody waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from inotify_simple import INotify, flags

from worker.git import Repository
from worker.prepare import remotes_directory

# Another host's changes on a shared volume wake nobody here; and a client that went away is seen so.
_LOOK_AGAIN_S = 1.0


class Arrivals:
    """
    Wakes whoever waits when the branch or a remote has moved.

    Args:
        repository: The data repository.
    """

    def __init__(self, repository: Repository) -> None:
        self._directories = [
            remotes_directory(repository.path),
            (repository.path / repository.ref).parent,
        ]
        self._moved = threading.Condition()
        self._waiting = 0
        self._closing = False
        self._listening: int | None = None  # the process whose thread listens: a fork has none

    def wait(self, happened: Callable[[], bool], timeout_s: float, *, is_gone: Callable[[], bool]) -> bool:
        """
        Wait until *happened* returns true; returns whether it did.

        Args:
            timeout_s: Seconds to wait at most.
            is_gone: Whether nobody waits for the answer any more.
        """
        deadline = time.monotonic() + timeout_s
        with self._moved:
            self._waiting += 1
            self._listen()
            try:
                while not happened():
                    left = deadline - time.monotonic()
                    if left <= 0 or self._closing or is_gone():
                        return False
                    self._moved.wait(min(left, _LOOK_AGAIN_S))
                return True
            finally:
                self._waiting -= 1

    @property
    def is_closing(self) -> bool:
        """
        Whether this process is to end, so that nobody may wait for long.
        """
        return self._closing

    def close_on(self, number: signal.Signals) -> None:
        """
        End every wait when the signal *number* comes, and then do what was to be done at it.
        """
        obey = signal.getsignal(number)

        def close(number: int, frame: FrameType | None) -> None:
            self._closing = True  # seen within a second; to notify could meet our own lock
            if callable(obey):
                obey(number, frame)

        signal.signal(number, close)

    def _listen(self) -> None:
        if self._listening == os.getpid():
            return
        self._listening = os.getpid()
        with contextlib.suppress(OSError):  # no inotify left to have: looking again each second must do
            inotify = INotify()
            for directory in self._directories:
                inotify.add_watch(directory, flags.MOVED_TO | flags.CREATE)
            threading.Thread(target=self._wake, args=(inotify,), name="arrivals", daemon=True).start()

    def _wake(self, inotify: INotify) -> None:
        with inotify:
            while True:
                inotify.read(timeout=int(_LOOK_AGAIN_S * 1000))
                with self._moved:
                    if not self._waiting:
                        self._listening = None
                        return
                    self._moved.notify_all()
