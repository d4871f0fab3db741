"""
What a remote lacks is counted once, and is what git says it is, however branch and remote move.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from ferry.worker.errors import RepositoryError
from ferry.worker.git import backlog
from ferry.worker.git.repository import Repository
from tests.line import Deployment
from tests.parts import Bare

Asked = list[tuple[str, ...]]


@pytest.fixture
def repository(deployment: Deployment) -> Repository:
    return deployment.repository


def test_a_remote_that_was_never_reached_lacks_everything(repository: Repository, data: Bare, asked: Asked):
    """
    git is asked at the first look; what comes later is added.
    """
    data.grow(2000)
    commits = data.git("rev-list", "main").split()

    found = repository.backlog("origin")
    assert (len(found), found.seen) == (len(commits), None)
    assert all(commit in found for commit in commits[:3] + commits[-3:])
    assert found.oldest_at == repository.commit_time(commits[-1])

    asked.clear()
    later = [data.commit(f"later {number}") for number in range(3)]
    found = repository.backlog("origin")
    assert len(repository.backlog("origin")) == len(found) == len(commits) + 3
    assert later[-1] in found
    assert asked == []


def test_a_remote_that_fell_behind_long_ago_is_counted_once(
    repository: Repository, data: Bare, asked: Asked, monkeypatch: pytest.MonkeyPatch
):
    repository.saw_on_remote("origin", data.head() or "")
    pushed = data.head()
    data.grow(2000)
    assert len(repository.backlog("origin")) == 2000

    asked.clear()
    later = data.commit("later")
    found = repository.backlog("origin")
    assert (len(found), later in found, pushed in found) == (2001, True, False)
    assert asked == []

    monkeypatch.setattr(backlog, "MOST_NAMES", 100)
    found = Repository(repository.path, branch="main").backlog("origin")
    assert (found.names, len(found), later in found, pushed in found) == (None, 2001, True, False)


def test_however_branch_and_remote_move_git_says_the_same(repository: Repository, data: Bare):
    """
    Forward, back, aside and together again.
    """
    chance = random.Random(5)  # noqa: S311 - the same at each run
    known = [data.commit(f"commit {number}") for number in range(3)]
    for step in range(60):
        base, other = chance.choice(known), chance.choice(known)
        parents = ["-p", base] if chance.random() < 0.7 or base == other else ["-p", base, "-p", other]
        known.append(data.git("commit-tree", *parents, "-m", f"step {step}", "main^{tree}"))
        if chance.random() < 0.6:
            data.git("update-ref", "refs/heads/main", known[-1])
        if chance.random() < 0.4:
            data.git("update-ref", "refs/remotes/origin/main", chance.choice(known))
        seen = repository.remote_head("origin")
        lacked = data.git("rev-list", "main", *([f"^{seen}"] if seen else [])).split()

        found = repository.backlog("origin")

        assert len(found) == len(lacked)
        held = set(data.git("rev-list", seen).split()) if seen else set()
        assert {each for each in known if found.has_arrived(each) and each not in found} <= held
        assert bool(found) == bool(lacked)
        ours = data.git("rev-list", "main").split()
        assert {commit for commit in ours if commit in found} == set(lacked)
        assert (found.oldest_at is None) == (not lacked)


def test_what_arrives_together_is_known_without_git(repository: Repository, data: Bare, asked: Asked):
    """
    A thousand writers may wait for one push.
    """
    repository.saw_on_remote("origin", data.head() or "")
    data.grow(300)
    commits = data.git("rev-list", "--max-count=300", "main").split()
    assert all(commit in repository.backlog("origin") for commit in commits)
    for seen in (commits[200], commits[0]):
        repository.saw_on_remote("origin", seen)
        found = repository.backlog("origin")
        asked.clear()
        has, lacks = commits[commits.index(seen) :], commits[: commits.index(seen)]
        assert all(found.has_arrived(commit) and commit not in found for commit in has)
        assert all(commit in found and not found.has_arrived(commit) for commit in lacks)
        assert asked == []

    data.commit("one more")
    assert repository.backlog("origin").has_arrived(commits[0])
    assert len(repository.backlog("origin")) == 1
    data.git("update-ref", "refs/heads/main", f"{commits[100]}")
    later = data.commit("another line")
    assert later in repository.backlog("origin")
    assert not repository.backlog("origin").has_arrived(commits[0]), "it is no longer on the branch"


def test_what_git_cannot_tell_is_an_error_each_time(repository: Repository, data: Bare):
    data.commit("one")
    damaged = data.git("commit-tree", "-p", "main", "-m", "gone", "main^{tree}")
    later = data.git("commit-tree", "-p", damaged, "-m", "later", "main^{tree}")
    (data.path / "objects" / damaged[:2] / damaged[2:]).unlink()
    (data.path / "refs" / "heads" / "main").write_text(f"{later}\n")

    for _ in range(2):
        with pytest.raises(RepositoryError):
            repository.backlog("origin")


def test_an_empty_branch_lacks_nothing(tmp_path, deploy: Callable[..., Deployment]):
    empty = Repository(Bare.init(tmp_path / "empty.git").path, branch="main")
    assert (len(empty.backlog("origin")), empty.backlog("origin").oldest_at) == (0, None)
