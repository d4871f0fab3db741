"""
Paging for a pipeline that does nothing, because a dead worker cannot page for itself.

Commits wait, no retry is scheduled, and nobody has tried for longer than two
sweeps: then the worker, beat or the broker is away. Every API process looks, and
so does every sweep; the ledger sees to it that one page is sent.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from worker.episodes import Episodes, Told
from worker.errors import PushFailed, RepositoryError
from worker.failures import POLICIES, Reason
from worker.git import Repository
from worker.ledger import Entry, Ledger
from worker.logs import log
from worker.settings import Settings

_REASON: Reason = "stalled"
_SWEEPS = 2


class Watchdog:
    """
    Looks whether commits wait that nobody sees to.

    Args:
        settings: Remotes and the sweep's interval.
        repository: The data repository.
        ledger: When somebody last tried.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        ledger: Ledger,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._ledger = ledger
        self._clock = clock
        self._episodes = Episodes(repository, ledger, clock)
        self._patience_s = _SWEEPS * settings.push_sweep_interval_s
        # What waited before this process began is given the time that a worker needs to begin too.
        self._watching_since = clock()
        self._stopped = threading.Event()

    def check(self) -> list[str]:
        """
        Page for each remote that stalls, once; returns their names.
        """
        return [remote for remote in self._settings.remotes if self._stalls(remote) and self._report(remote)]

    def watch(self) -> None:
        """
        Check once per sweep interval from now on, in a thread of this process and of each that it forks.
        """
        os.register_at_fork(after_in_child=self._start)
        self._start()

    def stop(self) -> None:
        """
        End the watching of this process, at the next look.
        """
        self._stopped.set()

    def _start(self) -> None:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        while not self._stopped.wait(self._settings.push_sweep_interval_s):
            try:
                self.check()
            except Exception:  # noqa: BLE001 - the thread's edge: it must outlive whatever one look meets
                log().exception("watchdog.failed")

    def _stalls(self, remote: str) -> bool:
        entry, now = self._ledger.read(remote), self._clock()
        since = max(entry.last_attempt_at or 0.0, self._watching_since)
        if (
            now - since <= self._patience_s
            or entry.gave_up
            or entry.paused_at
            or entry.waits(now, grace_s=self._patience_s)
        ):
            return False
        if self._is_known(entry) or self._ledger.is_claimed(remote) or self._repository.is_pushed(remote):
            return False
        return now - self._oldest_pending_at(remote) > self._patience_s

    def _oldest_pending_at(self, remote: str) -> float:
        head, seen = self._repository.head(), self._repository.remote_head(remote)
        pending = self._repository.commits_between(seen, head) if head else []
        return self._repository.commit_time(pending[-1]) if pending else self._clock()

    def _report(self, remote: str) -> bool:
        message = "commits wait, and nobody has tried to push them for {} s"
        with self._ledger.claim(remote) as claim:
            if claim is None or self._is_known(claim.entry):
                return False
            entry = claim.entry
            idle_s = round(self._clock() - (entry.last_attempt_at or self._watching_since))
            error = PushFailed(remote, _REASON, message.format(idle_s), POLICIES[_REASON].hint)
            facts = {"idle_seconds": idle_s, "last_attempt": _last(entry)}
            self._episodes.record(claim, error, number=entry.attempt)
            self._episodes.tell(
                claim,
                error,
                Told(head=self._head(), attempt=entry.attempt, is_blocked=True, pages=True, facts=facts),
            )
        self._episodes.deliver(error)
        return True

    def _is_known(self, entry: Entry) -> bool:
        return _REASON in entry.paged or self._episodes.is_known(entry, _REASON)

    def _head(self) -> str | None:
        try:
            return self._repository.head()
        except RepositoryError:
            return None


def _last(entry: Entry) -> str:
    return (
        f"{entry.last_failure.reason}: {entry.last_failure.message}" if entry.last_failure else "none failed"
    )
