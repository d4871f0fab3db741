"""
The branches that Ferry made to keep commits safe, and their removal once nothing hangs on them.

A divergence leaves ``rescue/BRANCH-UTC`` on the remote (see ``ferry.worker.repair.rescue``), and a rebase
``conflicts/UTC`` there and here. Such a branch may go when the branch itself contains its commit. It is
removed only where it still stands there, and never by force.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from ferry.worker.errors import ReconcileError
from ferry.worker.git.remote import Remote
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.ledger.operators import Operator, remember
from ferry.worker.observe.logs import log
from ferry.worker.settings import ORIGIN

_UTC = r"\d{8}T\d{6}Z"  # as ``compact_utc`` writes it
HERE = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """
    One branch that keeps commits safe.

    Attributes:
        remote: Name of the remote that has it; ``HERE`` for the data repository.
        branch: Its short name.
        commit: The commit that it holds.
        is_contained: Whether the branch that Ferry pushes contains that commit, on the same side.
    """

    remote: str
    branch: str
    commit: str
    is_contained: bool


def kept_branches(repository: Repository, remote: str, *, timeout_s: float) -> list[Kept]:
    """
    Return the branches that Ferry made on *remote*, or in the data repository itself, by name.

    Args:
        remote: Name of a configured remote, or ``HERE``.
        timeout_s: Seconds until the remote counts as not answering.

    Raises:
        RepositoryError: It did not answer.
    """
    if remote == HERE:
        listed = repository.git.query("for-each-ref", "--format=%(objectname)\t%(refname)", "refs/heads")
        heads = dict(line.split("\t")[::-1] for line in listed.splitlines())
    else:
        patterns = (repository.ref, "refs/heads/rescue/*", "refs/heads/conflicts/*")
        heads = Remote(repository, remote, timeout_s=timeout_s).heads(*patterns)
    made = re.compile(rf"refs/heads/(rescue/{re.escape(repository.branch)}-{_UTC}|conflicts/{_UTC})")
    tip = heads.get(repository.ref)
    return [
        Kept(
            remote=remote,
            branch=found[1],
            commit=commit,
            is_contained=tip is not None and repository.contains(commit, tip),
        )
        for ref, commit in sorted(heads.items())
        if (found := made.fullmatch(ref))
    ]


def remove(repository: Repository, ledger: Ledger, kept: Kept, *, by: Operator, timeout_s: float) -> None:
    """
    Remove a branch that *kept_branches* has just returned.

    Raises:
        ReconcileError: It holds commits that the branch lacks, has moved, or the remote refuses.
        RepositoryError: git could not.
    """
    if not kept.is_contained:
        raise ReconcileError(f"{kept.branch} holds commits that {repository.branch} lacks; it is kept")
    if kept.remote == HERE:
        repository.remove_ref(f"refs/heads/{kept.branch}", expected=kept.commit)
    else:
        there = Remote(repository, kept.remote, timeout_s=timeout_s)
        verdict = there.remove_branch(kept.branch, expected=kept.commit).verdict
        if not verdict.landed:
            said = verdict.evidence or verdict.reason
            raise ReconcileError(f"{kept.remote} did not remove {kept.branch}: {said}")
    where = f"on {kept.remote}" if kept.remote else "here"
    log().info(
        "reconcile.branch_removed",
        remote=kept.remote,
        branch=kept.branch,
        commit=kept.commit,
        by=by.who,
        why=by.why,
    )
    detail = f"{kept.branch} {where}, at {kept.commit}"
    remember(ledger, kept.remote or ORIGIN, "branch-removed", by, now=time.time(), detail=detail)
