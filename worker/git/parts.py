"""
Pushing a large backlog in parts, each small enough for the push timeout.

Every ancestor of the branch that contains the remote's tip is a fast-forward there. So after a push that
exceeded its timeout, the next push sends half as many commits, and so on until one lands; after a push that
lands quickly, the next sends twice as many. The ledger stores the size. A single commit cannot be divided:
its timeout is the time that it needs on the slowest link.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace

from ferry.worker.errors import RepositoryError
from ferry.worker.failures import Verdict
from ferry.worker.git.inventory import bytes_between
from ferry.worker.git.repository import Repository

_SLOWEST_BYTES_PER_S = 4096  # 32 kbit/s; on a slower link a large commit needs a longer CFP_PUSH_TIMEOUT
_LONGEST_S = 6 * 3600.0
# After a part that took less than this share of its timeout, the next may be twice as large.
_QUICK = 0.25
# A push that a proxy or a link cut off after this share of the timeout counts as too large, too.
_CUT_OFF = 0.25
_CUT_OFF_REASONS = frozenset({"network", "server"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """
    The commits that one push sends.

    Attributes:
        commit: The commit that the remote's branch is to move to.
        commits: How many commits of the branch's first-parent history that sends; None: not counted.
        timeout_s: Seconds that the push may take.
    """

    commit: str
    commits: int | None = None
    timeout_s: float

    def next_size(self, duration_s: float) -> int | None:
        """
        Return how many commits the next push may send, after this part has landed in *duration_s* seconds.
        """
        if self.commits is None:
            return None
        return self.commits * (2 if duration_s < _QUICK * self.timeout_s else 1)


class Parts:
    """
    Divides the commits that a remote lacks.

    Args:
        repository: The data repository.
        timeout_s: Seconds that a push may take.
    """

    def __init__(self, repository: Repository, timeout_s: float) -> None:
        self._repository = repository
        self._timeout_s = timeout_s

    def first(self, seen: str | None, head: str, size: int | None) -> Part:
        """
        Return the first part of the commits that *head* has and *seen* lacks.

        Args:
            seen: The tip of the remote's branch; None if there is no such branch.
            size: The most commits of the part; None: all.

        Raises:
            RepositoryError: git failed.
        """
        if size is None:
            return Part(commit=head, timeout_s=self._timeout_s)
        line = self._line(seen, head)[:size]
        commit = line[-1] if line else head
        timeout_s = self._timeout_s if size > 1 else max(self._timeout_s, self._slowest_s(seen, commit))
        return Part(commit=commit, commits=len(line) or 1, timeout_s=timeout_s)

    def cut_short(self, part: Part, seen: str | None, verdict: Verdict, duration_s: float) -> Part | None:
        """
        Return *part*, with its commits counted, if its push ran out of time; None if it failed for another
        reason.

        Raises:
            RepositoryError: git failed.
        """
        is_late = duration_s >= _CUT_OFF * part.timeout_s
        if verdict.reason != "timeout" and not (is_late and verdict.reason in _CUT_OFF_REASONS):
            return None
        return replace(part, commits=part.commits or len(self._line(seen, part.commit)) or 1)

    def _line(self, seen: str | None, head: str) -> list[str]:
        """
        Return the commits of the branch's first-parent history that contain *seen*, oldest first.

        A commit of a merged side branch cannot be pushed alone: it is no fast-forward. All commits after the
        first one that contains *seen* contain it too.
        """
        line = self._repository.commits_between(seen, head, first_parents=True)[::-1]
        if seen is None:
            return line
        return line[bisect_left(line, True, key=lambda commit: self._repository.contains(seen, commit)) :]

    def _slowest_s(self, seen: str | None, commit: str) -> float:
        try:
            size_bytes = bytes_between(self._repository.git, seen, commit)
        except RepositoryError:
            return self._timeout_s
        return min(size_bytes / _SLOWEST_BYTES_PER_S, _LONGEST_S)
