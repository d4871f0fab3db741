"""
Branches that Ferry made are listed, and removed once the branch contains what they hold; no others ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ferry.worker.errors import ReconcileError, RepositoryError
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.operators import Operator
from ferry.worker.repair.kept import HERE, Kept, kept_branches, remove
from tests.line import Deployment
from tests.parts import Bare

UTC = "20261127T101112Z"
RESCUE, CONFLICTS = f"rescue/main-{UTC}", f"conflicts/{UTC}"
OTHERS = (f"rescue/other-{UTC}", "rescue/main-today", "conflicts/mine", f"conflicts/{UTC}-2", "main-2")


@pytest.fixture(params=["origin", HERE])
def side(request: pytest.FixtureRequest, data: Bare, remote: Bare) -> tuple[str, Bare]:
    data.commit()
    data.git("push", "--quiet", str(remote.path), "main")
    return request.param, data if request.param == HERE else remote


@pytest.fixture
def line(deploy: Callable[..., Deployment], side: tuple[str, Bare]) -> Deployment:
    return deploy()


def _listed(repository: Repository, where: str) -> dict[str, Kept]:
    return {each.branch: each for each in kept_branches(repository, where, timeout_s=20)}


def _remove(line: Deployment, kept: Kept) -> None:
    remove(line.repository, line.ledger, kept, by=Operator(who="jane@desk", why="tidy"), timeout_s=20)


def test_what_the_branch_contains_can_go_and_what_it_lacks_cannot(line: Deployment, side):
    where, bare = side
    lacking = bare.git("commit-tree", "-p", "main", "-m", "not in main", "main^{tree}")
    bare.git("branch", RESCUE, "main~1")
    bare.git("branch", CONFLICTS, lacking)
    for name in OTHERS:
        bare.git("branch", name, "main~1")

    found = _listed(line.repository, where)

    assert {name: each.is_contained for name, each in found.items()} == {RESCUE: True, CONFLICTS: False}
    _remove(line, found[RESCUE])
    with pytest.raises(ReconcileError, match="holds commits that main lacks"):
        _remove(line, found[CONFLICTS])
    [event] = line.ledger.happened("origin")
    assert (event.kind, event.by, event.why) == ("branch-removed", "jane@desk", "tidy")
    assert RESCUE in event.detail
    heads = bare.git("for-each-ref", "--format=%(refname:short)", "refs/heads").split()
    assert sorted(heads) == sorted([*OTHERS, CONFLICTS, "main"])


def test_a_branch_that_moved_since_it_was_listed_stays(line: Deployment, side):
    where, bare = side
    bare.git("branch", RESCUE, "main~1")
    found = _listed(line.repository, where)[RESCUE]
    moved = bare.git("commit-tree", "-p", "main", "-m", "later", "main^{tree}")
    bare.git("update-ref", f"refs/heads/{RESCUE}", moved)
    with pytest.raises((ReconcileError, RepositoryError)):
        _remove(line, found)
    assert bare.git("rev-parse", RESCUE) == moved


def test_a_remote_that_refuses_or_does_not_answer_is_said_to(deploy, data: Bare, remote: Bare, tmp_path):
    line = deploy()
    data.git("push", "--quiet", str(remote.path), "main", f"main:{RESCUE}")
    remote.git("config", "receive.denyDeletes", "true")
    found = _listed(line.repository, "origin")[RESCUE]
    with pytest.raises(ReconcileError, match="denying ref deletion"):
        _remove(line, found)
    assert remote.git("rev-parse", RESCUE)
    remote.path.rename(tmp_path / "away.git")
    with pytest.raises(RepositoryError, match="origin"):
        _listed(line.repository, "origin")
    with pytest.raises(ReconcileError):
        _remove(line, replace(found, commit="0" * 40))
