"""
What people push to origin is read here, where nothing of ours stands against it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ferry.app.dev.sentry_sink import SentrySink
from ferry.worker import follow, paging
from ferry.worker.errors import NonFastForward
from ferry.worker.failures import REWRITTEN
from ferry.worker.files.locks import FileLock
from ferry.worker.files.places import write_lock
from ferry.worker.ledger.operators import FERRY, Operator, pause
from ferry.worker.repair import reconcile
from ferry.worker.status import remote_statuses
from ferry.worker.turns.handover import Handover
from tests.line import Line
from tests.parts import Bare


@pytest.fixture
def level(line: Line) -> Line:
    """
    Both sides hold the same commits.
    """
    line.push()
    return line


def test_commits_of_others_are_taken_over_by_a_fast_forward(level: Line, data: Bare, remote: Bare):
    before, theirs = data.head(), [remote.commit("one"), remote.commit("two")][-1]

    with capture_logs() as logged:
        assert level.follow() == f"fast-forwarded: {theirs}"

    assert data.head() == theirs == level.repository.remote_head("origin")
    (done,) = [event for event in logged if event["event"] == "follow.done"]
    assert (done["before"], done["after"], done["commits"]) == (before, theirs, 2)
    assert done["authors"] == ["Stranger"]
    assert level.entry.last_failure is None
    assert level.follow() == follow.LEVEL


def test_the_history_names_the_authors(level: Line, remote: Bare):
    theirs = remote.commit("one")
    level.follow()
    (event,) = level.ledger.happened("origin")
    assert event.told() == f"received: 1 commit by Stranger, to {theirs[:12]}"


def test_what_is_level_or_ahead_is_left_alone(level: Line, data: Bare, remote: Bare):
    assert level.follow() == follow.LEVEL
    ours = data.commit("ours")
    assert level.follow() == follow.LEVEL
    assert (data.head(), remote.has(ours)) == (ours, False)


def test_a_branch_without_commits_takes_over_all_of_origins(level: Line, data: Bare, remote: Bare):
    data.git("update-ref", "-d", "refs/heads/main")
    assert level.follow() == f"fast-forwarded: {remote.head()}"
    assert data.head() == remote.head()


def _rewrite(remote: Bare) -> str:
    """
    Force the branch there to a commit beside its tip, as somebody does who amends and pushes.
    """
    amended = remote.git("commit-tree", "-p", "main~1", "-m", "amended", "main^{tree}")
    remote.git("update-ref", "refs/heads/main", amended)
    return amended


@pytest.mark.parametrize("mode", ["manual", "auto"])
def test_a_history_that_was_rewritten_pages_once_in_its_own_words(
    line_with, data, remote, sentry: SentrySink, mode: str
):
    """
    Ferry does not merge it by itself in any mode: that would bring back what others removed.
    """
    line = line_with(CFP_DATA_RECONCILE=mode, SENTRY_DSN=sentry.dsn)
    paging.configure(line.settings)
    line.push()
    held, theirs = data.head(), _rewrite(remote)

    assert line.follow() == follow.APART
    assert line.entry.rewritten == held
    for chain in ("first", "second"):
        with pytest.raises(NonFastForward):
            line.push(chain)
    line.push("sweep", occasion="sweep")

    assert (data.head(), remote.head()) == (held, theirs)
    (event,) = sentry.events
    assert "the history of origin was rewritten" in event["message"]
    assert event["contexts"]["push"]["rewritten_from"] == held
    failure = line.entry.last_failure
    assert failure
    assert f"it no longer holds {held}" in failure.message
    assert failure.hint == REWRITTEN.hint
    status = remote_statuses(line.settings, line.repository, line.ledger)["origin"]
    assert status.as_json()["rewritten_from"] == held
    assert status.commands == ["ferry reconcile --remote origin --dry-run", "ferry push status"]


def test_a_history_that_was_put_back_is_no_divergence_any_more(level: Line, data: Bare, remote: Bare):
    held = str(data.head())
    _rewrite(remote)
    level.follow()
    with pytest.raises(NonFastForward):
        level.push()
    remote.git("update-ref", "refs/heads/main", held)
    level.push("sweep", occasion="sweep")
    assert level.entry.rewritten is level.entry.last_failure is None


def test_an_operator_joins_a_history_that_was_rewritten(level: Line, data: Bare, remote: Bare):
    held, theirs = str(data.head()), _rewrite(remote)
    level.follow()
    assert level.reconciler.reconcile("origin", "merge", by=Operator.of("jane@desk")).state == "merged"
    level.push("next")
    assert level.entry.rewritten is None
    assert remote.has(held)
    assert remote.has(theirs)


def test_auto_merges_both_sides_as_it_looks(line_with: Callable[..., Line], data: Bare, remote: Bare):
    line = line_with(CFP_DATA_RECONCILE="auto")
    line.push()
    ours, theirs = data.commit("ours"), remote.commit("theirs")
    assert line.follow().startswith("merged: ")
    assert data.has(ours)
    assert data.has(theirs)
    line.push("next")
    assert remote.head() == data.head()


def test_a_push_that_finds_all_of_ours_and_more_takes_it_over(level: Line, data: Bare, remote: Bare):
    """
    As where somebody merges the rescue branch: the divergence has become a lag.
    """
    ours, _ = data.commit("ours"), remote.commit("theirs")
    with pytest.raises(NonFastForward):
        level.push()
    remote.git("fetch", "-q", str(data.path), "main")
    merged = remote.git("commit-tree", "-p", "main", "-p", ours, "-m", "merge", "main^{tree}")
    remote.git("update-ref", "refs/heads/main", merged)

    level.push("sweep", occasion="sweep")

    assert data.head() == merged
    assert level.entry.last_failure is None


@pytest.mark.parametrize("occasion", ["start", "operator", "follow"])
def test_what_was_fetched_before_a_power_cut_is_taken_over_by_the_next_look(
    level, data, remote, occasion: str
):
    """
    The remote-tracking ref had moved, and the branch had not.
    """
    before, theirs = str(data.head()), remote.commit("theirs")
    level.follow()
    data.git("update-ref", "refs/heads/main", before)
    if occasion == "follow":
        level.follow()
    else:
        level.push("look", occasion=occasion)
    assert data.head() == theirs


@pytest.mark.parametrize("occasion", ["start", "operator"])
def test_whoever_looks_takes_over(level: Line, data: Bare, remote: Bare, occasion: str):
    theirs = remote.commit("theirs")
    level.push("look", occasion=occasion)
    assert data.head() == theirs


@pytest.mark.parametrize("mode", ["manual", "boot", "auto"])
def test_no_mode_of_reconciling_is_in_the_way(line_with: Callable[..., Line], data: Bare, remote, mode: str):
    line = line_with(CFP_DATA_RECONCILE=mode)
    line.push()
    theirs = remote.commit("theirs")
    line.follow()
    assert data.head() == theirs


def test_where_both_sides_have_commits_the_branch_stays_and_a_push_tells_of_it(level: Line, data, remote):
    """
    It is queued as the claim is released, and refused as any other.
    """
    queued: list[tuple[str, str, str]] = []
    handover = Handover(level.repository, level.ledger, lambda *push: queued.append(push))
    level.ledger.released = handover.look_again
    ours, _ = data.commit("ours"), remote.commit("theirs")

    assert level.follow() == follow.APART

    assert data.head() == ours
    assert queued == [("origin", ours, "commit")]
    with pytest.raises(NonFastForward):
        level.push()
    assert level.follow() == follow.FAILING
    assert level.attempts() == 2  # the first, and the one that was refused


def test_mirrors_get_what_was_taken_over(line_with, remote: Bare, tmp_path: Path):
    mirror = Bare.init(tmp_path / "mirror.git")
    line = line_with(CFP_DATA_MIRRORS=f"backup={mirror.path}")
    line.push()
    theirs = remote.commit("theirs")
    line.follow()
    assert line.sent == [("backup", theirs)]


def test_what_hosts_would_refuse_is_not_taken_over(level: Line, data: Bare, remote: Bare):
    """
    A tree with ".git" in it, say.
    """
    before, tree = data.head(), remote.git("rev-parse", "main^{tree}")
    line = f"040000 tree {tree}\t.git\n".encode()
    made = subprocess.run(
        ["git", "-C", str(remote.path), "mktree"], input=line, capture_output=True, check=True, timeout=60
    )
    bad = remote.git("commit-tree", "-p", "main", "-m", "bad", made.stdout.decode().strip())
    remote.git("update-ref", "refs/heads/main", bad)

    assert level.follow() == follow.FAILED

    assert data.head() == before == level.repository.remote_head("origin")


def test_a_paused_origin_is_left_alone(level: Line, data: Bare, remote: Bare):
    before = data.head()
    remote.commit("theirs")
    pause(level.ledger, "origin", FERRY, now=level.clock(), until=None, timeout_s=5)
    assert level.follow() == follow.PAUSED
    assert data.head() == before


def test_an_origin_that_does_not_answer_is_no_failure(level: Line, data: Bare, remote: Bare):
    elsewhere = remote.path.rename(remote.path.with_suffix(".away"))
    assert level.follow() == follow.FAILED
    assert level.entry.last_failure is None
    elsewhere.rename(remote.path)


def test_a_writer_that_keeps_the_lock_delays_it_to_the_next_look(level: Line, data, remote, monkeypatch):
    monkeypatch.setattr(reconcile, "_WRITE_LOCK_TIMEOUT_S", 0.05)
    theirs = remote.commit("theirs")
    with write_lock(data.path).hold(1):
        assert level.follow() == follow.FAILED
        assert data.head() != theirs
    level.follow()
    assert data.head() == theirs


def test_without_an_origin_there_is_nothing_to_follow(line_with: Callable[..., Line]):
    assert line_with(CFP_DATA_REMOTE="").follow() == follow.NO_ORIGIN


# --- Nudges ---


def test_many_nudges_lead_to_one_look(level: Line, data: Bare, remote: Bare):
    theirs = remote.commit("theirs")
    for _ in range(3):
        assert level.ledger.nudge("origin")

    assert level.follow(is_noted=True) == f"fast-forwarded: {theirs}"
    assert level.follow(is_noted=True) == follow.LOOKED


def test_a_nudge_during_a_push_leads_to_a_look_after_it(level: Line, data: Bare, remote: Bare):
    looks: list[str] = []
    handover = Handover(level.repository, level.ledger, lambda *push: None, lambda: looks.append("queued"))
    level.ledger.nudged = handover.follow_again

    with level.ledger.claim("origin") as claim:
        assert claim
        claim.looks_again = True
        level.ledger.nudge("origin")
        assert level.follow(is_noted=True) == follow.CLAIMED
        assert looks == []

    assert looks == ["queued"]
    assert level.follow(is_noted=True) == follow.LEVEL
    assert looks == ["queued"]


def test_a_nudge_whose_look_fails_is_followed_by_the_next(
    level: Line, data: Bare, remote: Bare, tmp_path: Path
):
    """
    Not at once, where it would fail again: the sweep asks.
    """
    looks: list[str] = []
    level.ledger.nudged = looks.append
    theirs = remote.commit("theirs")
    level.ledger.nudge("origin")
    remote.path.rename(tmp_path / "away.git")
    for _ in range(2):
        assert level.follow(is_noted=True) == follow.FAILED
        assert level.ledger.is_nudged("origin")
    assert looks == []

    (tmp_path / "away.git").rename(remote.path)
    assert level.follow(is_noted=True) == f"fast-forwarded: {theirs}"
    assert not level.ledger.is_nudged("origin")
    assert level.follow(is_noted=True) == follow.LOOKED


def test_a_nudge_whose_look_was_killed_is_followed_by_the_next(level: Line, data: Bare, remote: Bare):
    theirs = remote.commit("theirs")
    level.ledger.nudge("origin")
    with level.ledger.claim("origin") as claim:
        assert claim
        assert claim.take_nudge()
        assert not level.ledger.is_nudged("origin"), "while it is looked at, the sweep asks for nothing"
        level.ledger.nudge("origin")
        assert level.ledger.is_nudged("origin")
        assert claim.take_nudge()

    assert level.ledger.is_nudged("origin")
    assert level.follow(is_noted=True) == f"fast-forwarded: {theirs}"


def test_a_nudge_of_a_paused_origin_waits_until_it_is_resumed(level: Line, data: Bare, remote: Bare):
    theirs = remote.commit("theirs")
    with level.ledger.claim("origin") as claim:
        assert claim
        claim.set_paused(level.clock())
    level.ledger.nudge("origin")
    assert level.follow(is_noted=True) == follow.PAUSED
    with level.ledger.claim("origin") as claim:
        assert claim
        claim.set_paused(None)
    assert level.follow(is_noted=True) == f"fast-forwarded: {theirs}"


def test_a_nudge_that_cannot_be_noted_is_followed_all_the_same(level: Line, data: Bare, remote, monkeypatch):
    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError("no room")

    theirs = remote.commit("theirs")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", full)
        assert not level.ledger.nudge("origin")
    assert level.follow(is_noted=False) == f"fast-forwarded: {theirs}"


def test_a_lock_is_held_while_the_branch_moves(level: Line, data: Bare, remote: Bare, monkeypatch):
    held: list[bool] = []
    move_ref = reconcile.move_ref

    def looked(path: Path, ref: str, **where: str | None) -> None:
        held.append(write_lock(data.path).is_held() and FileLock(_claim(data)).is_held())
        move_ref(path, ref, **where)

    monkeypatch.setattr(reconcile, "move_ref", looked)
    remote.commit("theirs")
    level.follow()
    assert held == [True]


def _claim(data: Bare) -> Path:
    return data.path / "ferry" / "remotes" / "origin.lock"
