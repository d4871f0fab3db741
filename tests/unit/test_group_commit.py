"""
That writers who come together land together, and that none is told of a commit which did not land.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ferry.app.errors import BusyError, ExtensionTooSlowError
from ferry.app.store import group_commit
from ferry.app.store.group_commit import GroupCommit
from ferry.app.store.limit import Limit
from ferry.worker.files import locks
from ferry.worker.files.locks import FileLock
from tests.parts import wait_until

ROOT = Path(__file__).resolve().parents[2]


class _Branch:
    """
    A branch whose commits are called by the names of all that is in them.
    """

    def __init__(self, path: Path) -> None:
        self.head: str | None = "0"
        self.landings: list[str] = []
        self.fails: BaseException | None = None
        self.lock = FileLock(path / "write.lock")
        self.writers = GroupCommit(self.lock, head=lambda: self.head, land=self._land)

    def _land(self, new: str, old: str | None) -> None:
        assert self.lock.is_held()
        if self.head == new:
            return  # the thread that moved it was ended before it could say so
        assert self.head == old, "somebody else has moved the branch"
        if self.fails:
            raise self.fails
        self.head = new
        self.landings.append(new)

    def write(self, name: str, *, refused: bool = False) -> str:
        with self.writers.turn() as group:
            if refused:
                raise ValueError(name)
            assert group.tip is not None
            group.tip += name
        assert self.head is not None
        assert name in self.head, f"{name} was told of a commit that is not on the branch"
        return self.head


@pytest.fixture
def branch(tmp_path: Path) -> _Branch:
    return _Branch(tmp_path)


def _together(
    branch: _Branch, pool: ThreadPoolExecutor, *names: str, then: Callable[[], None] | None = None
) -> list[Future[Any]]:
    """
    Let one write for each name wait, in this order, while another has its turn; a capital is refused.

    Args:
        then: What waits after them; its future is not returned.
    """
    begun, may_end = threading.Event(), threading.Event()

    def be_first() -> None:
        with branch.writers.turn():
            begun.set()
            assert may_end.wait(10)

    writing: list[Future[Any]] = [pool.submit(be_first)]
    assert begun.wait(10)
    for name in names:
        writing.append(pool.submit(branch.write, name, refused=name.isupper()))
        wait_until(lambda: len(branch.writers._queue) == len(writing), what="a writer to wait")
    if then:
        pool.submit(then)
        wait_until(lambda: len(branch.writers._queue) == len(writing) + 1, what="the last to wait")
    may_end.set()
    return writing[1:]


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as threads:
        yield threads


@pytest.fixture(autouse=True)
def _open_for_long(monkeypatch):
    """
    On a busy machine a thread comes late.
    """
    monkeypatch.setattr(group_commit, "_OPEN_S", 10.0)
    monkeypatch.setattr(group_commit, "_PATIENCE_S", 10.0)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(group_commit, "_PATIENCE_S", 0.01)


def test_one_writer_alone_waits_for_nobody(branch):
    assert [branch.write("a"), branch.write("b")] == ["0a", "0ab"]
    assert branch.landings == ["0a", "0ab"]
    assert not branch.lock.is_held()


def test_who_waits_together_lands_together_in_the_order_of_coming(branch, pool):
    writing = _together(branch, pool, *"abcdefgh")

    assert [each.result(10) for each in writing] == ["0abcdefgh"] * 8
    assert branch.landings == ["0abcdefgh"]
    assert not branch.lock.is_held()


def test_a_refused_write_takes_no_other_along(branch, pool):
    first, refused, last, also_refused = _together(branch, pool, *"aBcD")

    assert first.result(10) == last.result(10) == "0ac"
    for each in (refused, also_refused):
        with pytest.raises(ValueError, match=r"B|D"):
            each.result(10)
    assert branch.landings == ["0ac"]


def test_where_landing_fails_everybody_is_told_and_the_next_write_starts_afresh(branch, pool):
    branch.fails = BusyError("in the way")

    for each in _together(branch, pool, *"aBc"):
        with pytest.raises(BusyError, match="in the way"):
            each.result(10)

    assert (branch.head, branch.landings) == ("0", [])
    branch.fails = None
    assert branch.write("d") == "0d"


class Ended(BaseException):
    """
    What ends a thread from outside, as a signal or ``PyThreadState_SetAsyncExc`` does.
    """


def _is_free(branch: _Branch) -> bool:
    return not branch.lock.is_held() and not branch.writers._queue and branch.writers._group is None


def _end_who_lands(branch: _Branch, *ends: Ended) -> list[Ended]:
    """
    End the next threads that move the branch, once they have; returns the *ends* that are still to come.
    """
    land, left = branch.writers._land, [*ends]

    def land_and_be_ended(new: str, old: str | None) -> None:
        land(new, old)
        if left:
            raise left.pop()

    branch.writers._land = land_and_be_ended
    return left


def test_what_a_thread_was_ended_over_lands_by_another(branch, pool, monkeypatch):
    monkeypatch.setattr(group_commit, "_PATIENCE_S", 1.0)
    _end_who_lands(branch, Ended())
    first, last = _together(branch, pool, *"ab")

    assert first.result(10) == "0ab"
    with pytest.raises(Ended):
        last.result(10)
    assert branch.landings == ["0ab"]
    assert branch.write("c") == "0abc"
    assert _is_free(branch)


def test_a_commit_lands_on_top_of_one_over_which_threads_were_ended(branch, pool, impatient):
    """
    The branch had moved, and the group was not told.
    """
    may_end = threading.Event()
    ends = _end_who_lands(branch, Ended(), Ended())
    _together(branch, pool, "a", then=lambda: _write_when(branch, "z", may_end))
    wait_until(lambda: not ends, what="the end of the two that waited for the landing")
    may_end.set()

    # On a busy machine the last writer may come when the lock is free already, and take it once more.
    wait_until(lambda: branch.landings == ["0a", "0az"], what="the last writer's commit")
    wait_until(lambda: _is_free(branch), what="the lock")
    assert branch.write("b") == "0azb"


def test_nobody_waits_for_the_block_of_a_later_member(branch, pool, impatient):
    """
    It may take long, and it lands on top of what has landed meanwhile.
    """
    in_block, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        with branch.writers.turn() as group:
            in_block.set()
            assert may_end.wait(10)
            group.tip += "z"

    (first,) = _together(branch, pool, "a", then=slow)
    assert in_block.wait(10)
    late = pool.submit(branch.write, "b")

    assert first.result(10) == "0a", "before the block of the later one has ended"
    assert branch.lock.is_held()
    may_end.set()
    assert late.result(10) == "0azb"
    assert branch.landings[0] == "0a"
    wait_until(lambda: _is_free(branch), what="the lock")


def test_a_commit_on_top_of_one_that_did_not_land_does_not_land_either(branch, pool, impatient):
    in_block, may_end, told = threading.Event(), threading.Event(), []

    def slow() -> None:
        try:
            with branch.writers.turn() as group:
                in_block.set()
                assert may_end.wait(10)
                group.tip += "z"
        except BusyError as exc:
            told.append(exc)

    land = branch.writers._land

    def land_meanwhile(new: str, old: str | None) -> None:
        assert in_block.wait(10)
        land(new, old)

    branch.fails, branch.writers._land = BusyError("in the way"), land_meanwhile
    (first,) = _together(branch, pool, "a", then=slow)
    with pytest.raises(BusyError, match="in the way"):
        first.result(10)
    branch.fails = None
    may_end.set()
    wait_until(lambda: _is_free(branch), what="the lock")

    assert len(told) == 1
    assert branch.write("b") == "0b"


def _ended_at(number: int, branch: _Branch, name: str) -> bool:
    """
    Write *name* in this thread, which is ended at the given line of the two modules, if it comes so far.
    """
    left = [number]
    sources = {each.__file__: Path(each.__file__).read_text().splitlines() for each in (group_commit, locks)}

    def trace(frame: Any, event: str, _: Any) -> Any:
        source = sources.get(frame.f_code.co_filename)
        if source is None:
            return None
        # The interpreter lets nothing come between a block's last line and its lock's release.
        if event == "line" and not source[frame.f_lineno - 1].lstrip().startswith("with self._"):
            left[0] -= 1
            if left[0] == 0:
                raise Ended
        return trace

    sys.settrace(trace)
    try:
        with contextlib.suppress(Ended):
            branch.write(name)
    finally:
        sys.settrace(None)
    return left[0] <= 0


@pytest.mark.parametrize(("before", "after"), [(True, True), (True, False), (False, False)])
def test_a_thread_that_is_ended_at_any_line_keeps_neither_turn_nor_lock(
    tmp_path, pool, monkeypatch, before: bool, after: bool
):
    """
    While it takes the lock, waits for its turn, makes its commit, waits for the landing, lands, or leaves;
    with another writer *before* it, and another *after* it.
    """
    monkeypatch.setattr(group_commit, "_PATIENCE_S", 0.002)
    number = 1
    while _end_at(number, _Branch(tmp_path), pool, before=before, after=after):
        number += 1
    assert number > 40


def _end_at(number: int, branch: _Branch, pool: ThreadPoolExecutor, *, before: bool, after: bool) -> bool:
    may_end, others = threading.Event(), []
    if before:
        others.append(pool.submit(_write_when, branch, "a", may_end))
        wait_until(lambda: branch.writers._group, every_s=0.0005)
    ended = pool.submit(_ended_at, number, branch, "b")
    wait_until(lambda: ended.done() or len(branch.writers._queue) == 1 + before, every_s=0.0005)
    if after:
        others.append(pool.submit(branch.write, "c"))
        wait_until(lambda: len(branch.writers._queue) == 3 - ended.done(), every_s=0.0005)
    may_end.set()

    came_so_far = ended.result(10)
    for other in others:
        assert other.result(10), f"line {number}"
    wait_until(lambda: _is_free(branch), timeout_s=5, what=f"the lock, line {number}")
    assert branch.write("d")[-1] == "d"
    return bool(came_so_far)


def _write_when(branch: _Branch, name: str, may_end: threading.Event) -> bool:
    with branch.writers.turn() as group:
        assert may_end.wait(10)
        group.tip += name
    return name in (branch.head or "")


def test_a_waiter_that_the_interpreter_ends_passes_its_turn_on(branch, pool):
    """
    The exception comes when the thread wakes: with its turn.
    """
    waiter: list[int] = []

    def write() -> str:
        waiter.append(threading.get_ident())
        return branch.write("b")

    with branch.writers.turn() as group:
        ended = pool.submit(write)
        wait_until(lambda: len(branch.writers._queue) == 2, what="a writer to wait")
        last = pool.submit(branch.write, "c")
        wait_until(lambda: len(branch.writers._queue) == 3, what="another")
        set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
        assert set_exception(ctypes.c_ulong(waiter[0]), ctypes.py_object(Ended)) == 1
        group.tip += "a"

    with pytest.raises(Ended):
        ended.result(10)
    assert last.result(10) == "0ac"
    wait_until(lambda: _is_free(branch), what="the lock")


def test_nobody_is_answered_before_the_landing_not_even_who_was_refused(branch, pool):
    landing, may_land = threading.Event(), threading.Event()
    land = branch.writers._land

    def slowly(new: str, old: str | None) -> None:
        landing.set()
        assert may_land.wait(10)
        land(new, old)

    branch.writers._land = slowly
    writing = _together(branch, pool, *"aBc")

    assert landing.wait(10)
    assert not any(each.done() for each in writing)
    may_land.set()
    assert [type(each.exception(10)) for each in writing] == [type(None), ValueError, type(None)]


def test_a_group_takes_nobody_in_for_long(branch, pool, monkeypatch):
    monkeypatch.setattr(group_commit, "_OPEN_S", 0.0)
    for each in _together(branch, pool, *"abc"):
        each.result(10)

    assert branch.landings == ["0a", "0ab", "0abc"]


def test_who_waited_too_long_is_told_so_and_the_turns_go_on(branch, pool, monkeypatch):
    with branch.writers.turn() as group:
        monkeypatch.setattr(group_commit, "_TIMEOUT_S", 0.05)
        for _ in range(3):
            with pytest.raises(BusyError, match="Others have written"):
                pool.submit(branch.write, "x").result(10)
        monkeypatch.setattr(group_commit, "_TIMEOUT_S", 30.0)
        patient = pool.submit(branch.write, "b")
        wait_until(lambda: len(branch.writers._queue) == 2, what="a writer to wait")
        group.tip += "a"

    assert patient.result(10) == "0ab"
    assert branch.landings == ["0ab"]


def test_a_lock_that_another_process_holds_is_waited_for_and_no_longer_than_said(branch, pool, monkeypatch):
    monkeypatch.setattr(group_commit, "_TIMEOUT_S", 0.2)
    with branch.lock.hold(1):
        begun = time.monotonic()
        for each in [pool.submit(branch.write, name) for name in "abcd"]:
            with pytest.raises(BusyError):
                each.result(10)
        assert time.monotonic() - begun < 20
    monkeypatch.undo()

    assert branch.write("e") == "0e"


def test_a_writer_whose_time_is_over_loses_its_turn_and_cannot_commit(branch, pool):
    """
    The next writer goes on while the late one's block still runs, in this process or in another.
    """
    began, may_end, limit = threading.Event(), threading.Event(), Limit(0.1)

    def be_late() -> None:
        with branch.writers.turn(limit) as group:
            with limit.running("a rule"):
                began.set()
                may_end.wait(30)
            limit.keep()
            group.tip += "late"

    late = pool.submit(be_late)
    try:
        assert began.wait(30)
        wait_until(lambda: not branch.lock.is_held(), what="the lock to be free for other processes")
        assert branch.write("a") == "0a"
        assert not late.done()
    finally:
        may_end.set()
    with pytest.raises(ExtensionTooSlowError, match="a rule held the write lock"):
        late.result(30)
    assert branch.write("b") == "0ab"
    assert not branch.lock.is_held()


def test_many_writers_lose_nothing(branch, pool, monkeypatch):
    monkeypatch.setattr(group_commit, "_OPEN_S", 0.02)
    names = [f"<{number}>" for number in range(400)]

    for each in [pool.submit(branch.write, name) for name in names]:
        each.result(30)

    assert sorted(branch.head[1:].replace("><", "> <").split()) == sorted(names)
    assert len(branch.landings) < len(names)


def test_a_forked_process_has_turns_of_its_own(branch):
    """
    Forked while threads of its parent's waited, and one was giving its turn away.
    """
    with branch.writers._mutex:
        branch.writers._queue.append(group_commit._Place())
        child = os.fork()
        if child == 0:  # pragma: no cover
            try:
                os._exit(0 if branch.write("a") == "0a" else 1)
            finally:
                os._exit(2)
        wait_until(
            lambda: (ended := os.waitpid(child, os.WNOHANG))[0] and ended == (child, 0), what="the child"
        )
