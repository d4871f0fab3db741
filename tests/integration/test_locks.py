"""
That a lock excludes everybody else, and that nothing but its holder's life keeps it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ferry.worker.files.locks import FileLock, LockTimeoutError

ROOT = Path(__file__).resolve().parents[2]

_HOLD = """
import sys
from pathlib import Path
from ferry.worker.files.locks import FileLock
with FileLock(Path(sys.argv[1])).hold(10):
    print("held", flush=True)
    sys.stdin.read()
"""
# Read, add one and write, with nothing but the lock to keep others from doing so in between.
_COUNT = """
import sys
from pathlib import Path
from ferry.worker.files.locks import FileLock
lock, counter = FileLock(Path(sys.argv[1])), Path(sys.argv[2])
for _ in range(int(sys.argv[3])):
    with lock.hold(30):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


# A thread holds the lock while the process forks; the parent is killed, the child lives on.
_FORK = """
import os, signal, sys, threading
from pathlib import Path
from ferry.worker.files.locks import FileLock
lock, held = FileLock(Path(sys.argv[1])), threading.Event()
def hold():
    with getattr(lock, sys.argv[2])(*([10] if sys.argv[2] == "hold" else [])):
        held.set()
        threading.Event().wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
if os.fork():
    os.kill(os.getpid(), signal.SIGKILL)
print("forked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path) -> FileLock:
    return FileLock(tmp_path / "a.lock")


@pytest.fixture
def holder(lock: FileLock) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """
    Start another process that holds the lock until its standard input ends.
    """
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _HOLD, str(lock.path)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        with process:  # closes what is left of the pipes
            process.wait(10)


# --- Exclusion ---


def test_threads_take_turns(lock: FileLock):
    """
    They share one FileLock; what they do inside is not atomic, and comes out right.
    """
    count = 0

    def add() -> None:
        nonlocal count
        for _ in range(50):
            with lock.hold(30):
                before = count
                os.sched_yield()  # whoever else is inside has the chance to show it
                count = before + 1

    with ThreadPoolExecutor(8) as pool:
        for adding in [pool.submit(add) for _ in range(8)]:
            adding.result()

    assert count == 8 * 50


def test_processes_take_turns(lock: FileLock, tmp_path: Path):
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", _COUNT, str(lock.path), str(counter), "100"]

    counting = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]

    assert [process.wait(60) for process in counting] == [0] * 4
    assert counter.read_text() == "400"


def test_a_lock_is_not_taken_twice_even_by_its_holder(lock: FileLock):
    with lock.try_hold() as first:
        with lock.try_hold() as second:
            assert (first, second) == (True, False)
        with lock.try_hold() as third:
            assert not third, "a taker that got nothing has freed what another holds"

    with lock.try_hold() as again:
        assert again


def test_a_taker_who_waits_gets_the_lock_when_it_is_free(lock: FileLock, holder):
    process = holder()
    releasing = threading.Timer(0.1, process.stdin.close)
    releasing.start()

    with lock.hold(10):
        releasing.join()
        assert lock.is_held()


def test_locks_on_two_files_know_nothing_of_each_other(lock: FileLock, tmp_path: Path):
    with lock.hold(1), FileLock(tmp_path / "b.lock").try_hold() as held:
        assert held


# --- Time ---


def test_waiting_ends_in_time_and_says_for_what(lock: FileLock, holder):
    holder()
    begun = time.monotonic()

    with pytest.raises(LockTimeoutError, match=str(lock.path)), lock.hold(0.2):
        pytest.fail("the lock was given away twice")

    assert 0.2 <= time.monotonic() - begun < 20


def test_who_does_not_want_to_wait_does_not(lock: FileLock, holder):
    holder()
    with pytest.raises(LockTimeoutError), lock.hold(0):
        pytest.fail("the lock was given away twice")


def test_a_free_lock_is_taken_even_with_no_time_at_all(lock: FileLock):
    with lock.hold(0):
        assert lock.is_held()


# --- Letting go ---


def test_an_error_inside_the_block_frees_the_lock(lock: FileLock):
    with pytest.raises(ZeroDivisionError), lock.hold(1):
        _ = 1 / 0

    assert not lock.is_held()


def test_kill_9_of_the_holder_frees_the_lock(lock: FileLock, holder):
    process = holder()
    assert lock.is_held()

    process.kill()

    with lock.hold(5):
        assert process.wait(5) == -9


def test_a_child_that_outlives_its_parents_turn_does_not_keep_the_lock(lock: FileLock):
    """
    A ``git push`` is started while the claim is held, and may outlive the worker that did.
    """
    with lock.hold(1):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)

    try:
        assert not lock.is_held()
        with lock.try_hold() as held:
            assert held
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize("way", ["try_hold", "hold"])
def test_a_lock_is_free_once_it_is_let_go_of_although_a_copy_of_its_descriptor_is_open(lock: FileLock, way):
    """
    Another thread starts a process at this moment: between fork and exec, that has a copy of everything.
    """
    with getattr(lock, way)(*([1] if way == "hold" else [])):
        ours, descriptors = lock.path.resolve(), Path("/proc/self/fd")
        (number,) = [int(link.name) for link in descriptors.iterdir() if link.resolve() == ours]
        copy = os.dup(number)
    try:
        assert not lock.is_held()
        with lock.try_hold() as held:
            assert held
    finally:
        os.close(copy)


@pytest.mark.parametrize("way", ["try_hold", "hold"])
def test_a_process_that_was_forked_while_a_thread_held_a_lock_does_not_keep_it(lock: FileLock, way):
    """
    gunicorn --preload forks its workers while the watchdog reports, and is killed then.
    """
    command = [sys.executable, "-c", _FORK, str(lock.path), way]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "forked\n"
        process.wait(10)
        assert not lock.is_held()


def test_a_forked_child_that_leaves_the_block_does_not_free_its_parents_lock(lock: FileLock):
    try:
        with lock.hold(1):
            child = os.fork()
            if child == 0:
                raise KeyboardInterrupt
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert lock.is_held()
    except KeyboardInterrupt:
        os._exit(0 if lock.is_held() else 1)


def test_the_lock_file_stays_when_the_lock_goes(lock: FileLock):
    """
    Removing it would let two hold "the" lock: one on the old file, one on the new.
    """
    with lock.hold(1):
        inode = lock.path.stat().st_ino

    assert lock.path.stat().st_ino == inode


# --- Asking ---


def test_asking_tells_the_truth_about_other_processes(lock: FileLock, holder):
    assert not lock.is_held()

    process = holder()
    assert lock.is_held()

    process.communicate()
    assert not lock.is_held()


def test_asking_tells_the_truth_about_this_process(lock: FileLock):
    with lock.hold(1):
        assert lock.is_held()
        assert lock.is_held()
    assert not lock.is_held()


def test_asking_never_gets_in_a_takers_way(lock: FileLock):
    """
    Whoever asks for the status of a push must not make the push believe that somebody else makes it.
    """
    done = threading.Event()
    answers = set()

    def ask() -> None:
        while not done.is_set():
            answers.add(lock.is_held())

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        refused = 0
        try:
            deadline = time.monotonic() + 30
            taken = 0
            while taken < 3000 or (answers != {True, False} and time.monotonic() < deadline):
                with lock.try_hold() as held:
                    refused += not held
                taken += 1
        finally:
            done.set()
        for each in asking:
            each.result()

    assert refused == 0
    assert answers == {True, False}


def test_asking_does_not_free_what_another_thread_holds(lock: FileLock, holder):
    """
    With the older kind of POSIX lock, closing any descriptor of the file would.
    """
    process = holder()
    with ThreadPoolExecutor(1) as pool:
        for _ in range(10):
            assert pool.submit(lock.is_held).result()
    process.communicate()

    with lock.hold(1):
        lock.is_held()
        with lock.try_hold() as held:
            assert not held
