"""
Taking over what people push to origin: pull requests that they merge, commits that they push by hand.

Every ``CFP_DATA_FOLLOW_INTERVAL`` seconds, and when a webhook or an operator says so, a task asks origin
where the branch stands. Commits that we lack are fetched, and where origin has all of ours the branch is
brought forward to them. Where both sides have commits, the branch stays: the push that follows is refused,
which is told as every divergence is.
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
OUTDATED = "left to a worker that knows the new address of origin; restart this one"
LOOKED = "another task has looked since this one was asked for"
CLAIMED = "another process holds origin, and looks there itself"
PAUSED = "an operator has paused origin"
FAILING = "left to the pushes to origin, which fail and look there, too"
UNREADABLE = "left to the next look: the ledger cannot be read"
FAILED = "nothing was taken over: the log says why"
LEVEL = NOTHING_TO_DO
APART = "both sides have commits: left to a push"


class Follower:
    """
    Takes over what others pushed to origin.

    Args:
        settings: Timeouts and remotes.
        repository: The data repository.
        ledger: What is known of origin.
        reconciler: What moves the branch.
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
        Look at origin, and take over what it has and we lack; returns what came of it in a few words.

        Args:
            is_noted: Whether a nudge was noted for it: the look is another's who took that first.
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
        Whether a nudge waits that no look has followed, or whose look has failed.
        """
        return ORIGIN in self._settings.remotes and self._ledger.is_nudged(ORIGIN)

    def _follow(self, *, is_noted: bool) -> str:
        with self._ledger.claim(ORIGIN) as claim:
            if claim is None:
                return CLAIMED  # where it was nudged, the holder queues another look as it ends
            if not claim.take_nudge() and is_noted:
                return LOOKED
            if (why_not := self._stands_back(claim.entry)) is not None:
                if why_not == FAILING:
                    claim.spend_nudge()  # the pushes look
                return why_not
            claim.write(looked_at=self._clock())
            try:
                outcome = self._look(claim)
                claim.spend_nudge()
                return outcome
            except (RepositoryError, ReconcileError) as exc:
                # No push has failed: the status tells since when origin was not seen.
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
        Return why origin is not looked at now; None if it is.
        """
        if entry.is_paused(self._clock()):
            return PAUSED
        is_looked_at = entry.last_failure is not None and self._repository.pushes
        return FAILING if is_looked_at else None
