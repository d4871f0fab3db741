"""
Group commit: writers of one process that come together share one lock and one flush.

They take turns, and each makes a commit of its own on top of the one before it.
But while others wait, the lock is kept and the branch stays where it is; the last
flushes once and moves the branch over all of their commits. No writer is answered
before that, not even one who changed nothing or was refused: what it saw was not
yet on the branch.

No writer depends on another's thread. Where a later member's block takes long, the
earlier ones land what is made so far. A thread that is ended by an exception, at
whatever line, leaves its place; the turn and the lock follow from who has a place.
"""

from __future__ import annotations

import contextlib
import copy
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import cast

from ferry.app.errors import BusyError
from ferry.worker.errors import RepositoryError
from ferry.worker.files.locks import FileLock, LockTimeoutError

_TIMEOUT_S = 30.0
_OPEN_S = 0.02  # no answer waits for many others
_PATIENCE_S = 0.05  # for the next member's block, or for the flush that runs
_POLITE_S = 0.001  # in which another process, which looks every so often, finds the lock free


class _Place:
    """
    One writer's place: first in the queue, then in a group.

    Attributes:
        called: Gets an item when the writer may be at the head of the queue.
        lock: Holds the write lock, if this writer has begun a group.
        group: The group whose member the writer is.
        outcome: Gets what came of the landing: None, or the error.
    """

    def __init__(self) -> None:
        self.called: SimpleQueue[None] = SimpleQueue()
        self.lock = contextlib.ExitStack()
        self.group: Group | None = None
        self.outcome: SimpleQueue[Exception | None] = SimpleQueue()


class Group:
    """
    Commits that go on the branch together.

    Attributes:
        base: Where the branch stands, until they do.
        tip: The last of them, on top of which the next is made.
    """

    def __init__(self, base: str | None, first: _Place) -> None:
        self.base = base
        self.tip = base
        self.lock = first.lock
        self.members = {first}  # whose blocks run, or whose commits have not landed
        self.made: list[_Place] = []  # the members who wait for the landing
        self.lander: _Place | None = None
        self.error: Exception | None = None
        self.closes_at = time.monotonic() + _OPEN_S

    def is_open(self) -> bool:
        """
        Whether one more may come in.
        """
        return self.error is None and time.monotonic() < self.closes_at


class GroupCommit:
    """
    Turns of the threads of one process at one branch.

    Args:
        lock: What every writer of the repository holds, in any process.
        head: Returns where the branch stands.
        land: Puts the branch durably at its first argument, from its second; or
            finds that it is there already.
    """

    def __init__(
        self, lock: FileLock, *, head: Callable[[], str | None], land: Callable[[str, str | None], None]
    ) -> None:
        self._lock = lock
        self._head = head
        self._land = land
        self._start_afresh()
        os.register_at_fork(after_in_child=self._start_afresh)  # whose turn it was is no thread there

    def _start_afresh(self) -> None:
        self._mutex = threading.Lock()
        self._queue: deque[_Place] = deque()  # whose head has the turn
        self._group: Group | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[Group]:
        """
        Hold the write turn for the block, which may advance the group's tip.

        Returns once the branch is at that tip.

        Raises:
            BusyError: Others kept the branch for half a minute.
            RepositoryError: It is not known whether the commit will be on the branch.
            Exception: As *land* did.
        """
        place = _Place()
        try:
            yield from self._take_part(place)
        finally:
            self._leave(place)  # again, for a thread that was ended while it left

    def _take_part(self, place: _Place) -> Iterator[Group]:
        try:
            yield self._enter(place)
        except Exception:
            if place.group:
                self._end_block(place, place.group)
            raise
        else:
            self._end_block(place, cast(Group, place.group))
        finally:
            self._leave(place)

    def _enter(self, place: _Place) -> Group:
        deadline = time.monotonic() + _TIMEOUT_S
        with self._mutex:
            self._queue.append(place)
        while not self._join_at_head(place):
            try:
                place.called.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                if not self._join_at_head(place):
                    raise BusyError(f"Others have written to the repository for {_TIMEOUT_S:g} s.") from None
        return place.group or self._begin(place, deadline)

    def _join_at_head(self, place: _Place) -> bool:
        """
        Whether *place* has the turn; it is a member of the group that has not ended then, if there is one.
        """
        with self._mutex:
            if self._queue[0] is not place:
                return False
            if self._group and self._group.error is None:
                place.group = self._group
                place.group.members.add(place)
            return True

    def _begin(self, place: _Place, deadline: float) -> Group:
        try:
            place.lock.enter_context(self._lock.hold(max(0.0, deadline - time.monotonic())))
        except LockTimeoutError as exc:
            raise BusyError(str(exc)) from exc
        place.group = self._group = Group(self._head(), place)
        return place.group

    def _end_block(self, place: _Place, group: Group) -> None:
        """
        Pass the turn on, or land the group; returns once what *place* made, or saw, is on the branch.
        """
        with self._mutex:
            group.made.append(place)
            is_last = len(self._queue) == 1 or not group.is_open()
            if not is_last:
                self._queue.remove(place)
                self._call_next()
        if is_last:
            self._land_made(place, group)
        error = self._outcome(place, group)
        if is_last and not group.is_open():
            time.sleep(_POLITE_S)
        if error:
            raise copy.copy(error) from error

    def _outcome(self, place: _Place, group: Group) -> Exception | None:
        deadline = time.monotonic() + _TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                return place.outcome.get(timeout=_PATIENCE_S)
            except Empty:
                self._land_made(place, group)
        raise RepositoryError(f"the disk has not taken the commit for {_TIMEOUT_S:g} s; it may yet")

    def _land_made(self, place: _Place, group: Group) -> None:
        """
        Land what is made so far, and what is made meanwhile, unless another member is about it.
        """
        while self._is_landers_turn(place, group):
            with self._mutex:
                made, tip = group.made.copy(), group.tip
            if group.error is None and tip is not None and tip != group.base:
                try:
                    self._land(tip, group.base)
                    group.base = tip
                except Exception as exc:  # noqa: BLE001
                    group.error = exc  # whatever it is, each of the group's threads raises it
            with self._mutex:
                for member in made:
                    member.outcome.put(group.error)
                for member in made:
                    self._drop(member, group)

    def _is_landers_turn(self, place: _Place, group: Group) -> bool:
        with self._mutex:
            if group.lander is None or group.lander is place:
                group.lander = place if group.made else None
            return group.lander is place

    def _leave(self, place: _Place) -> None:
        """
        Give up what *place* has: its turn, its part in the landing, its membership.

        May be called again, where a call was broken off.
        """
        with self._mutex:
            if place in self._queue:
                self._queue.remove(place)
            self._call_next()
            if place.group is None:
                place.lock.close()
            else:
                if place.group.lander is place:
                    place.group.lander = None
                self._drop(place, place.group)

    def _call_next(self) -> None:
        if self._queue:
            self._queue[0].called.put(None)

    def _drop(self, place: _Place, group: Group) -> None:
        if place in group.made:
            group.made.remove(place)
        group.members.discard(place)
        if not group.members:
            if self._group is group:
                self._group = None
            with contextlib.suppress(
                OSError
            ):  # the kernel has let go of the lock, whatever the file system says
                group.lock.close()
