"""
The look at the branch that follows the release of a claim.

A task that finds its remote claimed hands its commit over to the holder and ends. But the holder may use the
claim for something else than a successful push: a refused push, a look, a page, a pause, a reconcile. So each
release of a claim calls this module, which queues a push if the branch has a commit that no attempt has
tried, or if an operator's task found the remote claimed. A task that looks for commits of others also ends if
it finds the remote claimed; the release queues another such task if there is a nudge.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.observe.logs import log
from ferry.worker.turns.turn import Facts, Occasion, Turn, whose_turn

_DUE_S = 1.0  # a retry that is due so soon makes the push


class Handover:
    """
    Queues a push for commits that tasks handed over to a claim's holder.

    Args:
        repository: The data repository.
        ledger: Has the last tried commit and the scheduled retry.
        send: Queues a push of a commit to a remote, for an occasion.
        follow: Queues a look at origin for commits of others; none on a replica, which has no broker: its
            process that follows finds the nudge.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        repository: Repository,
        ledger: Ledger,
        send: Callable[[str, str, Occasion], None],
        follow: Callable[[], object] = lambda: None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repository = repository
        self._ledger = ledger
        self._send = send
        self._follow = follow
        self._clock = clock

    def look_again(self, remote: str, is_asked: bool = False) -> None:
        """
        Queue a push to *remote* if it lacks commits that no attempt has tried. Never raises.

        Args:
            is_asked: Whether an operator asks for the push: it does not matter who has tried them, nor
                whether a retry is scheduled.
        """
        try:
            head = self._repository.head()
            if head is None or self._repository.is_pushed(remote, head):
                return
            if is_asked:
                self._send(remote, head, "operator")
            elif self._is_untried(remote, head):
                self._send(remote, head, "commit")
        except Exception as exc:  # noqa: BLE001
            # This error must not replace the holder's own result or error. The sweep finds what is not queued
            # here.
            log().warning("push.not_handed_over", remote=remote, error=str(exc))

    def follow_again(self, remote: str) -> None:
        """
        Queue a look at *remote* after a nudge while the claim was held. Never raises.
        """
        try:
            self._follow()
        except Exception as exc:  # noqa: BLE001 - as above; the sweep finds that it is still nudged
            log().warning("follow.not_handed_over", remote=remote, error=str(exc))

    def _is_untried(self, remote: str, head: str) -> bool:
        entry = self._ledger.read(remote)
        # Another holder looks again when it releases the claim.
        facts = Facts(
            pending=True, claimed=self._ledger.is_claimed(remote), occasion="commit", grace_s=_DUE_S
        )
        return entry.tried != head and whose_turn(entry, facts, self._clock()) is Turn.FREE
