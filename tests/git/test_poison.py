"""
Finding the commit that a remote refuses, by asking real remotes with real hooks.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ferry.worker.files.places import remotes_directory
from ferry.worker.git.remote import Remote
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.repair.poison import Found, PoisonError, find
from tests.line import Deployment
from tests.parts import Bare

# Refuses every push that brings a commit whose message holds POISON, as a push rule does.
_RULE = """
while read old new ref; do
    case $new in 000000*) continue ;; esac
    if git log --format=%B $new --not --all | grep -q POISON; then
        echo "push rule: no POISON here" >&2
        exit 1
    fi
done
"""


def _commits(data: Bare, count: int, *, poison: tuple[int, ...]) -> list[str]:
    return [data.commit("POISON" if number in poison else f"number {number}") for number in range(count)]


def _branches(remote: Bare) -> str:
    return remote.git("for-each-ref", "--format=%(refname)")


@pytest.fixture
def repository(deploy: Callable[..., Deployment]) -> Repository:
    repository = deploy().repository
    Remote(repository, "origin", timeout_s=20).push(repository.head() or "")
    return repository


def _find(repository: Repository) -> Found | None:
    with Ledger(remotes_directory(repository.path)).claim("origin") as claim:
        assert claim
        return find(repository, claim, timeout_s=20)


@pytest.mark.parametrize(
    ("count", "poison"), [(1, (0,)), (2, (1,)), (9, (0,)), (9, (4,)), (9, (8,)), (9, (3, 7)), (32, (17,))]
)
def test_the_first_commit_that_is_refused_is_named(
    repository: Repository, data: Bare, remote: Bare, count: int, poison: tuple[int, ...]
):
    before, commits = remote.head(), _commits(data, count, poison=poison)
    remote.hook("pre-receive", _RULE)

    found = _find(repository)

    assert found is not None
    assert found.commit is not None
    assert found.commit.hash == commits[poison[0]]
    assert (found.pending, found.behind) == (count, count - 1 - poison[0])
    assert found.verdict.reason == "rejected"
    assert found.asked <= 3 + count.bit_length()
    assert remote.head() == before
    assert _branches(remote) == "refs/heads/main", "the scratch branch is gone"


def test_its_records_are_named(repository: Repository, data: Bare, remote: Bare, tmp_path):
    work = tmp_path / "work"
    data.git("worktree", "add", "-q", "--detach", str(work), "main")
    (work / "people" / "über.toml").write_text('name = "U"\nslug = "u"\n')
    Bare(work).git("add", ".")
    Bare(work).git("commit", "-qm", "POISON")
    data.git("update-ref", "refs/heads/main", Bare(work).git("rev-parse", "HEAD"))
    remote.hook("pre-receive", _RULE)
    found = _find(repository)
    assert found is not None
    assert found.files == ("people/über.toml",)
    assert found.as_json()["records"] == ["people/über.toml"]


def test_a_rule_about_the_branch_itself_blames_no_commit(repository: Repository, data: Bare, remote: Bare):
    _commits(data, 5, poison=())
    remote.hook("update", 'case $1 in refs/heads/main) echo "main is protected"; exit 1 ;; esac')
    found = _find(repository)
    assert found is not None
    assert (found.commit, found.pending, found.asked) == (None, 5, 2)
    assert _branches(remote) == "refs/heads/main"


def test_a_remote_that_takes_no_other_branch_cannot_be_asked(
    repository: Repository, data: Bare, remote: Bare
):
    _commits(data, 2, poison=(0,))
    remote.hook("update", 'case $1 in refs/heads/main) ;; *) echo "only main"; exit 1 ;; esac')
    with pytest.raises(PoisonError, match="only main"):
        _find(repository)


def test_a_remote_that_does_not_answer_is_an_error(
    repository: Repository, data: Bare, remote: Bare, tmp_path
):
    _commits(data, 2, poison=())
    remote.path.rename(tmp_path / "away.git")
    with pytest.raises(Exception, match="origin did not list main"):
        _find(repository)


def test_nothing_pending_is_nothing_to_find(repository: Repository):
    assert _find(repository) is None


def test_a_remote_that_was_never_pushed_to_can_be_asked(data: Bare, remote: Bare, deploy):
    repository = deploy().repository
    remote.hook("pre-receive", _RULE)
    [commit] = _commits(data, 1, poison=(0,))
    found = _find(repository)
    assert found is not None
    assert found.commit is not None
    assert found.commit.hash == commit
    assert _branches(remote) == ""


def test_what_a_search_that_was_killed_left_is_removed(repository: Repository, data: Bare, remote: Bare):
    commits = _commits(data, 4, poison=(2,))
    remote.git("update-ref", "refs/heads/ferry-find/main", "main")
    remote.hook("pre-receive", _RULE)
    found = _find(repository)
    assert found is not None
    assert found.commit is not None
    assert found.commit.hash == commits[2]
    assert _branches(remote) == "refs/heads/main"


def test_a_branch_that_went_apart_as_well_is_searched_from_where_it_did(
    repository: Repository, data: Bare, remote: Bare
):
    remote.commit("theirs")
    commits = _commits(data, 3, poison=(1,))
    remote.hook("pre-receive", _RULE)
    found = _find(repository)
    assert found is not None
    assert found.commit is not None
    assert found.commit.hash == commits[1]
