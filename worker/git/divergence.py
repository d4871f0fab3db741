"""
The two sides of a divergence, for the operator who reconciles them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ferry.worker.git.history import Commit, History

# The most that an operator is shown; the counts are of all of them.
_SHOWN = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """
    One side of a divergence.

    Attributes:
        head: Its commit.
        count: How many commits it has that the other lacks.
        commits: The newest of them, at most fifty.
        files: Paths of the records and other files that it changed since the merge base.
    """

    head: str
    count: int
    commits: tuple[Commit, ...]
    files: frozenset[str]

    @property
    def authors(self) -> list[str]:
        """
        The authors of those commits, each once, as ``Name <address>``.
        """
        return sorted({f"{name} <{email}>" for name, email in (commit.author for commit in self.commits)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """
    The merge base of two commits, and what each side did since.

    Attributes:
        base: The merge base; None if they share no history.
        ours: Our branch.
        theirs: The remote's.
    """

    base: str | None
    ours: Side
    theirs: Side

    @property
    def files(self) -> list[str]:
        """
        Paths that a side changed, sorted.
        """
        return sorted(self.ours.files | self.theirs.files)

    @property
    def touched_by_both(self) -> list[str]:
        """
        Paths that both sides changed, sorted; only these can conflict.
        """
        return sorted(self.ours.files & self.theirs.files)

    def as_json(self) -> dict[str, Any]:
        """
        Return the divergence as plain data.
        """
        return {
            "merge_base": self.base,
            "ahead": self.ours.count,
            "behind": self.theirs.count,
            "ours": _side(self.ours),
            "theirs": _side(self.theirs),
            "touched_by_both": self.touched_by_both,
        }


def survey(repository: History, ours: str, theirs: str) -> Divergence:
    """
    Compare two commits that are both in *repository*.

    Raises:
        RepositoryError: git failed.
    """
    base = repository.merge_base(ours, theirs)
    return Divergence(
        base=base,
        ours=_look(repository, ours, other=theirs, base=base),
        theirs=_look(repository, theirs, other=ours, base=base),
    )


def _look(repository: History, head: str, *, other: str, base: str | None) -> Side:
    return Side(
        head=head,
        count=repository.count_between(other, head),
        commits=tuple(repository.log(head, limit=_SHOWN, without=other)),
        files=frozenset(repository.files_changed(base, head)) if base else frozenset(),
    )


def _side(side: Side) -> dict[str, Any]:
    return {
        "head": side.head,
        "commits": [
            {
                "hash": commit.hash,
                "author": {"name": commit.author[0], "email": commit.author[1]},
                "authored_at": commit.authored_at,
                "subject": commit.subject,
            }
            for commit in side.commits
        ],
        "files": sorted(side.files),
    }
