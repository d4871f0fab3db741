"""
Functions run apart, in real child processes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gitsheets
import psutil
import pytest

from ferry.worker.process import apart
from ferry.worker.process.apart import ApartError, CrowdedError, Limit, OverrunError, Pool
from tests.parts import wait_until

SHORT = Limit(cpu_s=0.2)


# --- What the child runs; it finds these by this module's name ---


def environment():
    return dict(os.environ), os.getpid(), os.getppid()


def spin():
    while True:
        pass


def wait():
    time.sleep(600)


def swallow(mib):
    return len(bytearray(mib << 20))


def deepen(levels):
    return gitsheets.render_paths_batch("${{ " + "(" * levels + "1" + ")" * levels + " }}", [{}])


def say(length):
    return "x" * length


def refuse():
    error = gitsheets.ValidationError("no")
    error.issues = [{"path": ["a"], "message": "b"}]
    raise error


def fail():
    raise KeyError("x")


@pytest.fixture
def pool():
    made = Pool()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _found(monkeypatch):
    """
    Have this module found by its name, as those of the application are.
    """
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for function in (environment, spin, wait, swallow, deepen, say, refuse, fail):
        monkeypatch.setattr(function, "__module__", Path(__file__).stem)


def test_a_child_knows_nothing_of_its_parents_environment(pool, monkeypatch):
    monkeypatch.setenv("CFP_ADMIN_TOKEN", "a-secret-of-the-parent")
    known, child, parent = pool.call(environment)
    assert "secret" not in str(known)
    assert parent == os.getpid()
    assert "secret" not in Path(f"/proc/{child}/environ").read_text()
    assert psutil.Process(child).nice() > psutil.Process().nice()
    assert {Path(f"/proc/{child}/fd/{number}").readlink().name for number in (0, 1, 2)} == {"null"}


@pytest.mark.parametrize(
    ("function", "given", "limit", "said"),
    [
        (spin, (), SHORT, "processor time"),
        (wait, (), Limit(wall_s=0.2), "in all"),
        (swallow, (600,), SHORT, "of memory"),
        (deepen, (200_000,), Limit(), "too deep"),
        (say, (2 << 20,), Limit(answer_bytes=1 << 20), "more than 1 MiB"),
    ],
    ids=["processor", "clock", "memory", "stack", "answer"],
)
def test_what_runs_out_of_its_limit_is_ended_and_replaced(pool, function, given, limit, said):
    with pytest.raises(OverrunError, match=said):
        pool.call(function, *given, limit=limit)
    assert pool.call(say, 3) == "xxx"


def test_what_stays_within_its_limit_again_and_again_is_run_by_the_same_child(pool):
    """
    The limit is one call's: what went before is not counted.
    """
    [_, child, _] = pool.call(environment)
    for _ in range(6):
        assert pool.call(swallow, 40, limit=Limit(cpu_s=5, memory_bytes=100 << 20)) == 40 << 20
    assert pool.call(environment)[1] == child


def test_errors_are_raised_as_the_function_raised_them(pool):
    with pytest.raises(gitsheets.ValidationError, match="no") as refused:
        pool.call(refuse)
    assert refused.value.issues == [{"path": ["a"], "message": "b"}]
    with pytest.raises(ApartError, match="KeyError"):
        pool.call(fail)


def test_a_child_that_others_end_is_replaced_unnoticed(pool):
    [_, child, _] = pool.call(environment)
    os.kill(child, signal.SIGTERM)
    assert pool.call(say, 1) == "x"


def test_who_waits_for_too_long_is_told(pool, monkeypatch):
    monkeypatch.setattr(apart, "_PATIENCE_S", 0.1)
    for _ in range(apart.CHILDREN):
        assert pool._free.acquire(timeout=1)
    with pytest.raises(CrowdedError):
        pool.call(say, 1)
    monkeypatch.setattr(pool, "_waiting", apart.CHILDREN + apart._MOST_WAIT)
    with pytest.raises(CrowdedError, match="wait for a child"):
        pool.call(say, 1)


def test_children_end_with_their_parent(tmp_path):
    """
    The one that waits for a call sees the socket closed; the one at work is ended by the kernel.
    """
    script = tmp_path / "parent.py"
    script.write_text(
        "import threading, sys, time\n"
        "from ferry.worker.process.apart import Pool, Limit\n"
        "def main():\n"
        "    pool = Pool()\n"
        "    call = {'target': pool.call, 'args': (time.sleep, 3), 'kwargs': {'limit': Limit(wall_s=2)}}\n"
        "    threading.Thread(**call).start()\n"
        "    pool.call(time.ctime, 0)\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(600)\n"
        "main()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    try:
        assert parent.stdout.readline() == b"ready\n"
        wait_until(lambda: len(psutil.Process(parent.pid).children()) == 2, what="both children")
        children = psutil.Process(parent.pid).children()
    finally:
        parent.kill()
        parent.wait(20)
        parent.stdout.close()
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
