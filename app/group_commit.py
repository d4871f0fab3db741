"""
Group commit: writers of one process that come together share one lock and one flush.

They take turns, and each makes a commit of its own on top of the one before it.
But while others wait, the lock is kept and the branch stays where it is; whoever is
the last flushes once and moves the branch over all of their commits. Nobody is
answered before that, not even who changed nothing or was refused: what they saw
was not yet on the branch.
"""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from app.errors import BusyError
from worker.errors import RepositoryError
from worker.locks import FileLock, LockTimeoutError

_TIMEOUT_S = 30.0
_OPEN_S = 0.02  # nobody's answer waits for many others
_POLITE_S = 0.001  # in which another process, which looks every so often, finds the lock free


class Group:
    """
    Commits that go on the branch together.

    Attributes:
        base: Where the branch stands, until they do.
        tip: The last of them, on top of which the next is made.
    """

    def __init__(self, base: str | None, lock: contextlib.ExitStack) -> None:
        self.base = base
        self.tip = base
        self._lock = lock
        self._closes_at = time.monotonic() + _OPEN_S
        self._ended = threading.Event()
        self._has_landed = False
        self._error: Exception | None = None

    def is_open(self) -> bool:
        """
        Whether one more may come in.
        """
        return time.monotonic() < self._closes_at

    def end(self, land: Callable[[str, str | None], None]) -> None:
        """
        Put the commits on the branch, let go of the lock, and tell everybody who waits.
        """
        try:
            with self._lock:
                if self.tip is not None and self.tip != self.base:
                    land(self.tip, self.base)
            self._has_landed = True
        except Exception as exc:  # noqa: BLE001
            self._error = exc  # whatever it is, each of the group's threads raises it
        finally:
            self._ended.set()

    def await_end(self) -> None:
        """
        Wait until the commits are on the branch.

        Raises:
            RepositoryError: It is not known whether they will be.
            Exception: As *land* did.
        """
        if not self._ended.wait(_TIMEOUT_S):
            raise RepositoryError(f"the disk has not taken the commit for {_TIMEOUT_S:g} s; it may yet")
        if self._error:
            raise copy.copy(self._error) from self._error
        if not self._has_landed:
            raise RepositoryError("the thread that wrote the commit was ended; it may be on the branch")


class GroupCommit:
    """
    Turns of the threads of one process at one branch.

    Args:
        lock: What every writer of the repository holds, in any process.
        head: Returns where the branch stands.
        land: Puts the branch durably at its first argument, from its second.
    """

    def __init__(
        self, lock: FileLock, *, head: Callable[[], str | None], land: Callable[[str, str | None], None]
    ) -> None:
        self._lock = lock
        self._head = head
        self._land = land
        self._mutex = threading.Lock()
        self._is_taken = False
        self._waiting: deque[threading.Lock] = deque()
        self._group: Group | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[Group]:
        """
        Be the only writer for the block, which may move the group's tip; after it, the branch is there.

        Raises:
            BusyError: Others kept the branch for half a minute.
            Exception: As *land* did.
        """
        deadline = time.monotonic() + _TIMEOUT_S
        self._take_turn(deadline)
        try:
            group = self._group = self._group or self._begin(deadline)
        except BaseException:
            self._pass_on()
            raise
        try:
            yield group
        finally:
            if not (group.is_open() and self._pass_on(or_rest=False)):
                self._group = None
                try:
                    group.end(self._land)
                    if not group.is_open():
                        time.sleep(_POLITE_S)
                finally:
                    self._pass_on()
            group.await_end()

    def _begin(self, deadline: float) -> Group:
        with contextlib.ExitStack() as lock:
            try:
                lock.enter_context(self._lock.hold(max(0.0, deadline - time.monotonic())))
            except LockTimeoutError as exc:
                raise BusyError(str(exc)) from exc
            return Group(self._head(), lock.pop_all())

    def _take_turn(self, deadline: float) -> None:
        with self._mutex:
            if not self._is_taken:
                self._is_taken = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        if mine.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return
        with self._mutex:
            if mine in self._waiting:  # else the turn came at this very moment
                self._waiting.remove(mine)
                raise BusyError(f"Others have written to the repository for {_TIMEOUT_S:g} s.")

    def _pass_on(self, *, or_rest: bool = True) -> bool:
        """
        Give the turn to who has waited longest; returns whether there was anybody.
        """
        with self._mutex:
            if self._waiting:
                self._waiting.popleft().release()
                return True
            self._is_taken = not or_rest
            return False
