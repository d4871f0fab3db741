"""
Waiting for commits: promptly, whatever others wait for, and whatever the machine refuses.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from inotify_simple import INotify

from ferry.app import arrivals
from ferry.app.arrivals import Arrivals
from ferry.worker.files.places import remotes_directory
from ferry.worker.git.repository import Repository
from tests.parts import Bare, wait_until


@pytest.fixture
def waiting(data: Bare) -> Arrivals:
    remotes_directory(data.path).mkdir(parents=True)
    return Arrivals(Repository(data.path, branch="main"))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as threads:
        yield threads


def _is_here() -> bool:
    return False


def _listens(waiting: Arrivals) -> bool:
    return waiting._listening is not None


def test_what_has_happened_is_told_while_others_are_looking(waiting, pool):
    """
    However long their look takes.
    """
    looking, may_end = threading.Event(), threading.Event()

    def slow() -> bool:
        looking.set()
        return may_end.wait(10)

    other = pool.submit(waiting.wait, slow, 10, is_gone=_is_here)
    assert looking.wait(10)
    assert waiting.wait(lambda: True, 10, is_gone=_is_here)
    assert not other.done()
    may_end.set()
    assert other.result(10)


def test_one_look_serves_all_who_were_woken(waiting, pool, data, monkeypatch):
    """
    Twenty streams, and each commit: no stream looks on its own account.
    """
    monkeypatch.setattr(arrivals, "_LOOK_AGAIN_S", 30.0)
    looks: list[str | None] = []

    def look() -> str | None:
        looks.append(data.head())
        return looks[-1]

    before = data.head()
    seen = [
        pool.submit(waiting.wait, lambda: waiting.see(look) != before, 20, is_gone=_is_here)
        for _ in range(20)
    ]
    wait_until(lambda: _listens(waiting) and len(waiting._moved._waiters) == 20, what="all to wait")
    assert looks == [before]

    data.commit()

    assert all(each.result(20) for each in seen)
    wake_ups = waiting._wake_ups
    assert 1 <= wake_ups <= 10
    assert len(looks) <= 1 + wake_ups, "one for each wake-up, and none for each stream"


def test_what_comes_while_one_looks_is_seen_at_once(waiting, pool, data, monkeypatch):
    monkeypatch.setattr(arrivals, "_LOOK_AGAIN_S", 30.0)
    before, looked, may_go_on = data.head(), threading.Event(), threading.Event()

    def happened() -> bool:
        head = data.head()
        looked.set()
        assert may_go_on.wait(20)
        return head != before

    seen = pool.submit(waiting.wait, happened, 20, is_gone=_is_here)
    assert looked.wait(20)
    wait_until(lambda: _listens(waiting), what="the listener")
    data.commit()
    wait_until(lambda: waiting._wake_ups, what="the wake-up")
    may_go_on.set()
    assert seen.result(10)


def _no_instance(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(arrivals, "INotify", refuse)


def _no_watch(monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(INotify, "add_watch", refuse)


def _no_thread(monkeypatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "arrivals":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.mark.parametrize("limit", [_no_instance, _no_watch, _no_thread])
def test_without_inotify_it_is_looked_again_and_listened_when_it_can_be(
    waiting, pool, data, monkeypatch, limit
):
    monkeypatch.setattr(arrivals, "_LOOK_AGAIN_S", 0.05)
    before, files = data.head(), len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as limited:
        limit(limited)
        seen = pool.submit(waiting.wait, lambda: data.head() != before, 20, is_gone=_is_here)
        wait_until(lambda: waiting._waiting, what="the waiter")
        data.commit()
        assert seen.result(20)
        assert not _listens(waiting)
    assert len(os.listdir("/proc/self/fd")) <= files + 1, "no inotify is left open"

    listened = threading.Event()

    def is_gone() -> bool:  # once it listens, which it does as long as one waits
        if _listens(waiting):
            listened.set()
        return listened.is_set()

    assert pool.submit(waiting.wait, lambda: False, 20, is_gone=is_gone).result(40) is False
    assert listened.is_set()


def test_a_directory_that_was_removed_is_watched_again(waiting, pool, data, monkeypatch):
    """
    As git removes an emptied one when it packs refs.
    """
    monkeypatch.setattr(arrivals, "_LOOK_AGAIN_S", 0.05)
    directory = remotes_directory(data.path)
    waits = pool.submit(waiting.wait, (directory / "seen").exists, 20, is_gone=_is_here)
    wait_until(lambda: _listens(waiting), what="the listener")
    first = waiting._listening
    shutil.rmtree(directory)
    wait_until(lambda: waiting._listening is not first, what="its end")
    directory.mkdir()
    wait_until(lambda: _listens(waiting), what="another listener")
    (directory / "seen").touch()
    assert waits.result(20)


def test_a_forked_process_waits_for_itself(waiting, pool):
    """
    Forked while a thread of its parent's was at the lock.
    """
    with waiting._moved, waiting._looking:
        child = os.fork()
        if child == 0:  # pragma: no cover
            try:
                told = waiting.wait(lambda: waiting.see(lambda: True), 20, is_gone=_is_here)
                os._exit(0 if told else 1)
            finally:
                os._exit(2)
        wait_until(
            lambda: (ended := os.waitpid(child, os.WNOHANG))[0] and ended == (child, 0),
            timeout_s=40, what="the child",
        )  # fmt: skip
