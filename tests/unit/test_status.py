"""
That the name of a state says what somebody who looks needs to know.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ferry.worker.failures import POLICIES, Reason
from ferry.worker.files.moments import timestamp
from ferry.worker.git.remote import Remote
from ferry.worker.ledger.entry import Entry, Failure, Running
from ferry.worker.status import RemoteStatus, remote_statuses
from ferry.worker.turns.turn import STATES, Facts, State, whose_turn
from tests.line import Deployment
from tests.parts import Bare

RETRIED = [reason for reason, policy in POLICIES.items() if policy.retried]
NOT_RETRIED = [reason for reason, policy in POLICIES.items() if not policy.retried]


def _failed(reason: str, **fields: object) -> Entry:
    failure = Failure(reason=reason, message="no", hint="do", at=1_800_000_000.0, attempt=2)
    return replace(Entry(attempt=2, last_failure=failure, failing_since=1_799_999_000.0), **fields)


# --- The state of a remote at which a person looks ---


def state(entry: Entry, *, pending: bool, pushing: bool) -> State:
    running = Running(host="worker", group=7, born="1") if pushing else None
    entry = replace(entry, running=running)
    return whose_turn(entry, Facts(pending=pending, claimed=pushing), 1_800_000_001.0).state


def test_where_nothing_is_pending_a_remote_is_idle():
    """
    Whatever went wrong before: somebody else may have pushed meanwhile.
    """
    for entry in (
        Entry(),
        _failed("network", next_attempt_at=1e9),
        _failed("rejected"),
        _failed("auth", gave_up=True),
    ):
        assert state(entry, pending=False, pushing=False) == "idle"


def test_commits_that_nobody_has_tried_are_queued():
    assert state(Entry(last_push_at=1_800_000_000.0), pending=True, pushing=False) == "queued"


@pytest.mark.parametrize("entry", [Entry(), _failed("network", next_attempt_at=1e9), _failed("rejected")])
def test_a_push_that_runs_outweighs_what_came_of_the_last_one(entry: Entry):
    assert state(entry, pending=True, pushing=True) == "pushing"


@pytest.mark.parametrize("reason", RETRIED)
def test_a_failure_with_a_retry_to_come_is_retrying(reason: str):
    assert state(_failed(reason, next_attempt_at=1e9), pending=True, pushing=False) == "retrying"


@pytest.mark.parametrize("reason", NOT_RETRIED)
def test_a_failure_that_only_a_person_can_end_is_blocked(reason: str):
    assert state(_failed(reason), pending=True, pushing=False) == "blocked"


@pytest.mark.parametrize("reason", RETRIED)
def test_a_failure_whose_retries_are_used_up_is_blocked(reason: str):
    assert state(_failed(reason, gave_up=True), pending=True, pushing=False) == "blocked"


def test_a_failure_whose_retry_is_about_to_be_made_is_queued():
    """
    The moment between taking the retry off the ledger and starting it.
    """
    assert state(_failed("network"), pending=True, pushing=False) == "queued"


def test_a_failure_for_a_reason_of_another_version_has_a_state_too():
    """
    After a step back to an earlier version the ledger may name what this one has never heard of.
    """
    assert state(_failed("bewitched"), pending=True, pushing=False) in ("queued", "blocked")


@given(
    st.sampled_from([None, *get_args(Reason)]),
    st.booleans(),
    st.none() | st.floats(min_value=0, max_value=4e9),
    st.booleans(),
    st.booleans(),
)
def test_every_entry_has_a_state_of_the_vocabulary(reason, gave_up, next_attempt_at, pending, pushing):
    """
    Only a remote that is not configured is disabled, and that is not for ``state`` to say.
    """
    entry = replace(_failed(reason) if reason else Entry(), gave_up=gave_up, next_attempt_at=next_attempt_at)
    assert state(entry, pending=pending, pushing=pushing) in set(STATES) - {"disabled"}


# --- timestamp() ---


@given(st.floats(min_value=0, max_value=4e9))
def test_a_timestamp_is_rfc_3339_in_utc_to_the_millisecond(seconds: float):
    text = timestamp(seconds)

    assert text is not None
    assert text.endswith("Z")
    assert len(text) == len("2026-11-23T09:12:34.123Z")
    read = datetime.fromisoformat(text)
    assert read.tzinfo == UTC
    assert abs(read.timestamp() - seconds) <= 0.001


def test_no_time_has_no_timestamp():
    assert timestamp(None) is None
    assert timestamp(0.0) == "1970-01-01T00:00:00.000Z"


def test_a_whole_second_has_its_milliseconds_too():
    assert timestamp(1_700_000_000) == "2023-11-14T22:13:20.000Z"


# --- Against a repository ---


def _status(deployed: Deployment) -> RemoteStatus:
    return remote_statuses(deployed.settings, deployed.repository, deployed.ledger)["origin"]


def _push(deployed: Deployment) -> None:
    Remote(deployed.repository, "origin", timeout_s=20).push(
        deployed.repository.head() or "", started=lambda group: None
    )


def test_pending_is_counted_from_git(deployment: Deployment, data: Bare, remote: Bare):
    """
    The ledger is empty all the while.
    """
    assert _status(deployment).state == "queued"
    assert _status(deployment).remote_head is None
    _push(deployment)
    assert (_status(deployment).state, len(_status(deployment).pending)) == ("idle", 0)

    commits = [data.commit("one"), data.commit("two")]

    status = _status(deployment)
    assert (status.state, len(status.pending)) == ("queued", 2)
    assert all(commit in status.pending for commit in commits)
    assert (status.local_head, status.remote_head) == (commits[-1], remote.head())
    assert status.oldest_pending_at == deployment.repository.commit_time(commits[0])
    assert status.oldest_pending_age_s >= 0


def test_a_commit_waits_for_a_remote_since_it_lacks_it_and_not_since_it_was_made(
    deploy: Callable[..., Deployment], data: Bare, tmp_path
):
    """
    A new mirror lacks what is years old, and has not kept it waiting for years.
    """
    began = time.time() - 1
    assert float(data.git("log", "-1", "--format=%ct")) < began
    deployed = deploy(CFP_DATA_MIRRORS=f"backup={Bare.init(tmp_path / 'backup.git').path}")
    for status in remote_statuses(deployed.settings, deployed.repository, deployed.ledger).values():
        assert status.oldest_pending_at is not None
        assert status.oldest_pending_at >= began
        assert status.oldest_pending_age_s < 60
    made_at, known_since = 500.0, 100.0
    assert Entry().waiting_since(made_at, known_since) == 500
    assert Entry(waits_from=700.0).waiting_since(made_at, known_since) == 700
    assert Entry(waits_from=300.0).waiting_since(made_at, None) == 500


def test_a_remote_that_is_ahead_of_us_has_nothing_pending(deployment: Deployment, data: Bare, remote: Bare):
    _push(deployment)
    theirs = remote.commit("theirs")
    Remote(deployment.repository, "origin", timeout_s=20).fetch()

    status = _status(deployment)

    assert (status.state, status.remote_head, len(status.pending)) == ("idle", theirs, 0)
    assert status.as_json()["behind_commits"] == 1
    data.commit("ours")
    assert (len(_status(deployment).pending), _status(deployment).pending.behind) == (1, 1)


def test_a_claim_is_seen_as_a_push(deployment: Deployment):
    with deployment.ledger.claim("origin"):
        assert _status(deployment).state == "pushing"
    assert _status(deployment).state == "queued"


def test_without_a_remote_origin_is_disabled(deploy: Callable[..., Deployment], data: Bare):
    deployed = deploy(CFP_DATA_REMOTE="")

    status = _status(deployed)

    assert status.state == "disabled"
    assert status.local_head == data.head()
    assert status.as_json()["running"] is False
    assert status.as_json()["pending_commits"] == 0


def test_each_remote_has_a_status_of_its_own(deploy: Callable[..., Deployment], tmp_path):
    deployed = deploy(CFP_DATA_MIRRORS=f"backup={Bare.init(tmp_path / 'backup.git').path}")
    _push(deployed)

    statuses = remote_statuses(deployed.settings, deployed.repository, deployed.ledger)

    assert {name: status.state for name, status in statuses.items()} == {"origin": "idle", "backup": "queued"}


def test_a_branch_without_commits_is_idle(deploy: Callable[..., Deployment], data: Bare):
    assert _status(deploy(CFP_DATA_BRANCH="not-begun")).state == "idle"


# --- As it is answered ---


def test_the_answer_tells_the_last_error_and_the_next_attempt(deployment: Deployment):
    entry = _failed("network", next_attempt_at=1_800_000_004.0, backoff_s=3.9996, chain="task-7")
    answer = replace(_status(deployment), entry=entry).as_json()

    assert answer["last_error"] == {
        "message": "no",
        "at": "2027-01-15T08:00:00.000Z",
        "attempt": 2,
        "reason": "network",
        "hint": "do",
        "said": "",
    }
    assert (answer["current_attempt"], answer["current_backoff_ms"]) == (3, 4000)
    assert answer["next_attempt_at"] == "2027-01-15T08:00:04.000Z"
    assert answer["running"] is True


def test_an_idle_answer_speaks_of_no_attempt(deployment: Deployment):
    _push(deployment)

    answer = _status(deployment).as_json()

    for name in (
        "last_error",
        "current_attempt",
        "current_backoff_ms",
        "next_attempt_at",
        "oldest_pending_at",
    ):
        assert answer[name] is None
