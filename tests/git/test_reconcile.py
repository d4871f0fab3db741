"""
Joining two histories: nothing is lost, nothing is forced, and what conflicts is named.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ferry.app.cli.reconcile import _print_outcome
from ferry.app.store.store import Store
from ferry.worker.errors import ReconcileError, RemoteBusyError
from ferry.worker.files.places import write_lock
from ferry.worker.git.remote import Remote
from ferry.worker.repair import reconcile
from ferry.worker.repair.merger import Conflict, Merger, mergers
from ferry.worker.repair.reconcile import Outcome, Reconciler
from tests.line import Deployment
from tests.parts import Bare

AT = 1_790_000_000.0
KEPT_AS = "conflicts/20260921T141320Z"
OURS = ("Ours", "ours@example.org")


@dataclass(frozen=True)
class Two:
    """
    Our repository, the remote, and a copy of ours in which somebody else works.
    """

    deployment: Deployment
    data: Bare
    remote: Bare
    stranger: Store
    reconciler: Reconciler

    def ours(self, slug: str, **record: object) -> str:
        return _write(Store(self.deployment.repository), slug, record)

    def theirs(self, slug: str, **record: object) -> str:
        commit = _write(self.stranger, slug, record)
        path = self.stranger.snapshot().git_dir
        self.remote.git("fetch", "--quiet", path, "main:main")
        return commit

    def reconcile(self, strategy="merge", **options) -> Outcome:
        return self.reconciler.reconcile("origin", strategy, **options)

    def person(self, slug: str) -> dict:
        snapshot = Store(self.deployment.repository).snapshot()
        return snapshot.record(snapshot.sheet("people"), slug).record


def _write(store: Store, slug: str, record: dict) -> str:
    with store.commit(f"Write {slug}", author=OURS) as transaction:
        transaction.put("people", slug, {"slug": slug, "name": slug.title(), **record})
    assert transaction.commit
    return transaction.commit


@pytest.fixture
def two(deploy: Callable[..., Deployment], data: Bare, remote: Bare, tmp_path: Path) -> Two:
    deployment = deploy()
    repository = deployment.repository
    Remote(repository, "origin", timeout_s=20).push(repository.head() or "")
    copy = Bare.copy(data.path, tmp_path / "stranger.git")
    stranger = type(repository)(copy.path, branch="main")
    lock = write_lock(data.path)
    reconciler = Reconciler(deployment.settings, repository, deployment.ledger, lock, clock=lambda: AT)
    return Two(deployment, data, remote, Store(stranger), reconciler)


def test_two_that_are_level_are_in_sync(two: Two):
    outcome = two.reconcile()
    assert (outcome.state, outcome.before, outcome.after) == ("in-sync", two.data.head(), two.data.head())


def test_a_remote_that_lacks_commits_is_left_to_the_push(two: Two):
    commit = two.ours("jane")
    outcome = two.reconcile()
    assert (outcome.state, outcome.after) == ("ahead", commit)


def test_a_remote_without_the_branch_is_left_to_the_push(two: Two):
    two.remote.git("update-ref", "-d", "refs/heads/main")
    assert two.reconcile().state == "ahead"


@pytest.mark.parametrize("strategy", ["fast-forward", "merge", "rebase", "preserve"])
def test_what_only_the_remote_has_is_taken_over(two: Two, strategy: str):
    theirs = two.theirs("joe")
    outcome = two.reconcile(strategy)
    assert (outcome.state, outcome.after) == ("fast-forwarded", theirs)
    assert two.data.head() == theirs
    assert outcome.kept_as is None


def test_a_merge_keeps_every_commit_of_both(two: Two):
    ours, theirs = two.ours("jane", email="jane@example.org"), two.theirs("joe")

    outcome = two.reconcile("merge")

    assert outcome.state == "merged"
    assert outcome.after == two.data.head()
    assert two.data.has(ours)
    assert two.data.has(theirs)
    assert two.person("jane")["email"] == "jane@example.org"
    assert two.person("joe")["name"] == "Joe"
    assert two.data.git("log", "-1", "--format=%an %cn %s") == "Ferry Ferry Merge main of origin"
    assert outcome.divergence is not None
    assert (outcome.divergence.ours.count, outcome.divergence.theirs.count) == (1, 1)
    assert two.data.git("fsck", "--strict") == ""


def test_what_people_read_of_a_divergence_is_gathered_once_nothing_waits_for_it(two: Two, monkeypatch):
    """
    It takes several git commands that give way to others, which on a busy machine lasts seconds.
    """
    two.ours("jane"), two.theirs("joe")
    held = []

    def noted(function):
        def call(*args, **options):
            held.append((two.deployment.ledger.is_claimed("origin"), write_lock(two.data.path).is_held()))
            return function(*args, **options)

        return call

    monkeypatch.setattr(reconcile, "survey", noted(reconcile.survey))
    monkeypatch.setattr(Merger, "compare", noted(Merger.compare))

    assert two.reconcile("merge", compares=True).state == "merged"
    assert held == [(False, False)] * 2


def test_a_merge_gives_way_to_nothing():
    """
    Writers and pushes wait for it.
    """
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    assert mergers.call(os.getpriority, os.PRIO_PROCESS, 0) == ours


def test_a_merge_joins_two_fields_of_one_record(two: Two):
    two.ours("kim", name="Kim", email="kim@example.org")
    base = two.reconcile()
    Remote(two.deployment.repository, "origin", timeout_s=20).push(base.after or "")
    Bare(Path(two.stranger.snapshot().git_dir)).git("fetch", "-q", str(two.data.path), "main:main")
    two.ours("kim", name="Kim", email="new@example.org")
    two.theirs("kim", name="Kimberly", email="kim@example.org")

    outcome = two.reconcile("merge")

    assert outcome.state == "merged"
    assert two.person("kim") == {"slug": "kim", "name": "Kimberly", "email": "new@example.org"}
    assert outcome.divergence is not None
    assert outcome.divergence.touched_by_both == ["people/kim.toml"]


@pytest.mark.parametrize("strategy", ["merge", "rebase"])
def test_a_conflict_is_named_and_changes_nothing(two: Two, strategy: str):
    ours, theirs = two.ours("jane", email="ours@example.org"), two.theirs("jane", email="theirs@example.org")

    outcome = two.reconcile(strategy)

    assert outcome.state == "conflict"
    assert Conflict(path="people/jane.toml", kind="field", field="email") in outcome.conflicts
    assert two.data.head() == outcome.after == ours
    assert two.remote.head() == theirs
    assert two.remote.git("for-each-ref", "refs/heads/conflicts") == ""


def test_a_rebase_keeps_the_commits_as_they_were_on_a_branch_here_and_there(two: Two):
    ours, theirs = two.ours("jane"), two.theirs("joe")

    outcome = two.reconcile("rebase")

    assert (outcome.state, outcome.kept_as) == ("rebased", KEPT_AS)
    assert two.data.git("rev-parse", "main^") == theirs
    assert two.data.git("log", "-1", "--format=%an %s") == "Ours Write jane"
    assert two.data.git("rev-parse", KEPT_AS) == two.remote.git("rev-parse", KEPT_AS) == ours
    assert two.remote.head() == theirs, "pushing the branch is the worker's"


def test_preserving_sets_our_side_of_a_conflict_aside(two: Two):
    ours, theirs = two.ours("jane", email="ours@example.org"), two.theirs("jane", email="theirs@example.org")

    outcome = two.reconcile("preserve")

    assert (outcome.state, outcome.kept_as, outcome.after) == ("conflict", KEPT_AS, theirs)
    assert two.data.head() == theirs
    assert two.data.git("rev-parse", KEPT_AS) == two.remote.git("rev-parse", KEPT_AS) == ours


@pytest.mark.parametrize("strategy", ["rebase", "preserve"])
def test_what_the_remote_will_not_keep_is_not_replaced(two: Two, strategy: str):
    ours = two.ours("jane", email="ours@example.org")
    two.theirs("joe" if strategy == "rebase" else "jane", email="theirs@example.org")
    two.remote.hook("update", 'case $1 in refs/heads/conflicts/*) echo "no branches here"; exit 1;; esac')

    with pytest.raises(ReconcileError, match="no branches here"):
        two.reconcile(strategy)

    assert two.data.head() == ours
    assert two.data.git("for-each-ref", "refs/heads/conflicts") == ""


def test_fast_forward_leaves_apart_what_is_apart(two: Two):
    ours = two.ours("jane")
    two.theirs("joe")
    outcome = two.reconcile("fast-forward")
    assert outcome.state == "conflict"
    assert not outcome.is_joined
    assert two.data.head() == ours


@pytest.mark.parametrize("strategy", ["fast-forward", "merge", "rebase", "preserve"])
@pytest.mark.parametrize("slug", ["joe", "jane"])
def test_a_dry_run_says_the_same_and_changes_nothing(two: Two, strategy: str, slug: str):
    two.ours("jane", email="ours@example.org"), two.theirs(slug, email="theirs@example.org")
    before = two.data.git("for-each-ref", "refs/heads"), two.remote.git("for-each-ref")

    planned = two.reconcile(strategy, dry_run=True)

    assert (two.data.git("for-each-ref", "refs/heads"), two.remote.git("for-each-ref")) == before
    done = two.reconcile(strategy)
    assert (done.state, done.conflicts, done.kept_as) == (planned.state, planned.conflicts, planned.kept_as)
    assert done.after == planned.after


def test_histories_without_a_common_commit_are_a_conflict(two: Two, capsys):
    ours = two.ours("jane")
    orphan = two.remote.git("commit-tree", "-m", "a new beginning", "main^{tree}")
    two.remote.git("update-ref", "refs/heads/main", orphan)

    for strategy in ("merge", "rebase"):
        outcome = two.reconcile(strategy)
        assert outcome.state == "conflict"
        assert "no history" in outcome.detail
        assert two.data.head() == ours
        _print_outcome(outcome, {}, dry_run=False)
        told = capsys.readouterr().out
        assert "Both sides share no history. Nothing was changed." in told
        assert "preserve" not in told
    assert two.reconcile("preserve").after == orphan
    assert two.data.git("rev-parse", KEPT_AS) == ours


def test_a_remote_that_does_not_answer_is_said_to(two: Two, tmp_path: Path):
    ours = two.ours("jane")
    two.remote.path.rename(tmp_path / "away.git")
    outcome = two.reconcile()
    assert outcome.state == "fetch-failed"
    assert "origin" in outcome.detail
    assert two.data.head() == ours


def test_a_push_that_runs_is_waited_for_and_a_writer_too(two: Two, deploy: Callable[..., Deployment]):
    deployment = deploy(CFP_PUSH_TIMEOUT="0.3")
    lock = write_lock(two.data.path)
    reconciler = Reconciler(deployment.settings, deployment.repository, deployment.ledger, lock)
    with deployment.ledger.claim("origin"), pytest.raises(RemoteBusyError, match="a push to origin"):
        reconciler.reconcile("origin", "merge")


def test_a_branch_that_has_all_of_the_remote_waits_for_no_writer(two: Two, monkeypatch):
    """
    Pushes wait for the reconcile, and under steady load it for the write lock.
    """
    monkeypatch.setattr("ferry.worker.repair.reconcile._WRITE_LOCK_TIMEOUT_S", 0.1)
    lock = write_lock(two.data.path)
    with lock.hold(1):
        assert two.reconcile().state == "in-sync"
    two.ours("jane")
    with lock.hold(1):
        assert two.reconcile().state == "ahead"
        two.theirs("joe")
        with pytest.raises(ReconcileError, match="cannot reconcile with origin"):
            two.reconcile()


@pytest.mark.parametrize("strategy", ["rebase", "preserve"])
@pytest.mark.parametrize("left", ["a ref", "half a repository", "by the release before"])
def test_what_a_killed_rebase_left_stops_no_later_one(two: Two, monkeypatch, strategy: str, left: str):
    """
    Its scratch ref, which was in the repository itself, and which ``git pack-refs`` packed there.
    """
    if left == "by the release before":
        two.data.git("update-ref", "refs/ferry/reconcile", "main")
        two.data.git("pack-refs", "--all", "--prune")
    ours, theirs = two.ours("jane"), two.theirs("joe")
    with monkeypatch.context() as dying:
        where = "symlink_to" if left == "half a repository" else "write_text"
        made = getattr(Path, where)
        dying.setattr(Path, where, lambda *args: (made(*args), _die())[0])
        if left != "by the release before":
            with pytest.raises(Killed):
                two.reconcile(strategy)
    two.data.git("pack-refs", "--all", "--prune")

    outcome = two.reconcile(strategy)

    assert (outcome.state, outcome.detail) == ("rebased", "")
    assert two.data.has(theirs)
    assert two.person("jane")["name"] == "Jane"
    assert two.data.git("rev-parse", KEPT_AS) == ours
    assert two.data.git("for-each-ref", "refs/ferry") == ""
    assert two.data.git("fsck", "--strict") == ""


class Killed(BaseException):
    """
    The end of a process at some line.
    """


def _die() -> None:
    raise Killed
