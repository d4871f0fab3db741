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

from worker.dossier import dossier
from worker.errors import PushFailed, RepositoryError
from worker.failures import POLICIES
from worker.git import Repository
from worker.ledger import Claim, Entry, Failure, Ledger
from worker.logs import log
from worker.paging import Page, deliver, page
from worker.settings import Settings

_REASON = "stalled"
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
        if _REASON in entry.paged or self._ledger.is_claimed(remote) or self._repository.is_pushed(remote):
            return False
        return now - self._oldest_pending_at(remote) > self._patience_s

    def _oldest_pending_at(self, remote: str) -> float:
        head, seen = self._repository.head(), self._repository.remote_head(remote)
        pending = self._repository.commits_between(seen, head) if head else []
        return self._repository.commit_time(pending[-1]) if pending else self._clock()

    def _report(self, remote: str) -> bool:
        with self._ledger.claim(remote) as claim:
            if claim is None or _REASON in claim.entry.paged:
                return False
            self._page(claim)
        if not deliver():
            self._ledger.forget_page(remote, _REASON)
        return True

    def _page(self, claim: Claim) -> None:
        entry, now, hint = claim.entry, self._clock(), POLICIES["stalled"].hint
        idle_s = round(now - (entry.last_attempt_at or self._watching_since))
        message = f"commits wait, and nobody has tried to push them for {idle_s} s"
        error = PushFailed(claim.remote, _REASON, message, hint)
        head = self._head()
        log().error(
            "push.blocked",
            remote=claim.remote,
            commit=head,
            attempt=entry.attempt,
            reason=_REASON,
            error=message,
            hint=hint,
        )
        context = {
            **dossier(self._repository, error, entry, said="", now=now),
            "idle_seconds": idle_s,
            "last_attempt": _last(entry),
        }
        page(
            Page(
                error=error, branch=self._repository.branch, repository=self._repository.name, context=context
            )
        )
        claim.write(
            last_failure=Failure(reason=_REASON, message=message, hint=hint, at=now, attempt=entry.attempt),
            failing_since=now if entry.failing_since is None else entry.failing_since,
            outcomes=claim.count(_REASON),
            # Whether or not there was a Sentry to page through: the log says it once.
            paged=(*entry.paged, _REASON),
        )

    def _head(self) -> str | None:
        try:
            return self._repository.head()
        except RepositoryError:
            return None


def _last(entry: Entry) -> str:
    return (
        f"{entry.last_failure.reason}: {entry.last_failure.message}" if entry.last_failure else "none failed"
    )
