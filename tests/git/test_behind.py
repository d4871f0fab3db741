"""
A repository that is merely behind its remote takes over what is there, and wakes no one.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ferry.app.dev.sentry_sink import SentrySink
from ferry.worker import paging
from ferry.worker.attempt import RECONCILED
from ferry.worker.errors import NonFastForward
from ferry.worker.repair import verify
from ferry.worker.status import remote_statuses
from ferry.worker.turns.turn import Turn
from tests.line import Line
from tests.parts import Bare


@pytest.fixture
def paging_line(line_with: Callable[..., Line], sentry: SentrySink) -> Line:
    line = line_with(SENTRY_DSN=sentry.dsn)
    paging.configure(line.settings)
    return line


def _fresh_clone(line: Line, data: Bare, remote: Bare) -> None:
    """
    As ``git clone --bare`` leaves it: no remote-tracking ref, and then somebody pushes.
    """
    data.git("push", "-q", str(remote.path), "main")


def _pushed_before(line: Line, data: Bare, remote: Bare) -> None:
    line.push("before")
    data.git("update-ref", "-d", "refs/remotes/origin/main")


def _known_divergence(line: Line, data: Bare, remote: Bare) -> None:
    """
    An operator has set our branch back to what both have.
    """
    line.push("before")
    both = data.head()
    remote.commit("theirs")
    data.commit("ours")
    with pytest.raises(NonFastForward):
        line.push("diverged")
    data.git("update-ref", "refs/heads/main", str(both))


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("request_", [{}, {"occasion": "sweep"}, {"occasion": "operator"}])
@pytest.mark.parametrize("before", [_fresh_clone, _pushed_before])
def test_who_is_behind_takes_over_what_is_there(
    paging_line: Line, data, remote, sentry, before, request_, ahead
):
    """
    No page, no rescue branch, no retry.
    """
    line = paging_line
    before(line, data, remote)
    theirs = [remote.commit(f"theirs {number}") for number in range(ahead)][-1]

    assert line.push("first", **request_) in (RECONCILED, Turn.DONE.sentence)

    assert sentry.events == []
    assert remote.git("for-each-ref", "--format=%(refname)") == "refs/heads/main"
    assert data.git("rev-parse", "refs/remotes/origin/main") == theirs == remote.head() == data.head()
    assert line.entry.last_failure is line.entry.next_attempt_at is None
    status = remote_statuses(line.settings, line.repository, line.ledger)["origin"]
    assert (status.state, len(status.pending)) == ("idle", 0)
    assert line.wanting() == {}


def test_a_divergence_that_became_a_lag_is_over(paging_line: Line, data: Bare, remote: Bare, sentry):
    line = paging_line
    _known_divergence(line, data, remote)
    assert len(sentry.events) == 1

    line.push("sweep", occasion="sweep")

    assert line.entry.last_failure is None
    assert line.wanting() == {}


def test_a_commit_on_what_was_taken_over_goes_on_top_of_it(paging_line: Line, data, remote, sentry):
    line = paging_line
    _fresh_clone(line, data, remote)
    theirs = remote.commit("theirs")
    line.push("first")
    ours = data.commit("ours")

    line.push("second")

    assert remote.head() == ours
    assert remote.has(theirs)
    assert sentry.events == []


def test_a_commit_beside_what_is_there_diverges(paging_line: Line, data, remote, sentry):
    line = paging_line
    _fresh_clone(line, data, remote)
    remote.commit("theirs")
    data.commit("ours")

    with pytest.raises(NonFastForward):
        line.push("first")

    assert len(sentry.events) == 1


def test_a_mirror_that_is_ahead_is_not_followed(line_with, data: Bare, remote: Bare, tmp_path):
    """
    Only origin is: what a mirror holds alone is left to people.
    """
    mirror = Bare.init(tmp_path / "mirror.git")
    line = line_with(CFP_DATA_MIRRORS=f"backup={mirror.path}")
    for name in ("origin", "backup"):
        line.push(remote=name)
    before = data.head()
    mirror.commit("theirs")

    line.push("look", remote="backup", occasion="operator")

    assert data.head() == before


# --- The remote lacks what counts as pushed ---


def _set_back(data: Bare, remote: Bare) -> None:
    remote.git("update-ref", "refs/heads/main", "main~1")


def _made_anew(data: Bare, remote: Bare) -> None:
    remote.git("update-ref", "-d", "refs/heads/main")


@pytest.mark.parametrize("lose", [_set_back, _made_anew])
def test_an_operator_who_asks_for_a_push_has_the_remote_asked(line: Line, data, remote, lose):
    """
    Nothing seems to be pending; the remote was restored from a backup since.
    """
    line.push()
    lose(data, remote)
    assert line.push("sweep") == Turn.DONE.sentence

    line.push("operator", occasion="operator")

    assert remote.head() == data.head()


def test_an_operator_has_a_remote_asked_that_named_a_wait(line: Line, data: Bare, remote: Bare):
    remote.hook("pre-receive", "echo 'error: 429 too many requests, retry after 300 seconds' >&2; exit 1")
    line.fail("first")
    remote.hook("pre-receive", "exit 0")

    line.push("operator", occasion="operator")

    assert remote.head() == data.head()
    assert line.entry.looked_at == line.clock.now


@pytest.mark.parametrize("lose", [_set_back, _made_anew])
def test_verify_fails_where_the_remote_lacks_what_counts_as_pushed(line: Line, data, remote, lose):
    """
    And corrects what is remembered, so that it is pushed again.
    """
    line.push()
    lose(data, remote)

    found = verify.verify(line.settings, line.repository, line.ledger, "origin")

    assert not found.is_ours
    assert "commits that were pushed" in found.detail
    assert line.repository.remote_head("origin") == remote.head()
    assert line.wanting() == {"origin": data.head()}
    line.push("again")
    assert verify.verify(line.settings, line.repository, line.ledger, "origin").is_ours
