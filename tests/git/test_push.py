"""
Who pushes, who leaves it to whom, and what is remembered of it: real repositories, no queue, no waiting.

The clock stands still until a test moves it, and the dice always fall in the middle.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from structlog.testing import capture_logs

from ferry.app.dev.sentry_sink import SentrySink
from ferry.worker import paging
from ferry.worker.attempt import STILL_DIVERGED
from ferry.worker.backoff import delay_s
from ferry.worker.episodes.episodes import outbox_of
from ferry.worker.episodes.resolving import Resolver
from ferry.worker.errors import NonFastForward, PushDeferred, PushError, PushFailed, PushRefused
from ferry.worker.ledger.entry import Running
from ferry.worker.push import NO_SUCH_REMOTE, OUTDATED
from ferry.worker.settings import Settings
from ferry.worker.turns.turn import Turn
from tests.line import JITTER, Line
from tests.parts import Bare, wait_until

ROOT = Path(__file__).resolve().parents[2]

_PUSH = """
import sys
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.files.places import remotes_directory, write_lock
from ferry.worker.push import Pusher, Request
from ferry.worker.repair.reconcile import Reconciler
from ferry.worker.settings import Settings
settings = Settings.from_env(dict(word.split("=", 1) for word in sys.argv[1:]))
path = settings.data_repo_path
repository = Repository(path, branch=settings.data_branch)
ledger = Ledger(remotes_directory(path))
reconciler = Reconciler(settings, repository, ledger, write_lock(path))
Pusher(settings, repository, ledger, reconciler).push(Request(remote="origin", chain="killed"))
"""


_KILLED_BEFORE_THE_NOTE = """
import os, signal
from ferry.worker.ledger.entry import Running
def here(group):
    print(group, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
Running.here = here
"""


@contextmanager
def _away(remote: Bare) -> Iterator[None]:
    """
    Let there be no remote for the block.
    """
    elsewhere = remote.path.rename(remote.path.with_suffix(".away"))
    yield
    elsewhere.rename(remote.path)


def _refuse(remote: Bare) -> None:
    remote.hook("pre-receive", "echo not today >&2; exit 1")


def _event(logged: list[Any], name: str) -> dict[str, Any]:
    (found,) = [event for event in logged if event["event"] == name]
    return dict(found)


# --- Nobody in the way ---


def test_a_push_brings_the_branch(line: Line, data: Bare, remote: Bare):
    with capture_logs() as logged:
        assert line.push().startswith("pushed 2 commits")

    assert remote.head() == data.head()
    assert line.entry.outcomes == {"pushed": 1}
    assert line.entry.last_push_at == line.clock()
    done = _event(logged, "push.done")
    assert (done["commit"], done["commits"], done["attempt"]) == (data.head(), 2, 1)


def test_what_is_there_already_costs_no_process(line: Line, monkeypatch: pytest.MonkeyPatch):
    """
    A thousand queued tasks whose commits went with the first one are nearly free.
    """
    line.push()
    monkeypatch.setenv("PATH", "")

    assert line.push("second") == Turn.DONE.sentence
    assert line.push("second", occasion="operator") == Turn.DONE.sentence
    assert line.attempts() == 1


def test_a_task_for_a_remote_that_is_no_longer_configured_ends(line: Line):
    """
    It may have waited in the queue while the settings changed.
    """
    assert line.push(remote="backup") == NO_SUCH_REMOTE


def test_what_is_committed_during_a_push_goes_with_the_same_task(
    line: Line, data: Bare, remote: Bare, tmp_path
):
    """
    Its own task found the claim taken and has ended by then.
    """
    later = data.git("commit-tree", "-p", "main", "-m", "later", "main^{tree}")
    move = f"env -i PATH=$PATH git -C {data.path} update-ref refs/heads/main {later}"
    remote.hook("post-receive", f"[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; {move}; }}")

    assert line.push().startswith("pushed 1 commit ")

    assert remote.head() == later == data.head()
    assert line.entry.outcomes == {"pushed": 2}


def test_what_is_committed_during_a_retry_goes_with_it_too(line: Line, data: Bare, remote: Bare, tmp_path):
    """
    The retry was the only one that was scheduled, and is none any more once it has begun.
    """
    with _away(remote):
        line.clock.wind(line.fail("first").retry_in_s)
    later = data.git("commit-tree", "-p", "main", "-m", "later", "main^{tree}")
    move = f"env -i PATH=$PATH git -C {data.path} update-ref refs/heads/main {later}"
    remote.hook("post-receive", f"[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; {move}; }}")

    line.push("first", retries=1)

    assert remote.head() == later


@pytest.mark.parametrize(
    ("meanwhile", "gather_s", "pause_s", "waits"),
    [(2, 0.5, 60.0, True), (2, 60.0, 0.5, True), (1, 60.0, 60.0, False)],
)
def test_several_commits_during_a_push_are_gathered_and_one_is_not(
    line, data, remote, monkeypatch, meanwhile, gather_s, pause_s, waits
):
    """
    A burst takes few pushes and ends at a pause; whoever waits for one commit before the next is not held up.
    """
    monkeypatch.setattr("ferry.worker.push._GATHER_S", gather_s)
    monkeypatch.setattr("ferry.worker.push._PAUSE_S", pause_s)
    later = "main"
    for number in range(meanwhile):
        later = data.git("commit-tree", "-p", later, "-m", f"later {number}", "main^{tree}")
    remote.hook(
        "post-receive", f"env -i PATH=$PATH git -C {data.path} update-ref refs/heads/main {later} || true"
    )

    begun = time.monotonic()
    line.push("first")
    taken_s = time.monotonic() - begun

    assert remote.head() == later
    assert line.attempts() == 2
    assert taken_s >= (0.5 if waits else 0)
    assert taken_s < 30


def test_a_turn_has_an_end_and_its_retry_takes_over(line, data, remote, tmp_path, monkeypatch):
    """
    A worker that is to stop waits for its tasks; under steady load one would never end.
    """
    monkeypatch.setattr("ferry.worker.push._TURN_S", 0.0)
    later = data.git("commit-tree", "-p", "main", "-m", "later", "main^{tree}")
    remote.hook(
        "post-receive", f"env -i PATH=$PATH git -C {data.path} update-ref refs/heads/main {later} || true"
    )

    with pytest.raises(PushDeferred) as deferred:
        line.push("first")

    assert deferred.value.retry_in_s == 0
    assert remote.head() != later
    monkeypatch.setattr("ferry.worker.push._TURN_S", 5.0)
    line.push("first", retries=1)
    assert remote.head() == later


def test_a_command_that_waits_for_the_claim_gets_it_before_the_next_push(line: Line, data, remote, tmp_path):
    """
    Under steady load the claim is free for moments only, and the command would wait for a lucky one.
    """
    later = data.git("commit-tree", "-p", "main", "-m", "later", "main^{tree}")
    move = f"env -i PATH=$PATH git -C {data.path} update-ref refs/heads/main {later}"
    remote.hook(
        "post-receive", f"touch {tmp_path}/pushing; until [ -e {tmp_path}/on ]; do sleep 0.02; done; {move}"
    )
    put_off = threading.Event()

    def command() -> None:
        # It stands in the queue, and takes no look at the claim, which a lucky one would find free.
        with line.ledger._awaiting("origin").hold(30):
            put_off.wait(30)

    def let_on() -> None:
        wait_until((tmp_path / "pushing").exists, what="the push")
        waiting.start()
        wait_until(lambda: line.ledger.is_awaited("origin"), what="the command")
        (tmp_path / "on").touch()

    waiting, beside = threading.Thread(target=command), threading.Thread(target=let_on)
    beside.start()
    with pytest.raises(PushDeferred) as deferred:
        line.push("first")

    assert 0 < deferred.value.retry_in_s < 1
    put_off.set()
    waiting.join(30)
    beside.join(30)
    with line.ledger.claim_within("origin", 0):
        assert remote.head() != later
    line.clock.wind(deferred.value.retry_in_s)
    line.push("first", retries=1)
    assert remote.head() == later


# --- Somebody in the way ---


def test_a_task_hands_over_to_the_push_that_runs(line: Line, remote: Bare):
    with line.ledger.claim("origin"):
        before = line.entry
        assert line.push("second") == Turn.PUSHING.sentence
        assert line.push("second", occasion="operator") == Turn.PUSHING.sentence
        assert line.entry == before

    assert remote.head() is None


def test_a_task_leaves_its_commit_to_the_retry_that_is_scheduled(line: Line, data: Bare, remote: Bare):
    """
    However many commits wait, there is one chain of retries.
    """
    with _away(remote):
        line.fail("first")
    before = line.entry

    for number in range(3):
        data.commit(f"later {number}")
        assert line.push(f"later-{number}") == Turn.RETRYING.sentence

    assert line.entry == before
    assert remote.head() is None


def test_the_retry_brings_what_was_left_to_it(line: Line, data: Bare, remote: Bare):
    with _away(remote):
        failed = line.fail("first")
    later = data.commit("later")
    line.clock.wind(failed.retry_in_s)

    line.push("first", retries=1)

    assert remote.head() == later


def test_a_retry_that_meets_a_push_out_of_turn_is_not_lost(line: Line, data: Bare, remote: Bare, monkeypatch):
    """
    That push leaves the next attempt to it; with the retry gone, nothing would happen until the sweep.
    """
    monkeypatch.setattr("ferry.worker.push._CLAIM_WAIT_S", 0.05)
    with _away(remote):
        failed = line.fail("first")
        line.fail("out of turn", occasion="operator")
        line.clock.wind(failed.retry_in_s)
        with line.ledger.claim("origin"), pytest.raises(PushDeferred) as deferred:
            line.push("first", retries=1)

    line.push("first", retries=1)

    assert deferred.value.retry_in_s == 1
    assert remote.head() == data.head()


def test_a_retry_that_meets_an_attempt_as_it_begins_hands_over(line: Line, remote: Bare, monkeypatch):
    """
    A commit's task was quicker when the retry was due, and has not yet said that it replaces it.
    Put off, the retry would wait beside its successor.
    """
    with _away(remote):
        failed = line.fail("first")
    line.clock.wind(failed.retry_in_s)
    with line.ledger.claim("origin") as claim:
        assert claim is not None
        monkeypatch.setattr("time.sleep", lambda _: claim.write(chain=None, next_attempt_at=None))
        assert line.push("first", retries=1) == Turn.PUSHING.sentence


def test_a_retry_that_comes_early_is_made(line: Line, data: Bare, remote: Bare):
    """
    The broker counts in its own time; whose turn it is, the ledger says.
    """
    with _away(remote):
        line.fail("first")
    line.clock.wind(74)
    line.push("first", retries=1)
    assert remote.head() == data.head()


def test_a_retry_that_another_has_replaced_does_nothing(line: Line, remote: Bare):
    """
    It was taken for lost and the sweep queued a push, which failed and is to be retried itself.
    """
    with _away(remote):
        line.clock.wind(line.fail("first").retry_in_s + 16)
        line.fail("second")
    before = line.entry
    assert before.chain == "second"

    assert line.push("first", retries=1) == Turn.SUPERSEDED.sentence

    assert line.entry == before
    assert remote.head() is None


def test_a_retry_that_is_delivered_twice_goes_on_once(line: Line, data: Bare, remote: Bare):
    """
    Redis delivers a message again that was not acknowledged for a while; the copy comes early, or late.
    """
    with _away(remote):
        line.clock.wind(line.fail("first").retry_in_s)
        line.clock.wind(line.fail("first", retries=1).retry_in_s / 2)
        before = line.entry

        assert line.push("first", retries=1) == Turn.SUPERSEDED.sentence
        assert line.entry == before

        line.clock.wind(before.backoff_s)
        line.fail("first", retries=2)
        assert line.push("first", retries=1) == Turn.SUPERSEDED.sentence
        assert line.push("first", retries=2) == Turn.SUPERSEDED.sentence
    assert line.attempts() == 3


def test_a_put_off_push_that_is_delivered_twice_goes_on_once(line_with, data: Bare, remote: Bare):
    line = line_with(CFP_PUSH_MIN_INTERVAL="10")
    line.push("first")
    data.commit("soon")
    with pytest.raises(PushDeferred):
        line.push("second")
    line.clock.wind(10)
    with _away(remote):
        line.fail("second", retries=1)
        assert line.push("second", retries=1) == Turn.SUPERSEDED.sentence


def test_a_retry_that_nobody_has_replaced_is_made_although_its_chain_was_broken_off(
    line: Line, data: Bare, remote: Bare
):
    """
    Its worker was killed in the middle of the attempt, which had taken the chain out of the ledger; the
    broker sends the same message again.
    """
    with _away(remote):
        line.fail("first")
    with line.ledger.claim("origin") as claim:
        claim.write(chain=None, next_attempt_at=None)

    line.push("first", retries=1)

    assert remote.head() == data.head()


def test_a_retry_whose_place_is_being_taken_leaves_it_to_the_push_that_runs(line: Line, remote: Bare):
    with _away(remote):
        line.fail("first")
    with line.ledger.claim("origin") as claim:
        claim.write(chain=None, next_attempt_at=None)
        assert line.push("first", retries=1) == Turn.PUSHING.sentence


def test_a_retry_does_not_look_afresh(line: Line, data: Bare, remote: Bare):
    """
    A look may take half a minute under the claim, and comes before every attempt then.
    """
    with _away(remote):
        failed = line.fail("first", occasion="sweep")
        looked_at = line.entry.looked_at
        line.clock.wind(failed.retry_in_s)
        line.fail("first", occasion="sweep", retries=1)

    assert line.entry.looked_at == looked_at is not None


def test_a_failure_between_a_look_and_the_claim_is_waited_for(line: Line, remote: Bare, monkeypatch):
    """
    The first task fails at the very moment at which the second has seen that nothing is scheduled.
    """
    claim = line.ledger.claim

    def claim_after_another(name: str, **options: Any) -> Any:
        monkeypatch.setattr(line.ledger, "claim", claim)
        line.fail("first")
        return claim(name, **options)

    monkeypatch.setattr(line.ledger, "claim", claim_after_another)
    with _away(remote):
        assert line.push("second") == Turn.RETRYING.sentence
    assert (line.entry.chain, line.attempts()) == ("first", 1)


def test_a_retry_that_is_replaced_between_a_look_and_the_claim_does_nothing(
    line: Line, remote: Bare, monkeypatch
):
    """
    The sweep took it for lost, and what it queued fails just before the late retry has its claim.
    """
    claim = line.ledger.claim

    def claim_after_another(name: str, **options: Any) -> Any:
        monkeypatch.setattr(line.ledger, "claim", claim)
        line.fail("second")
        return claim(name, **options)

    with _away(remote):
        line.clock.wind(line.fail("first").retry_in_s)
        monkeypatch.setattr(line.ledger, "claim", claim_after_another)
        assert line.push("first", retries=1) == Turn.SUPERSEDED.sentence
    assert (line.entry.chain, line.attempts()) == ("second", 2)


def test_a_look_at_a_divergence_is_remembered_as_an_attempt(line: Line, data: Bare, remote: Bare):
    """
    The watchdog would say that nobody tries.
    """
    line.push("first")
    remote.commit("theirs")
    data.commit("ours")
    with pytest.raises(NonFastForward):
        line.push("second")
    line.clock.wind(50)

    assert line.push("sweep", occasion="sweep") == STILL_DIVERGED
    assert line.entry.last_attempt_at == line.clock.now


def test_a_clock_that_was_set_back_makes_nobody_wait_for_days(line: Line, data: Bare, remote: Bare):
    with _away(remote):
        line.fail("first")
    line.clock.wind(-86400)

    line.push("second")

    assert remote.head() == data.head()


# --- Failing and retrying ---


def test_the_error_and_the_ledger_say_the_same_wait_as_the_backoff(line: Line, remote: Bare):
    """
    Attempt after attempt, up to the cap.
    """
    with _away(remote):
        for number in range(1, 8):
            failed = line.fail("first", retries=number - 1)

            expected = delay_s(number, base_s=100, cap_s=1000, jitter=JITTER)
            assert failed.retry_in_s == line.entry.backoff_s == expected
            assert line.entry.next_attempt_at == line.clock() + expected
            assert (line.entry.chain, line.entry.attempt) == ("first", number)
            line.clock.wind(expected)

    assert expected == delay_s(1, base_s=1000, cap_s=1000, jitter=JITTER)


def test_a_failure_is_remembered_as_it_was_logged(line: Line, data: Bare, remote: Bare):
    with capture_logs() as logged, _away(remote):
        error = line.fail()

    failure = line.entry.last_failure
    assert failure
    failed = _event(logged, "push.failed")
    assert error.reason == failure.reason == failed["reason"] == "not-found"
    assert error.detail == failure.message == failed["error"]
    assert (failed["commit"], failed["attempt"]) == (data.head(), failure.attempt) == (data.head(), 1)
    assert failure.at == line.entry.failing_since == line.clock()
    scheduled = _event(logged, "push.retry_scheduled")
    assert scheduled["next_delay_ms"] == round((error.retry_in_s or 0) * 1000)


def test_a_stated_wait_is_honoured(line: Line, remote: Bare):
    remote.hook("pre-receive", "echo 'rate limit exceeded, retry after 600 seconds' >&2; exit 1")
    assert line.fail().retry_in_s == 600


def test_a_success_forgets_the_failures_before_it_and_says_how_long_they_lasted(line: Line, remote: Bare):
    with _away(remote):
        line.clock.wind(line.fail().retry_in_s)
        line.clock.wind(line.fail(retries=1).retry_in_s)

    with capture_logs() as logged:
        line.push(retries=2)

    entry = line.entry
    assert (entry.attempt, entry.paged, entry.gave_up) == (0, (), False)
    assert entry.chain is entry.next_attempt_at is entry.backoff_s is None
    assert entry.last_failure is entry.failing_since is entry.running is None
    assert entry.outcomes == {"not-found": 2, "pushed": 1}
    assert _event(logged, "push.done")["attempt"] == 3
    recovered = _event(logged, "push.recovered")
    assert (recovered["reason"], recovered["episode_seconds"]) == ("not-found", 75 + 150)


def test_a_failure_that_somebody_elses_push_has_ended_is_forgotten(line: Line, data: Bare, remote: Bare):
    """
    Nothing is pending any more, and nobody of ours brought it there.
    """
    with _away(remote):
        line.fail()
    data.git("push", "--quiet", "origin", "main")
    line.clock.wind(3600)
    assert line.wanting() == {"origin": data.head()}

    with capture_logs() as logged:
        line.push("swept")

    assert line.entry.last_failure is None
    assert _event(logged, "push.recovered")["episode_seconds"] == 3600
    assert line.wanting() == {}


# --- Out of turn ---


def test_an_operator_does_not_have_to_wait(line: Line, data: Bare, remote: Bare):
    with _away(remote):
        line.fail("first")

    line.push("operator", occasion="operator")

    assert remote.head() == data.head()
    assert line.entry.next_attempt_at is None
    assert line.push("first", retries=1) == Turn.DONE.sentence


def test_an_attempt_out_of_turn_that_fails_neither_schedules_nor_counts(line: Line, remote: Bare):
    """
    The retry that stands stays the only one, at its time, and no later for the operator's trouble.
    """
    with _away(remote):
        line.fail("first")
        before = line.entry
        line.clock.wind(10)

        failed = line.fail("operator", occasion="operator")

        after = line.entry
        assert failed.retry_in_s is None
        assert (after.chain, after.attempt) == (before.chain, before.attempt) == ("first", 1)
        assert (after.next_attempt_at, after.backoff_s) == (before.next_attempt_at, before.backoff_s)
        assert after.failing_since == before.failing_since
        assert after.outcomes == {"not-found": 2}
        assert after.last_failure
        assert after.last_failure.at == line.clock()

        line.clock.wind(65)
        assert line.fail("first", retries=1).retry_in_s == 150


def test_out_of_turn_where_nothing_is_scheduled_is_an_attempt_like_any_other(line: Line, remote: Bare):
    with _away(remote):
        assert line.fail("operator", occasion="operator").retry_in_s == 75
    assert (line.entry.chain, line.entry.attempt) == ("operator", 1)


def test_an_attempt_out_of_turn_uses_up_no_retry(line_with: Callable[..., Line], remote: Bare):
    line = line_with(CFP_PUSH_MAX_RETRIES="1")
    with _away(remote):
        line.fail("first")

        with pytest.raises(PushFailed):
            line.push("operator", occasion="operator")

        assert not line.entry.gave_up
        line.clock.wind(75)
        with pytest.raises(PushRefused):
            line.push("first", retries=1)


# --- Not retried ---


def test_a_refusal_is_not_retried_and_the_next_commit_tries_afresh(line: Line, data: Bare, remote: Bare):
    _refuse(remote)

    with pytest.raises(PushRefused) as refused, capture_logs() as logged:
        line.push("first")

    assert not isinstance(refused.value, NonFastForward)
    assert refused.value.reason == "rejected"
    assert line.entry.chain is line.entry.next_attempt_at is None
    blocked = _event(logged, "push.blocked")
    assert (blocked["hint"], blocked["local_head"]) == (refused.value.hint, data.head())
    with pytest.raises(PushRefused):
        line.push("second")
    remote.hook("pre-receive", "exit 0")
    line.push("third")
    assert remote.head() == data.head()


def test_a_divergence_is_told_in_numbers_and_changes_nothing_there(line: Line, data: Bare, remote: Bare):
    line.push()
    theirs = [remote.commit("theirs"), remote.commit("theirs too")][-1]
    ours = data.commit("ours")

    with pytest.raises(NonFastForward), capture_logs() as logged:
        line.push("second")

    blocked = _event(logged, "push.blocked")
    assert (blocked["ahead"], blocked["behind"]) == (1, 2)
    assert (blocked["local_head"], blocked["remote_head"]) == (ours, theirs)
    assert remote.head() == theirs
    assert data.head() == ours
    assert line.entry.next_attempt_at is None


@pytest.mark.parametrize("retries", [0, 2])
def test_retries_end_where_the_settings_say_and_begin_anew_with_the_next_commit(
    line_with, remote, retries: int
):
    line = line_with(CFP_PUSH_MAX_RETRIES=str(retries))
    with _away(remote):
        for number in range(retries):
            line.clock.wind(line.fail("first", retries=number).retry_in_s or 0)
        with pytest.raises(PushRefused) as refused:
            line.push("first", retries=retries)

        assert refused.value.reason == "not-found"
        assert line.entry.gave_up
        assert line.entry.next_attempt_at is None
        line.clock.wind(10 * 86400)
        assert line.wanting() == {}, "the sweep leaves alone what was given up"
        assert line.wanting("start"), "but not a worker that has just started"

        with pytest.raises(PushError) as afresh:
            line.push("second")
        assert isinstance(afresh.value, PushFailed) is (retries > 0)
        failure = line.entry.last_failure
        assert failure
        assert failure.attempt == 1


# --- The sweep ---


def test_the_sweep_wants_what_is_pending(line: Line, data: Bare):
    assert line.wanting() == {"origin": data.head()}
    line.push()
    assert line.wanting() == {}
    commit = data.commit("later")
    assert line.wanting() == {"origin": commit}


def test_the_sweep_leaves_a_push_that_runs_alone(line: Line):
    with line.ledger.claim("origin"):
        assert line.wanting() == {}
        assert line.wanting("start") == {}


def test_a_retry_that_is_overdue_by_more_than_a_sweep_counts_as_lost(line: Line, data: Bare, remote: Bare):
    """
    A worker that was killed took its countdown with it.
    """
    with _away(remote):
        due_in_s = line.fail("lost").retry_in_s or 0

    line.clock.wind(due_in_s + 14)
    assert line.wanting() == {}, "it may be about to begin"
    line.clock.wind(2)
    assert line.wanting() == {"origin": data.head()}

    line.push("swept")
    assert remote.head() == data.head()


def test_the_sweep_leaves_a_retry_that_has_just_been_scheduled_alone(line: Line, remote: Bare):
    with _away(remote):
        line.fail()
    line.clock.wind(1)
    assert line.wanting() == {}


def test_a_start_does_not_wait_for_a_retry(line: Line, data: Bare, remote: Bare):
    with _away(remote):
        line.fail()
    line.clock.wind(20)

    assert line.wanting() == {}
    assert line.wanting("start") == {"origin": data.head()}


def test_the_sweep_tries_a_blocked_remote_each_time(line: Line, data: Bare, remote: Bare):
    """
    So that pushing resumes by itself when somebody has made room.
    """
    _refuse(remote)
    with pytest.raises(PushRefused):
        line.push()
    line.clock.wind(15)
    assert line.wanting() == {"origin": data.head()}


def test_the_sweep_does_not_look_at_a_remote_that_was_given_up(line: Line, data: Bare, remote: Bare):
    """
    The look would be followed by a push, and all the retries would begin again.
    """
    assert line.sweeper.unseen() == ["origin"]
    with line.ledger.claim("origin") as claim:
        claim.write(gave_up=True)

    assert line.sweeper.unseen() == []
    assert line.sweeper.unseen(start=1.0) == ["origin"]


def test_workers_that_start_together_look_once(line: Line, data: Bare, remote: Bare):
    line.push(occasion="operator")
    looked_at = line.ledger.read("origin").looked_at
    assert looked_at

    assert line.sweeper.unseen(start=looked_at - 1) == []
    assert line.sweeper.unseen(start=looked_at + 1) == ["origin"]


def test_a_branch_that_cannot_be_read_is_swept_so_that_an_attempt_says_so(line: Line, data: Bare):
    (data.path / "refs" / "heads" / "main").write_text("damaged")

    with capture_logs() as logged:
        assert line.wanting() == {"origin": None}

    assert _event(logged, "sweep.failed")["log_level"] == "error"
    assert line.fail("swept").reason == "local"


# --- Not too often ---


def test_pushes_keep_their_distance(line_with: Callable[..., Line], data: Bare, remote: Bare):
    """
    The first after a pause is not delayed; then one waits, and the others leave their commits to it.
    """
    line = line_with(CFP_PUSH_MIN_INTERVAL="10")
    line.push("first")
    line.clock.wind(3)
    data.commit("soon")

    with pytest.raises(PushDeferred) as deferred:
        line.push("second")
    assert deferred.value.retry_in_s == pytest.approx(7)
    latest = data.commit("sooner")
    assert line.push("third") == Turn.DEFERRED.sentence
    assert line.attempts() == 1

    line.clock.wind(7)
    line.push("second", retries=1)
    assert remote.head() == latest

    line.clock.wind(60)
    later = data.commit("after a pause")
    line.push("fourth")
    assert remote.head() == later


def test_an_operator_passes_the_distance_over(line_with: Callable[..., Line], data: Bare, remote: Bare):
    line = line_with(CFP_PUSH_MIN_INTERVAL="10")
    line.push("first")
    soon = data.commit("soon")
    line.push("operator", occasion="operator")
    assert remote.head() == soon


def test_a_wish_to_pass_the_distance_over_holds_for_one_push(line_with, data: Bare, remote: Bare):
    """
    What arrives while it runs was nobody's wish, and there is no end of it under load.
    """
    line = line_with(CFP_PUSH_MIN_INTERVAL="10")
    later = data.git("commit-tree", "-p", "main", "-m", "later", "main^{tree}")
    move = f"env -i PATH=$PATH git -C {data.path} update-ref refs/heads/main {later} || true"
    remote.hook("post-receive", move)

    with pytest.raises(PushDeferred) as deferred:
        line.push("operator", occasion="operator")

    assert deferred.value.retry_in_s == pytest.approx(10)
    assert line.attempts() == 1


def test_a_look_at_the_remote_keeps_the_distance(line_with, data: Bare, remote: Bare):
    line = line_with(CFP_PUSH_MIN_INTERVAL="10")
    line.push("first")
    data.commit("soon")

    with pytest.raises(PushDeferred) as deferred:
        line.push("look", occasion="sweep")

    assert deferred.value.retry_in_s == pytest.approx(10)


def test_a_look_leaves_a_remote_alone_that_has_named_a_wait(line: Line, remote: Bare):
    remote.hook("pre-receive", "echo 'error: 429 too many requests, retry after 300 seconds' >&2; exit 1")
    failed = line.fail("first")
    assert failed.reason == "rate-limited"

    assert line.push("look", occasion="sweep") == Turn.RETRYING.sentence
    assert (line.entry.looked_at, line.attempts()) == (None, 1)


# --- After a crash ---


def _environment(line: Line, remote: Bare) -> list[str]:
    """
    Return what ``_PUSH`` is given: the variables of *line*.
    """
    env = {
        "CFP_DATA_REPO_PATH": str(line.settings.data_repo_path),
        "CFP_DATA_REMOTE": str(remote.path),
        "CFP_REDIS_URL": line.settings.redis_url,
    }
    return [f"{name}={value}" for name, value in env.items()]


@pytest.fixture
def orphan(line: Line, remote: Bare, tmp_path: Path) -> Iterator[psutil.Process]:
    """
    The ``git push`` of a worker that was killed with -9 while the remote's hook hung.
    """
    started = tmp_path / "started"
    remote.hook("pre-receive", f"touch {started}; sleep 600")
    with subprocess.Popen([sys.executable, "-c", _PUSH, *_environment(line, remote)], cwd=ROOT) as worker:
        wait_until(started.exists, what="a push in the middle")
        worker.kill()
    step = line.ledger.step("origin")
    assert step
    assert step.running
    running = step.running
    yield psutil.Process(running.group)
    try:
        os.killpg(running.group, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_a_push_that_lost_its_worker_is_ended_before_the_next_attempt(
    line, data, remote, orphan: psutil.Process
):
    """
    It would run on with nobody to mind its timeout, and be a second push beside ours.
    """
    assert orphan.is_running()
    remote.hook("pre-receive", "exit 0")

    with capture_logs() as logged:
        line.push("next")

    assert remote.head() == data.head()
    assert _event(logged, "push.orphan_ended")["group"] == orphan.pid
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
    assert line.entry.running is None


def test_a_worker_that_is_killed_before_the_ledger_knows_of_its_push_leaves_no_git(
    line: Line, remote: Bare, tmp_path: Path
):
    """
    Its successor would find nothing to end, and push beside it.
    """
    remote.hook("pre-receive", f"touch {tmp_path}/started")
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED_BEFORE_THE_NOTE + _PUSH, *_environment(line, remote)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL

    wait_until(lambda: not psutil.pid_exists(int(killed.stdout)), what="the end of what it had started")

    assert not (tmp_path / "started").exists()
    assert remote.head() is None


def test_what_a_dead_push_left_locked_is_unlocked(line: Line, data: Bare, remote: Bare):
    """
    git, killed while it moved the remote-tracking ref, would otherwise keep every later push from moving it.
    """
    ended = subprocess.Popen(["true"], start_new_session=True)
    ended.wait()
    with line.ledger.claim("origin") as claim:
        assert claim
        claim.write(running=Running.here(ended.pid))
    lock = data.path / "refs" / "remotes" / "origin" / "main.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()

    line.push()

    assert line.repository.remote_head("origin") == remote.head() == data.head()
    assert not lock.exists()


# --- Paging ---


def test_one_episode_pages_once_and_the_next_one_again(
    line: Line, data: Bare, remote: Bare, sentry: SentrySink, monkeypatch
):
    """
    However often it is tried, and in whichever process: the ledger knows. Both are one issue of Sentry's,
    which is resolved in between.
    """
    resolved: list[str] = []
    monkeypatch.setattr(Resolver, "resolve", lambda _, event_ids: resolved.extend(event_ids))
    paging.configure(_paging_to(line, sentry))
    _refuse(remote)
    for chain in ("first", "second", "third"):
        with pytest.raises(PushRefused):
            line.push(chain)
    assert len(sentry.events) == 1

    remote.hook("pre-receive", "exit 0")
    line.push("fourth")
    assert resolved == [sentry.events[0]["event_id"]]
    line.clock.wind(60)
    data.commit("later")
    _refuse(remote)
    with pytest.raises(PushRefused):
        line.push("fifth")

    first, second = sentry.events
    assert first["event_id"] != second["event_id"]
    assert first["fingerprint"] == second["fingerprint"]
    assert {event["tags"]["reason"] for event in sentry.events} == {"rejected"}


def test_a_clock_that_is_set_back_delays_no_page(line_with, remote: Bare, sentry: SentrySink):
    line = line_with(CFP_PUSH_PAGE_AFTER="200")
    paging.configure(_paging_to(line, sentry))
    remote.hook("pre-receive", "echo 'rate limit exceeded' >&2; exit 1")
    line.clock.wind(line.fail().retry_in_s)
    line.fail(retries=1)
    line.clock.wind(-3600)
    line.fail(retries=2)
    assert sentry.events == []
    line.clock.wind(150)
    line.fail(retries=3)

    assert len(sentry.events) == 1


def test_what_may_pass_by_itself_pages_after_a_while(line_with, remote: Bare, sentry: SentrySink):
    line = line_with(CFP_PUSH_PAGE_AFTER="200")
    paging.configure(_paging_to(line, sentry))
    remote.hook("pre-receive", "echo 'rate limit exceeded' >&2; exit 1")

    line.clock.wind(line.fail().retry_in_s)
    assert line.entry.failing_for_s(line.clock()) == 75
    line.clock.wind(
        line.fail(retries=1).retry_in_s
    )  # 125 s, and not 150: no page is late for want of an attempt
    assert sentry.events == []
    line.fail(retries=2)

    (event,) = sentry.events
    assert event["contexts"]["push"]["failing_seconds"] == 200
    assert event["contexts"]["push"]["attempts"] == 3


def _paging_to(line: Line, sentry: SentrySink) -> Settings:
    """
    Return the settings of *line* with a place to page to.
    """
    return Settings.from_env(
        {
            "CFP_DATA_REPO_PATH": str(line.settings.data_repo_path),
            "CFP_REDIS_URL": line.settings.redis_url,
            "SENTRY_DSN": sentry.dsn,
        }
    )


def test_a_page_that_sentry_did_not_take_goes_again_and_stays_one(
    line: Line, remote: Bare, sentry: SentrySink
):
    """
    By itself: no later failure is needed for it, and none adds another.
    """
    paging.configure(replace(line.settings, sentry_dsn=sentry.dsn))
    sentry.answer = lambda: (429, {})
    remote.hook("pre-receive", "exit 1")
    for chain in ("first", "second"):
        with pytest.raises(PushRefused):
            line.push(chain)
    assert (line.entry.paged, len(sentry.refused)) == (("rejected",), 1)

    sentry.answer = lambda: (200, {})
    outbox = outbox_of(line.repository)
    outbox.release()
    paging.send_again(outbox)
    paging.flush(5)
    with pytest.raises(PushRefused):
        line.push("third")
    assert [event["event_id"] for event in sentry.events] == [sentry.refused[0][1]["event_id"]]


def test_nobody_waits_for_sentry_to_take_a_page(line: Line, remote: Bare, sentry: SentrySink, monkeypatch):
    """
    With Sentry slow, the next push goes its way.
    """
    asked, go_on = threading.Event(), threading.Event()

    def slow() -> tuple[int, dict[str, str]]:
        asked.set()
        go_on.wait(30)
        return 200, {}

    sentry.answer = slow
    monkeypatch.setattr("ferry.worker.paging.flush", lambda timeout_s: None)
    paging.configure(replace(line.settings, sentry_dsn=sentry.dsn))
    remote.hook("pre-receive", "exit 1")
    with pytest.raises(PushRefused):
        line.push()
    assert asked.wait(5)
    remote.hook("pre-receive", "exit 0")
    line.push("next")
    assert remote.head() == line.repository.head()
    go_on.set()
    wait_until(lambda: len(sentry.events) == 1, what="the page")


def test_a_retry_that_comes_before_its_time_waits_for_what_is_left(line: Line, data: Bare, remote: Bare):
    """
    Where a broker keeps no message for long, a wait is made of several; copies of one come to nothing.
    """
    remote.hook("pre-receive", "echo 'rate limit exceeded' >&2; exit 1")
    wait_s = line.fail("first").retry_in_s
    for retries, (passes_s, left_s) in enumerate([(30, wait_s - 30), (10, wait_s - 40)], 1):
        line.clock.wind(passes_s)
        with pytest.raises(PushDeferred) as deferred:
            line.push("first", retries=retries, may_be_early=True)
        assert deferred.value.retry_in_s == pytest.approx(left_s)
    assert line.push("first", retries=1) == Turn.SUPERSEDED.sentence
    assert line.attempts() == 1
    remote.hook("pre-receive", "exit 0")
    line.clock.wind(left_s)
    line.push("first", retries=3, may_be_early=True)
    assert remote.head() == data.head()


# --- git itself, and the remote's address ---


@pytest.mark.parametrize("problem", [errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENOENT])
def test_a_git_that_cannot_be_started_is_a_failure_of_ours_and_is_retried(
    line: Line, remote: Bare, monkeypatch: pytest.MonkeyPatch, problem: int
):
    def fail(*_: object, **__: object) -> None:
        raise OSError(problem, os.strerror(problem))

    with monkeypatch.context() as patched:
        patched.setattr("ferry.worker.process.running.subprocess.Popen", fail)
        failed = line.fail()

    assert failed.reason == "local"
    assert failed.retry_in_s == 75
    assert line.entry.chain == "first"
    assert line.entry.last_failure is not None
    assert os.strerror(problem) in line.entry.last_failure.message
    line.push(retries=1)
    assert remote.head() == line.repository.head()


def test_a_divergence_is_paged_also_where_git_cannot_be_started_any_more(
    line_with, data: Bare, remote: Bare, monkeypatch: pytest.MonkeyPatch
):
    """
    The rescue branch is a kindness: that it cannot be pushed is no reason to end the task otherwise.
    """
    line = line_with(CFP_PUSH_EXPRESS="off")
    line.push()
    remote.commit("theirs")
    data.commit("ours")
    begun, start = [], subprocess.Popen

    def start_one(*args: Any, **options: Any) -> Any:
        begun.append(args)
        if len(begun) > 1:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return start(*args, **options)

    monkeypatch.setattr("ferry.worker.process.running.subprocess.Popen", start_one)
    with pytest.raises(NonFastForward), capture_logs() as logs:
        line.push()

    assert [entry["event"] for entry in logs if entry["event"].startswith("push.rescue")] == [
        "push.rescue_failed"
    ]
    assert any(entry["event"] == "push.blocked" for entry in logs)


def test_a_remote_that_is_elsewhere_now_is_left_to_who_knows_where(
    line: Line, deploy, data: Bare, tmp_path: Path
):
    line.push()
    deploy(CFP_DATA_REMOTE=str(Bare.init(tmp_path / "new.git").path))
    data.commit("later")

    assert line.push() == OUTDATED
    assert line.entry.last_failure is None
