"""
Group commit: concurrent writers of one process share one lock and one flush.

They take turns, and each makes its own commit on top of the previous one. While others wait, the lock is kept
and the branch does not move; the last writer flushes once and moves the branch over all of their commits. No
writer is answered before that, not even one that changed nothing or was refused: it has seen commits that
were not yet on the branch.

No writer depends on another's thread. If a later member's block takes long, the earlier members land the
commits made so far. A thread that an exception ends, at any line, leaves its place; turn and lock depend only
on the places.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import cast

from ferry.app.errors import BusyError
from ferry.app.store.limit import Limit
from ferry.app.store.translation import translated
from ferry.worker.errors import RepositoryError
from ferry.worker.files.locks import FileLock, LockTimeoutError

_TIMEOUT_S = 30.0
_OPEN_S = 0.02  # bounds how long an answer waits for others
_PATIENCE_S = 0.05  # to wait for the next member's block, or for the running flush
_POLITE_S = 0.001  # during which another process, which polls, can take the lock


class _Place:
    """
    One writer's place: first in the queue, then in a group.

    Attributes:
        called: Receives an item when the writer may be at the head of the queue.
        lock: Holds the write lock, if this writer began a group.
        group: The group that the writer is a member of.
        outcome: Receives the result of the landing: None, or the error.
    """

    def __init__(self) -> None:
        self.called: SimpleQueue[None] = SimpleQueue()
        self.lock = contextlib.ExitStack()
        self.group: Group | None = None
        self.outcome: SimpleQueue[Exception | None] = SimpleQueue()


class Group:
    """
    Commits that land on the branch together.

    Attributes:
        base: The branch's tip, until they land.
        tip: The last of these commits; the next commit's parent.
        landing: The commit that the branch was last moved to, or is being moved to. The branch may be at it
            although *base* is not: an exception ended the thread that moved the branch before it set *base*.
    """

    def __init__(self, base: str | None, first: _Place) -> None:
        self.base = base
        self.tip = base
        self.landing = base
        self.lock = first.lock
        self.members = {first}  # members whose blocks are running, or whose commits have not landed
        self.made: list[_Place] = []  # the members that wait for the landing
        self.lander: _Place | None = None
        self.error: Exception | None = None
        self.closes_at = time.monotonic() + _OPEN_S

    def is_open(self) -> bool:
        """
        Whether another writer may join.
        """
        return self.error is None and time.monotonic() < self.closes_at


class GroupCommit:
    """
    The write turns of one process's threads.

    Args:
        lock: The write lock, which every writer of any process holds.
        head: Returns the branch's tip.
        land: Moves the branch durably to its first argument, from its second; returns if it is there already.
    """

    def __init__(
        self, lock: FileLock, *, head: Callable[[], str | None], land: Callable[[str, str | None], None]
    ) -> None:
        self._lock = lock
        self._head = head
        self._land = land
        self._reset()
        os.register_at_fork(after_in_child=self._reset)  # a forked child does not have these threads

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._queue: deque[_Place] = deque()  # its head has the turn
        self._group: Group | None = None

    @contextlib.contextmanager
    def turn(self, limit: Limit | None = None) -> Iterator[Group]:
        """
        Hold the write turn for the block, which may advance the group's tip.

        Returns once the branch is at that tip.

        Args:
            limit: When it expires, the next writer gets the turn, and the block must raise. The block calls
                ``keep`` before it advances the tip.

        Raises:
            BusyError: Others held the turn for half a minute.
            RepositoryError: The disk did not answer in time; the commit may still land.
            Exception: What *land* raised.
        """
        place = _Place()
        if limit:
            limit.on_expiry = functools.partial(self._leave, place)
        try:
            yield from self._take_part(place, limit)
        finally:
            if limit:
                limit.settle()
            self._leave(place)  # again, in case an exception interrupted the first call

    def _take_part(self, place: _Place, limit: Limit | None) -> Iterator[Group]:
        try:
            yield self._enter(place)
        except Exception:
            if place.group and (limit is None or limit.settle()):
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
        Whether *place* has the turn. If a group is open, it then joins the group.
        """
        with self._mutex:
            if self._queue[0] is not place:
                return False
            if self._group and self._group.error is None:
                place.group = self._group
                place.group.members.add(place)
            return True

    def _begin(self, place: _Place, deadline: float) -> Group:
        with translated():  # a full disk may have no room for the lock's file
            try:
                place.lock.enter_context(self._lock.hold(max(0.0, deadline - time.monotonic())))
            except LockTimeoutError as exc:
                raise BusyError(str(exc)) from exc
        place.group = self._group = Group(self._head(), place)
        return place.group

    def _end_block(self, place: _Place, group: Group) -> None:
        """
        Pass the turn on, or land the group; returns once the commits that *place* made or saw are on the
        branch.
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
        raise RepositoryError(f"the disk has not stored the commit for {_TIMEOUT_S:g} s; it may still do so")

    def _land_made(self, place: _Place, group: Group) -> None:
        """
        Land the commits made so far, and those made meanwhile, unless another member is landing them.
        """
        while self._is_landers_turn(place, group):
            with self._mutex:
                made, tip = group.made.copy(), group.tip
            if group.error is None and tip is not None and tip != group.base:
                try:
                    if group.landing != group.base and group.landing == self._head():
                        group.base = group.landing
                    group.landing = tip
                    self._land(tip, group.base)
                    group.base = tip
                except Exception as exc:  # noqa: BLE001
                    group.error = exc  # each of the group's threads raises it
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
        Give up the place's turn, its role in the landing and its membership.

        Safe to call again after an interrupted call.
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
            ):  # the kernel has released the lock, whatever the file system reports
                group.lock.close()
