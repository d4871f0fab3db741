"""
Looking once more, where a claim was let go of: the holder owes it to the tasks that met it.

A task that finds its remote claimed hands its commit over and ends. The claim may have been
held for anything: a push that was refused, a look at the remote, a page, a pause, a reconcile. So
every claim ends here, and a push is queued where the branch holds what no attempt has tried.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.observe.logs import log
from ferry.worker.turn import Facts, Turn, whose_turn

_DUE_S = 1.0  # a retry that is due this soon is about to come


class Handover:
    """
    Queues a push for commits that were handed over to a holder which has let go.

    Args:
        repository: The data repository.
        ledger: What was tried, and what is scheduled.
        send: Queues a push of a commit to a remote.
    """

    def __init__(self, repository: Repository, ledger: Ledger, send: Callable[[str, str], None]) -> None:
        self._repository = repository
        self._ledger = ledger
        self._send = send

    def look_again(self, remote: str) -> None:
        """
        Queue a push to *remote*, if it lacks commits that no attempt has tried. Never raises.
        """
        try:
            if (commit := self._untried(remote)) is not None:
                self._send(remote, commit)
        except Exception as exc:  # noqa: BLE001
            # The claim was held for something that has its own result or error, which this
            # must not replace. The sweep finds what is not queued here.
            log().warning("push.not_handed_over", remote=remote, error=str(exc))

    def _untried(self, remote: str) -> str | None:
        head = self._repository.head()
        if head is None or self._repository.is_pushed(remote, head):
            return None
        entry = self._ledger.read(remote)
        # Another holder looks again itself.
        facts = Facts(
            pending=True, claimed=self._ledger.is_claimed(remote), occasion="commit", grace_s=_DUE_S
        )
        is_free = whose_turn(entry, facts, time.time()) is Turn.FREE
        return head if is_free and entry.tried != head else None
