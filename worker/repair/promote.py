"""
Making a repository the primary: it takes over what origin has, and fences the one that was the primary.
"""

from __future__ import annotations

import time

from ferry.worker.errors import ReconcileError, RepositoryError
from ferry.worker.git.remote import Remote, ended_within_s
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Claim, Ledger
from ferry.worker.ledger.operators import Operator, remember
from ferry.worker.observe.logs import log
from ferry.worker.repair.fence import lift, make_fence
from ferry.worker.repair.look import look
from ferry.worker.repair.reconcile import JOIN_S, Reconciler
from ferry.worker.settings import ORIGIN, Settings

_TRIES = 5


class Promoter:
    """
    Makes one repository the primary.

    Args:
        settings: Timeouts.
        repository: The one that becomes the primary; it may be a replica's until then.
        ledger: Whose claim keeps pushes away meanwhile.
        reconciler: What moves the branch.
    """

    def __init__(
        self, settings: Settings, repository: Repository, ledger: Ledger, reconciler: Reconciler
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._ledger = ledger
        self._reconciler = reconciler

    def promote(self, *, force: bool, by: Operator) -> str:
        """
        Take over what origin has and put the fence on top, here and there; returns the fence's name.

        Args:
            force: Whether to try again where origin moves meanwhile, since the old primary still pushes.

        Raises:
            ReconcileError: Both sides have commits, or origin moves or refuses. Nothing was changed here.
            RemoteBusyError, RepositoryError: Origin does not answer, or git could not.
        """
        with self._ledger.claim_within(ORIGIN, ended_within_s(self._settings.push_timeout_s)) as claim:
            self._repository.pushes = True  # of this process's: a replica's settings say that it may not
            for _ in range(_TRIES if force else 1):
                if (fence := self._fenced(claim)) is not None:
                    lift(self._repository)
                    self._tell(fence, by)
                    return fence
        raise ReconcileError(
            "origin's branch moved meanwhile: the old primary still pushes. Stop it, or repeat with --force"
        )

    def _fenced(self, claim: Claim) -> str | None:
        """
        Put the fence on origin and take it over; returns its name, or None where origin has moved.
        """
        repository, timeout_s = self._repository, self._settings.push_timeout_s
        tip = look(claim, repository, timeout_s=timeout_s, now=time.time()).tip
        head = repository.head()
        if tip is None:
            raise ReconcileError(f"origin has no branch {repository.branch}: push to it first")
        if head is not None and not repository.contains(head, tip):
            raise ReconcileError(
                "this repository has commits that origin lacks: push them, or join both, with ferry reconcile"
            )
        try:
            fence = make_fence(repository, tip, seconds=int(time.time()))
        except OSError as exc:
            raise RepositoryError(f"cannot promote: {exc}") from exc
        claim.begin(ended_within_s(timeout_s) + JOIN_S)
        with claim.pushing() as noted:
            verdict = Remote(repository, ORIGIN, timeout_s=timeout_s).push(fence, noted=noted).verdict
        claim.write()
        if verdict.reason == "non-fast-forward":
            return None
        if not (verdict.landed or (verdict.ambiguous and self._has_come(claim, fence))):
            raise ReconcileError(f"origin did not take the fence: {verdict.evidence or verdict.reason}")
        joined = self._reconciler.fast_forward(ORIGIN, fence)
        if not joined.is_joined:
            raise ReconcileError(
                f"origin has the fence {fence}, and this branch does not: {joined.detail}. "
                "Join both, with ferry reconcile, and repeat this"
            )
        return fence

    def _has_come(self, claim: Claim, fence: str) -> bool:
        """
        Ask origin whether a push whose outcome git does not know has landed.
        """
        tip = look(claim, self._repository, timeout_s=self._settings.push_timeout_s, now=time.time()).tip
        return tip is not None and self._repository.contains(fence, tip)

    def _tell(self, fence: str, by: Operator) -> None:
        log().info("primary.promoted", commit=fence, by=by.who, why=by.why)
        remember(self._ledger, ORIGIN, "promoted", by, now=time.time(), detail=f"the fence is {fence}")
