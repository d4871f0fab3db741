"""
One remote, several processes: who may push, and whether a push of another one still runs.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ferry.worker.ledger.entry import Failure, Running
from ferry.worker.ledger.ledger import Ledger
from tests.parts import wait_until

ROOT = Path(__file__).resolve().parents[2]

FAILURE = Failure(reason="network", message="", hint="", at=1.0, attempt=1)

_CLAIM = """
import sys
from pathlib import Path
from ferry.worker.ledger.ledger import Ledger
with Ledger(Path(sys.argv[1])).claim("origin") as claim:
    if group := int(sys.argv[2]):
        push = claim.pushing()
        push.__enter__()(group)
    print("claimed" if claim else "handed over", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def ledger(directory: Path) -> Ledger:
    made = Ledger(directory)
    made.make("origin")
    return made


@pytest.fixture
def claimant(directory: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """
    Start another process that claims origin, and notes a push if it is told one; returns it and what it says
    of the claim.
    """
    started: list[subprocess.Popen[str]] = []

    def start(group: int = 0) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-c", _CLAIM, str(directory), str(group)]
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        with process:
            process.wait(10)


def test_a_claim_holds_against_other_processes(ledger: Ledger, claimant):
    _, said = claimant()
    assert said == "claimed"

    assert ledger.is_claimed("origin")
    with ledger.claim("origin") as claim:
        assert claim is None


def test_other_processes_respect_our_claim(ledger: Ledger, claimant):
    with ledger.claim("origin"):
        assert claimant()[1] == "handed over"


def test_a_claim_ends_with_the_life_of_its_holder(ledger: Ledger, claimant):
    process, _ = claimant()

    process.kill()
    wait_until(lambda: not ledger.is_claimed("origin"), what="a free claim")

    with ledger.claim("origin") as claim:
        assert claim


@pytest.fixture
def sleeper(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """
    A process whose name holds what also separates the fields of /proc/PID/stat.
    """
    program = directory / ") R 1 (a b"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(program), "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_a_push_is_named_to_whoever_claims_the_remote_after_its_worker_died(
    ledger: Ledger, claimant, sleeper: subprocess.Popen[bytes]
):
    """
    The next holder may only look, and the one after it ends the push.
    """
    process, _ = claimant(sleeper.pid)
    process.kill()
    wait_until(lambda: not ledger.is_claimed("origin"), what="a free claim")

    for _ in range(2):
        with ledger.claim("origin") as claim:
            assert claim
            assert claim.entry.running == Running.here(sleeper.pid)
            claim.begin(1.0)


def test_a_push_that_has_ended_is_not_named(ledger: Ledger, sleeper: subprocess.Popen[bytes]):
    with ledger.claim("origin") as claim:
        assert claim
        with claim.pushing() as noted:
            noted(sleeper.pid)
            step = ledger.step("origin")
            assert step
            assert step.running == Running.here(sleeper.pid)
    with ledger.claim("origin") as claim:
        assert claim
        assert claim.entry.running is None


@pytest.mark.parametrize("waits", [{"last_failure": FAILURE}, {"next_attempt_at": 1.0}])
def test_a_push_after_a_failure_is_shown_as_one(ledger: Ledger, sleeper, waits: dict[str, object]):
    with ledger.claim("origin") as claim:
        assert claim
        claim.write(**waits)
        with claim.pushing() as noted:
            noted(sleeper.pid)
            assert ledger.read("origin").running == Running.here(sleeper.pid)


def test_a_push_whose_step_cannot_be_written_is_named_in_the_entry(
    ledger: Ledger, sleeper, monkeypatch: pytest.MonkeyPatch
):
    with ledger.claim("origin") as claim:
        assert claim
        monkeypatch.setattr("ferry.worker.ledger.steps.note", lambda *_: False)
        with claim.pushing() as noted:
            noted(sleeper.pid)
            assert ledger.read("origin").running == Running.here(sleeper.pid)


def test_a_push_that_runs_is_known_to_run(ledger: Ledger, sleeper: subprocess.Popen[bytes]):
    """
    Also by whoever only reads of it later.
    """
    with ledger.claim("origin") as claim:
        assert claim
        claim.write(running=Running.here(sleeper.pid))

    running = ledger.read("origin").running
    assert running
    assert (running.group, running.host) == (sleeper.pid, socket.gethostname())
    assert running.is_alive_here()


def test_a_push_that_has_ended_is_known_to_have_ended(sleeper: subprocess.Popen[bytes]):
    running = Running.here(sleeper.pid)
    sleeper.kill()
    wait_until(lambda: not running.is_alive_here(), what="its end, for which nobody has asked yet")
    sleeper.wait()

    assert not running.is_alive_here()


def test_a_stranger_with_the_same_number_is_not_the_push(sleeper: subprocess.Popen[bytes]):
    """
    The number was given away again after a restart of the machine, or a long time: it must not be ended.
    """
    running = Running.here(sleeper.pid)
    assert not replace(running, born=str(int(running.born) - 1)).is_alive_here()


def test_a_push_on_another_machine_is_none_of_ours(sleeper: subprocess.Popen[bytes]):
    assert not replace(Running.here(sleeper.pid), host="elsewhere").is_alive_here()


def test_a_push_that_ended_before_it_could_be_described_is_not_alive():
    """
    There is no start time to know it by, and a stranger may have its number by now.
    """
    ended = subprocess.Popen(["true"])
    ended.wait()

    assert not Running.here(ended.pid).is_alive_here()
    assert not replace(Running.here(os.getpid()), born="").is_alive_here()
