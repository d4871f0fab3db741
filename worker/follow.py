"""
Taking over the commits that people push to origin, such as merged pull requests.

Every ``CFP_DATA_FOLLOW_INTERVAL`` seconds, and when a webhook or an operator asks for it, a task asks origin
for its branch and fetches the commits that we lack. If origin has all of our commits, the branch is
fast-forwarded. If both sides have commits of their own, the branch stays as it is: origin refuses the next
push, which reports the divergence.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ferry.worker.errors import LedgerError, ReconcileError, RepositoryError
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.entry import Entry
from ferry.worker.ledger.ledger import Claim, Ledger
from ferry.worker.observe.logs import NOTHING_TO_DO, log
from ferry.worker.repair.look import look
from ferry.worker.repair.reconcile import Reconciler
from ferry.worker.settings import ORIGIN, Settings

NO_ORIGIN = "no origin is configured"
OUTDATED = "origin has a new address, which this worker does not know: restart the worker"
LOOKED = "another task has looked since this one was queued"
CLAIMED = "another process holds the claim on origin, and looks itself"
PAUSED = "an operator has paused origin"
FAILING = "pushes to origin fail, and they look themselves"
UNREADABLE = "the ledger cannot be read: the next look tries again"
FAILED = "nothing was taken over: the log has the error"
LEVEL = NOTHING_TO_DO
APART = "both sides have commits: the next push reports the divergence"


class Follower:
    """
    Takes over the commits that others pushed to origin.

    Args:
        settings: Timeouts and remotes.
        repository: The data repository.
        ledger: The ledger, which has an entry for origin.
        reconciler: Moves the branch.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        ledger: Ledger,
        reconciler: Reconciler,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._ledger = ledger
        self._reconciler = reconciler
        self._clock = clock

    def follow(self, *, is_noted: bool = False) -> str:
        """
        Look at origin, and take over the commits that we lack; return the outcome in a few words.

        Args:
            is_noted: Whether a nudge in the ledger asks for this look. If another look has taken the nudge
                already, this one ends at once.
        """
        if ORIGIN not in self._settings.remotes:
            return NO_ORIGIN
        if not self._repository.is_current(ORIGIN):
            return OUTDATED
        try:
            return self._follow(is_noted=is_noted)
        except LedgerError as exc:
            log().error("ledger.unreadable", remote=ORIGIN, error=str(exc))
            return UNREADABLE

    def is_nudged(self) -> bool:
        """
        Whether a nudge waits for a look: none has followed it yet, or the look has failed.
        """
        return ORIGIN in self._settings.remotes and self._ledger.is_nudged(ORIGIN)

    def _follow(self, *, is_noted: bool) -> str:
        with self._ledger.claim(ORIGIN) as claim:
            if claim is None:
                return CLAIMED  # after a nudge, the holder queues another look when it ends
            if not claim.take_nudge() and is_noted:
                return LOOKED
            if (why_not := self._stands_back(claim.entry)) is not None:
                if why_not == FAILING:
                    claim.spend_nudge()  # a push looks
                return why_not
            claim.write(looked_at=self._clock())
            try:
                outcome = self._look(claim)
                claim.spend_nudge()
                return outcome
            except (RepositoryError, ReconcileError) as exc:
                # This is not a failed push. The status shows when origin was last seen.
                log().warning("follow.failed", remote=ORIGIN, error=str(exc))
                return FAILED

    def _look(self, claim: Claim) -> str:
        repository, timeout_s = self._repository, self._settings.push_timeout_s
        tip = look(claim, repository, timeout_s=timeout_s, now=self._clock()).tip
        outcome = self._reconciler.take_over(claim, tip)
        if outcome is not None and outcome.is_joined:
            return f"{outcome.state}: {outcome.after}"
        return LEVEL if tip is None or repository.contains(tip, repository.head()) else APART

    def _stands_back(self, entry: Entry) -> str | None:
        """
        Return why this task does not look at origin; None if it does.
        """
        if entry.is_paused(self._clock()):
            return PAUSED
        is_looked_at = entry.last_failure is not None and self._repository.pushes
        return FAILING if is_looked_at else None
