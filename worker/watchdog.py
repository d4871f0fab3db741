"""
Paging when pushes stall, because a dead worker cannot page.

The watchdog knows two cases. Commits are pending, no retry is scheduled, and no process has tried for longer
than two sweeps: the worker, beat or the broker is down. Or a process holds the remote's claim for longer than
its step may take: it hangs, or was stopped. Every API process and every sweep check for this; the ledger
ensures that only one page is sent.

A watchdog does not claim a remote that is pushed to. So no task hands its commit over to it, and it can
report a claim that is never released. It also pages for a pause that has lasted for a day, and for a last
attempt whose page could be neither stored nor sent.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ferry.worker.episodes.disk import Disk
from ferry.worker.episodes.episodes import Episodes, Told
from ferry.worker.errors import PushFailed, RepositoryError
from ferry.worker.failures import POLICIES, Reason
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.entry import Entry
from ferry.worker.ledger.ledger import Claim, Ledger
from ferry.worker.ledger.steps import Step
from ferry.worker.observe.logs import log
from ferry.worker.settings import Settings
from ferry.worker.turns.need import is_pause_forgotten
from ferry.worker.turns.turn import Facts, Turn, whose_turn

_REASON: Reason = "stalled"
_SWEEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stillness:
    """
    The observed state of a remote with pending commits, and since when it has not changed.
    """

    since: float
    last_attempt_at: float | None
    is_paused: bool
    is_claimed: bool
    step: Step | None

    def told(self, idle_s: float) -> str:
        if not self.is_claimed:
            return f"commits wait, and no process has tried to push them for {idle_s} s"
        holder = self.step.holder if self.step else "a process"
        return f"commits wait, and {holder}, which holds the remote, has not moved for {idle_s} s"


class Watchdog:
    """
    Checks whether commits are pending that no process pushes.

    Args:
        settings: Remotes and the sweep's interval.
        repository: The data repository.
        ledger: Has the time of the last attempt.
        clock: Seconds since the epoch.
        monotonic: Seconds since any fixed moment.
    """

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        ledger: Ledger,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._ledger = ledger
        self._clock = clock
        self._monotonic = monotonic
        self._episodes = Episodes(settings, repository, clock)
        self._disk = Disk(settings, repository, ledger, clock=clock)
        self._patience_s = _SWEEPS * settings.push_sweep_interval_s
        self._seen: dict[str, _Stillness] = {}
        self._stopped = threading.Event()

    def check(self) -> list[str]:
        """
        Page once for each stalled remote; returns their names. Also pages for a full disk and for a pause
        that seems forgotten, and sends again the pages that Sentry has not accepted.
        """
        stalled = [remote for remote in self._settings.remotes if self._look_at(remote)]
        for remote in self._settings.remotes:
            self._tell(remote, self._is_pause_to_be_told, self._episodes.tell_of_pause)
            self._tell(remote, self._is_page_lost, self._episodes.page_again)
        try:
            self._disk.check()
        except Exception:  # noqa: BLE001 - as for a remote
            log().exception("watchdog.failed")
        self._episodes.send_pages()
        return stalled

    def watch(self) -> None:
        """
        Start a thread that checks once per sweep interval, in this process and in each of its forks.
        """
        os.register_at_fork(after_in_child=self._start)
        self._start()

    def stop(self) -> None:
        """
        Stop this process's thread at its next check.
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

    def _look_at(self, remote: str) -> bool:
        try:
            stillness = self._stillness(remote)
            return stillness is not None and self._report(remote, stillness)
        except Exception:  # noqa: BLE001 - a damaged ref of one remote must not hide the others
            log().exception("watchdog.failed", remote=remote)
            return False

    def _tell(self, remote: str, is_due: Callable[[Entry], bool], tell: Callable[[Claim], None]) -> None:
        try:
            if not is_due(self._ledger.read(remote)):
                return
            # Taking the claim delays no push: pushes are paused, or none is scheduled.
            with self._ledger.claim(remote) as claim:
                if claim is not None and is_due(claim.entry):
                    tell(claim)
        except Exception:  # noqa: BLE001 - a damaged ledger of one remote must not hide the others
            log().exception("watchdog.failed", remote=remote)

    def _is_pause_to_be_told(self, entry: Entry) -> bool:
        return is_pause_forgotten(entry, self._clock()) and not entry.pause_paged

    def _is_page_lost(self, entry: Entry) -> bool:
        """
        Whether the page of the last attempt was neither stored nor accepted, and no attempt follows.
        """
        failure = entry.last_failure
        return entry.gave_up and failure is not None and not self._episodes.is_known(entry, failure.reason)

    def _stillness(self, remote: str) -> _Stillness | None:
        """
        Return since when pending commits have not moved, if that is too long; else None.

        Measured from this process's first check that saw the current state, by its monotonic clock, so
        neither another host's clock nor a changed clock matters.
        """
        if self._repository.is_pushed(remote):
            self._seen.pop(remote, None)
            return None
        entry, now = self._ledger.read(remote), self._monotonic()
        is_claimed = self._ledger.is_claimed(remote)
        step = self._ledger.step(remote) if is_claimed else None
        found = _Stillness(
            since=now,
            last_attempt_at=entry.last_attempt_at,
            is_paused=entry.is_paused(self._clock()),  # the time of a pause does not count
            is_claimed=is_claimed,
            step=step,
        )
        seen = self._seen.get(remote)
        if seen is None or replace(found, since=seen.since) != seen:
            self._seen[remote] = found
            return None
        if self._is_known(entry) or now - seen.since <= self._patience_s + (step.takes_s if step else 0):
            return None
        facts = Facts(pending=True, claimed=is_claimed, occasion="sweep", grace_s=self._patience_s)
        # Otherwise a retry is due later, or a person must act first.
        stalls = whose_turn(entry, facts, self._clock()) in (Turn.FREE, Turn.PUSHING)
        return seen if stalls else None

    def _report(self, remote: str, stillness: _Stillness) -> bool:
        with self._ledger.sighting(remote) as sighting:
            if sighting is None or self._is_known(sighting.entry):
                return False
            entry = sighting.entry
            idle_s = round(self._monotonic() - stillness.since)
            error = PushFailed(remote, _REASON, stillness.told(idle_s), POLICIES[_REASON].hint)
            facts = {"idle_seconds": idle_s, "last_attempt": _last(entry)}
            self._episodes.record(sighting, error, number=entry.attempt)
            self._episodes.tell(
                sighting,
                error,
                Told(head=self._head(), attempt=entry.attempt, is_blocked=True, pages=True, facts=facts),
            )
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
