"""
Finding the commit that a remote refuses, among all that wait behind it.

A push is refused as a whole: the remote does not say which commit breaks its
rule. So it is asked about ever fewer of them, by halves, on a scratch branch
that is removed again. Where it takes the last one there, the rule is about the
branch and no commit is to blame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ferry.worker.errors import RepositoryError
from ferry.worker.failures import Verdict
from ferry.worker.git.history import Commit
from ferry.worker.git.remote import Remote, ended_within_s
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """
    What asking in halves came to.

    Attributes:
        remote: Name of the remote.
        pending: How many commits wait.
        commit: The first that is refused; None where the remote refuses none of them.
        files: What it changes.
        verdict: Why it is refused; what became of the last commit where none is.
        asked: How many pushes to the scratch branch it took.
        behind: How many commits wait behind the one that is refused.
    """

    remote: str
    pending: int
    commit: Commit | None
    files: tuple[str, ...]
    verdict: Verdict
    asked: int
    behind: int

    def as_json(self) -> dict[str, Any]:
        """
        Return the finding as plain data; ``waiting`` counts the commits that wait behind the refused one.
        """
        return {
            "remote": self.remote,
            "pending": self.pending,
            "commit": self.commit
            and {
                "hash": self.commit.hash,
                "author": {"name": self.commit.author[0], "email": self.commit.author[1]},
                "authored_at": self.commit.authored_at,
                "message": self.commit.message,
            },
            "records": list(self.files),
            "waiting": self.behind,
            "reason": self.verdict.reason,
            "evidence": self.verdict.evidence,
            "asked": self.asked,
        }


class PoisonError(RepositoryError):
    """
    The remote cannot be asked which commit it refuses.
    """


def find(repository: Repository, claim: Claim, *, timeout_s: float) -> Found | None:
    """
    Return the first pending commit that the remote of *claim* refuses; None where nothing is pending.

    Args:
        repository: The data repository.
        claim: The claim on the remote, held meanwhile.
        timeout_s: Seconds that each push may take.

    Raises:
        PoisonError: It takes no scratch branch at all, or does not answer.
        RepositoryError: git could not.
    """
    remote = claim.remote
    claim.begin(3 * ended_within_s(timeout_s))
    at_remote = Remote(repository, remote, timeout_s=timeout_s)
    head, there = repository.head(), at_remote.ask()
    if head is None:
        return None
    if there is not None and not repository.contains(there, head):
        there = at_remote.fetch()
        if there is not None and repository.contains(head, there):
            return None
        there = there and repository.merge_base(there, head)
    if head == there:
        return None
    # Along the first parents, so that each holds all before it.
    pending = repository.commits_between(there, head, first_parents=True)[::-1]
    scratch = _Scratch(repository, claim, timeout_s)
    try:
        return _search(repository, scratch, pending, base=there)
    finally:
        scratch.remove()


def _search(repository: Repository, scratch: _Scratch, pending: list[str], *, base: str | None) -> Found:
    if base is not None and not (verdict := scratch.takes(base)).landed:
        raise PoisonError(
            f"{scratch.remote} does not take a branch {scratch.branch}, so it cannot be asked: "
            f"{verdict.evidence}"
        )
    refusal = scratch.takes(pending[-1])
    low, high = 0, len(pending) - 1  # what is before low is taken, what is at high is not
    while not refusal.landed and low < high:
        middle = (low + high) // 2
        verdict = scratch.takes(pending[middle])
        if verdict.landed:
            low = middle + 1
        else:
            high, refusal = middle, verdict
    first = None if refusal.landed else pending[high]
    return Found(
        remote=scratch.remote,
        pending=len(pending),
        commit=repository.log(first, limit=1)[0] if first else None,
        files=tuple(repository.files_of(first)) if first else (),
        verdict=refusal,
        asked=scratch.asked,
        behind=len(pending) - 1 - high if first else 0,
    )


class _Scratch:
    """
    A branch on the remote that holds what it took last.
    """

    def __init__(self, repository: Repository, claim: Claim, timeout_s: float) -> None:
        self.remote = claim.remote
        self._claim = claim
        self.branch = f"ferry-find/{repository.branch}"
        self.asked = 0
        self._timeout_s = timeout_s
        self._there = Remote(repository, self.remote, timeout_s=timeout_s)
        self._at = self._there.ask(branch=self.branch)
        self.remove()  # what a search that was killed has left

    def takes(self, commit: str) -> Verdict:
        """
        Push *commit*; returns what the remote made of it.

        Raises:
            PoisonError: It neither took nor refused it.
        """
        self.asked += 1
        self._claim.begin(2 * ended_within_s(self._timeout_s))
        with self._claim.pushing() as noted:
            verdict = self._there.push(commit, branch=self.branch, noted=noted).verdict
        if verdict.landed:
            self._at = commit
        elif verdict.reason != "rejected":
            raise PoisonError(f"{self.remote} did not say yes or no: {verdict.reason}: {verdict.evidence}")
        return verdict

    def remove(self) -> None:
        """
        Remove the branch, if it is there.

        Raises:
            PoisonError: The remote keeps it.
        """
        if self._at is None:
            return
        verdict = self._there.remove_branch(self.branch, expected=self._at).verdict
        if not verdict.landed:
            raise PoisonError(f"{self.remote} keeps the branch {self.branch}, remove it: {verdict.evidence}")
        self._at = None
