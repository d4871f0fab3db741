"""
The commits that each remote lacks: counted once, and updated when the branch or the remote moves.

git counts all of them the first time in a process, and when a remote has moved past many commits. Every later
answer looks only at the commits since the previous one, however long the outage and the history.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace

from ferry.worker.git.history import History

MOST_NAMES = 100_000  # names kept for each remote: 10 MB
_FEW_NAMES = 2000  # names searched at each push


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """
    The commits that a remote lacks, at one moment.

    Attributes:
        head: The branch's tip here; None: it has no commit.
        seen: The branch's tip on the remote when last seen; None: not known, so every commit counts as
            lacking.
        count: How many commits it lacks.
        oldest_at: When the oldest of these commits was made, in seconds since the epoch; None: there is none.
        behind: How many commits the remote has that the branch lacks.
        names: The names of these commits, and maybe of later ones; None: too many to keep, or the whole
            branch.
        arrived: The names of some of the branch's commits that the remote lacked before and has now.
    """

    log: History
    head: str | None = None
    seen: str | None = None
    count: int = 0
    oldest_at: float | None = None
    behind: int = 0
    names: set[bytes] | None = None
    arrived: frozenset[bytes] = frozenset()

    def __len__(self) -> int:
        return self.count

    def __contains__(self, commit: object) -> bool:
        """
        Whether the remote lacks *commit*, the full name of a commit of the branch.
        """
        if not self.count:
            return False
        if self.names is not None:
            return bytes.fromhex(str(commit)) in self.names
        return self.seen is None or not self.log.contains(str(commit), self.seen)

    def has_arrived(self, commit: str) -> bool:
        """
        Whether *commit* is known to have arrived; it need not be on the branch. False: ask git.
        """
        return bytes.fromhex(commit) in self.arrived


class Backlogs:
    """
    The backlog of each remote of one repository.

    Args:
        log: The repository's commits.
    """

    def __init__(self, log: History) -> None:
        self._log = log
        self._start_afresh()
        os.register_at_fork(after_in_child=self._start_afresh)  # another thread may have held the lock

    def _start_afresh(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, Backlog] = {}

    def of(self, remote: str, head: str | None, seen: str | None) -> Backlog:
        """
        Return the commits of *head* that *remote* lacks; its branch was last seen at *seen*.

        Raises:
            RepositoryError: git failed.
        """
        if head is None:
            return Backlog(log=self._log, seen=seen)
        with self._lock:  # the first call may take a while, and the second finds its result
            known = self._kept.get(remote)
            found = self._brought_forward(known, head, seen) if known is not None else None
            if found is None:
                found = self._counted(head, seen)
                if known is not None:
                    found = replace(found, arrived=self._arrived(known, found))
            self._kept[remote] = found
        return found

    def _brought_forward(self, known: Backlog, head: str, seen: str | None) -> Backlog | None:
        if known.seen != seen:
            return None
        if known.head == head:
            return known
        # In a history with merges, a merge may have brought commits that only the remote had.
        if not known.count or known.head is None or known.behind or not self._log.contains(known.head, head):
            return None
        new = self._log.commits_between(known.head, head)
        names = known.names
        if names is not None and len(names) + len(new) > MOST_NAMES:
            names = None
        elif names is not None:
            names.update(map(bytes.fromhex, new))  # an earlier backlog is asked only about its own commits
        return replace(known, head=head, count=known.count + len(new), names=names)

    def _arrived(self, known: Backlog, found: Backlog) -> frozenset[bytes]:
        """
        Return the commits that were lacking in *known* and are not in *found*, unless the branch has been set
        back.
        """
        lacked, lacks = known.names, found.names
        if (
            lacked is None
            or lacks is None
            or known.head is None
            or not self._log.contains(known.head, found.head)
        ):
            return frozenset()
        if not lacked:
            # It may hold commits that the remote lacks again; callers check `names` first.
            return known.arrived
        before = known.arrived if len(known.arrived) <= _FEW_NAMES else frozenset()
        return frozenset((before | lacked) - lacks)

    def _counted(self, head: str, seen: str | None) -> Backlog:
        found = Backlog(log=self._log, head=head, seen=seen, names=set())
        if head == seen:
            return found
        if seen is not None and not self._log.contains(seen, head):
            found = replace(found, behind=self._log.count_between(head, seen))
        if seen is None:
            count, oldest, names = self._log.count_between(None, head), self._log.root_of(head), None
        else:
            lacked = self._log.commits_between(seen, head)
            if not lacked:
                return found
            count, oldest = len(lacked), lacked[-1]
            names = {bytes.fromhex(name) for name in lacked} if count <= MOST_NAMES else None
        return replace(
            found,
            count=count,
            oldest_at=self._log.commit_time(oldest),
            names=names,
        )
