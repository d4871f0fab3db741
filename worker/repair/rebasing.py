"""
A rebase of our commits, made beside the branch.

gitsheets rebases a branch by moving it. So it gets a repository of its own over the same objects, whose one
branch is no one's.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import gitsheets

from ferry.worker.errors import RepositoryError
from ferry.worker.files.places import rebase_view
from ferry.worker.files.sharing import share_all
from ferry.worker.git.prepare import COMMITTER
from ferry.worker.git.repository import Repository

_SCRATCH_REF = "refs/heads/scratch"
_FORMER_SCRATCH_REF = "refs/ferry/reconcile"  # of earlier releases, in the data repository itself


def rebased(repository: Repository, ours: str, theirs: str, seconds: int) -> str | None:
    """
    Return our last commit as it is on top of *theirs*, or None where one of ours conflicts.

    Args:
        seconds: Since the epoch, for the commits.

    Raises:
        SigningError: The key that signs commits cannot.
        RepositoryError: The disk refused.
    """
    with suppress(RepositoryError):  # it is in nobody's way
        repository.remove_ref(_FORMER_SCRATCH_REF)
    try:
        scratch = _scratch(repository.path, ours)
        found = gitsheets.sync_branch(
            str(scratch), _SCRATCH_REF, theirs, seconds, on_conflict="fail",
            committer=repository.objects.committer.identity or COMMITTER,
        )  # fmt: skip
        return _signed(repository, theirs, found["new_commit"]) if found["outcome"] == "rebased" else None
    except gitsheets.GitsheetsError:  # no common history
        return None
    except OSError as exc:
        raise RepositoryError(f"cannot reconcile: {exc}") from exc


def _signed(repository: Repository, theirs: str, tip: str) -> str:
    """
    Return *tip* with each commit since *theirs* signed, where a key signs.
    """
    if repository.objects.committer.key_path is None:
        return tip
    made: dict[str, str] = {}
    for commit in reversed(repository.commits_between(theirs, tip)):
        made[commit] = repository.objects.commit_again(commit, made)
    return made[tip]


def _scratch(path: Path, head: str) -> Path:
    """
    Make a repository over the objects of the one at *path* whose one ref is at *head*.

    A ref that a killed rebase leaves there concerns neither git nor the next rebase.
    """
    scratch = rebase_view(path)
    shutil.rmtree(scratch, ignore_errors=True)
    ref = scratch / _SCRATCH_REF
    ref.parent.mkdir(parents=True)
    ref.write_text(f"{head}\n")
    (scratch / "HEAD").write_text(f"ref: {_SCRATCH_REF}\n")
    (scratch / "config").write_text("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")
    (scratch / "objects").symlink_to("../../objects")
    share_all(str(path), scratch)
    return scratch
