"""
Waiting until the branch or a remote moves, without polling.

After each push the worker writes the ledger, and each commit moves the branch. Both rename a file into its
directory, of which the kernel notifies this process (inotify). One thread per process listens, as long as a
request waits.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar, cast

from inotify_simple import INotify, flags

from ferry.worker.files.places import remotes_directory
from ferry.worker.git.repository import Repository

# seconds; finds changes that another host makes on a shared volume, and clients that have disconnected
_LOOK_AGAIN_S = 1.0
T = TypeVar("T")


class Arrivals:
    """
    Wakes the waiting requests when the branch or a remote has moved.

    Args:
        repository: The data repository.
    """

    def __init__(self, repository: Repository) -> None:
        self._directories = [
            remotes_directory(repository.path),
            (repository.path / repository.ref).parent,
        ]
        self._closing = False
        self._reset()
        os.register_at_fork(after_in_child=self._reset)  # threads do not survive a fork

    def _reset(self) -> None:
        self._moved = threading.Condition()
        self._wake_ups = 0
        self._waiting = 0
        self._at_next: list[Callable[[], object]] = []
        self._listening: INotify | None = None
        self._listen_at = 0.0  # monotonic seconds; no try before that
        self._looking = threading.Lock()
        self._seen: tuple[int, float, Any] | None = None

    def wait(self, happened: Callable[[], bool], timeout_s: float, *, is_gone: Callable[[], bool]) -> bool:
        """
        Wait until *happened* returns true; returns whether it did.

        Args:
            happened: Called without a lock, and again after each wake-up; see also ``see``.
            timeout_s: Seconds to wait at most.
            is_gone: Whether the client has gone.
        """
        deadline = time.monotonic() + timeout_s
        with self._moved:
            self._waiting += 1
        try:
            while True:
                with self._moved:
                    self._listen()
                    before = self._wake_ups
                if happened():
                    return True
                left = deadline - time.monotonic()
                if left <= 0 or self._closing or is_gone():
                    return False
                with self._moved:
                    if self._wake_ups == before:
                        self._moved.wait(min(left, _LOOK_AGAIN_S))
        finally:
            with self._moved:
                self._waiting -= 1

    def see(self, look: Callable[[], T]) -> T:
        """
        Return what *look* returns. One call serves all callers until the next wake-up, or for a second.

        Args:
            look: The same function in every call.
        """
        with self._looking:
            wake_ups = self._wake_ups
            if self._seen is None or self._seen[0] != wake_ups or time.monotonic() > self._seen[1]:
                found = look()
                self._seen = (wake_ups, time.monotonic() + _LOOK_AGAIN_S, found)
            return cast(T, self._seen[2])

    def call_at_next(self, function: Callable[[], object]) -> None:
        """
        Call *function* once, in this object's thread, at the next wake-up or after about a second.

        If the machine has no thread or watch left, it is not called: the caller needs its own timeout.
        """
        with self._moved:
            self._at_next.append(function)
            self._listen()

    def forget(self) -> None:
        """
        Make the next ``see`` call its *look*, because the stored result is out of date.
        """
        with self._looking:
            self._seen = None

    @property
    def is_closing(self) -> bool:
        """
        Whether this process is about to end, so that no request may wait for long.
        """
        return self._closing

    def close_on(self, number: signal.Signals) -> None:
        """
        End every wait when the signal *number* comes, then call its previous handler.
        """
        obey = signal.getsignal(number)

        def close(number: int, frame: FrameType | None) -> None:
            self._closing = True  # seen within a second; notifying here could deadlock on our own lock
            if callable(obey):
                obey(number, frame)

        signal.signal(number, close)

    def _listen(self) -> None:
        """
        Start the thread that listens. Without it, waiting requests look each second and retry the start.
        """
        if self._listening or time.monotonic() < self._listen_at:
            return
        self._listen_at = time.monotonic() + _LOOK_AGAIN_S
        with contextlib.ExitStack() as stack:
            try:
                inotify = stack.enter_context(INotify())
                for directory in self._directories:
                    inotify.add_watch(directory, flags.MOVED_TO | flags.CREATE)
                threading.Thread(target=self._wake, args=(inotify,), name="arrivals", daemon=True).start()
            except (OSError, RuntimeError):
                # The machine has no inotify instance, watch or thread left, or git has removed a directory.
                return
            self._listening = inotify
            stack.pop_all()

    def _wake(self, inotify: INotify) -> None:
        with inotify:
            goes_on = True
            while goes_on:
                events = inotify.read(timeout=int(_LOOK_AGAIN_S * 1000))
                with self._moved:
                    # A watch ends with its directory; the next wait makes a new one.
                    waited_for = self._waiting > 0 or bool(self._at_next)
                    goes_on = waited_for and not any(event.mask & flags.IGNORED for event in events)
                    if not goes_on:
                        self._listening, self._listen_at = None, 0.0
                    if events:
                        self._wake_ups += 1
                        self._moved.notify_all()
                    called, self._at_next = self._at_next, []
                for function in called:
                    function()
