"""
The sweep finds commits whose message was lost, so messages need not be durable.

Every few seconds the sweep compares refs. It returns the remotes that lack commits while no push runs and no
retry is scheduled: after a lost message, an emptied Redis, the death of a process between commit and enqueue,
or the end of a worker that held a countdown.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ferry.worker.errors import LedgerError, RepositoryError
from ferry.worker.files.atomic_json import read_json, write_json
from ferry.worker.files.moments import Moment
from ferry.worker.git.repository import Repository
from ferry.worker.ledger import operators
from ferry.worker.ledger.entry import Entry
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.observe.logs import log
from ferry.worker.settings import Settings
from ferry.worker.turns.turn import Facts, Occasion, Turn, is_look_due, whose_turn

_LATE_AFTER_SWEEPS = 3


class Sweeper:
    """
    Compares the branch with every remote.

    Args:
        settings: Remotes and the sweep's interval.
        repository: The data repository.
        ledger: Has the scheduled retries and the claims.
        directory: Directory of the file with the time of the last sweep.
        clock: Seconds since the epoch.
    """

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        ledger: Ledger,
        directory: Path,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._ledger = ledger
        self._record = directory / "sweep.json"
        self._clock = clock

    def sweep(self, occasion: Occasion = "sweep") -> dict[str, str | None]:
        """
        Record that a sweep took place, and return the result of ``wanting``.
        """
        try:
            write_json(self._record, Moment.now(self._clock).as_json())
        except OSError as exc:
            log().warning("sweep.not_recorded", error=str(exc))
        for remote in self._settings.remotes:
            self._end_pause(remote)
        return self.wanting(occasion)

    def wanting(self, occasion: Occasion = "sweep") -> dict[str, str | None]:
        """
        Return the remotes that need a push task, each with the commit that it lacks.

        A retry counts as lost one interval after its time.

        Args:
            occasion: ``start`` if a worker has just started: it does not wait for a scheduled retry.
        """
        if not self._repository.pushes:
            return {}
        try:
            head = self._repository.head()
        except RepositoryError as exc:
            log().error("sweep.failed", error=str(exc))
            head = None  # an attempt will meet the same error, and page for it
        return {remote: head for remote in self._settings.remotes if self._wants(remote, occasion)}

    def unseen(self, *, start: float = 0.0) -> list[str]:
        """
        Return the remotes whose tip was not checked in the last ten minutes.

        Args:
            start: When a worker started, in seconds since the epoch: returns remotes that were not checked
                since.
        """
        return [remote for remote in self._settings.remotes if self._is_unseen(remote, start)]

    def last_at(self) -> float | None:
        """
        Return when a sweep last took place, in seconds since the epoch, or None.
        """
        return read_json(self._record).get("at")

    def is_late(self) -> bool:
        """
        Whether a sweep is overdue: beat, the broker or every worker is down.
        """
        if not self._repository.pushes:
            return False  # a replica needs no sweep
        last = Moment.from_json(read_json(self._record))
        late_after_s = _LATE_AFTER_SWEEPS * self._settings.push_sweep_interval_s
        return last is None or last.age_s(self._clock) > late_after_s

    def _end_pause(self, remote: str) -> None:
        """
        End a pause whose time is over; if a process holds the claim, the next sweep does it.
        """
        try:
            if not _has_ended(self._ledger.read(remote), now := self._clock()):
                return
            with self._ledger.claim(remote) as claim:
                if claim is None or not _has_ended(claim.entry, now):
                    return
                claim.set_paused(None)
        except LedgerError:
            return  # a task will meet the same error, and report it
        operators.tell_resumed(self._ledger, remote, operators.FERRY, now=now, detail="the pause was over")

    def _is_unseen(self, remote: str, start: float) -> bool:
        try:
            return is_look_due(self._ledger.read(remote), self._clock(), start=start)
        except LedgerError:
            return False  # the sweep has reported it

    def _wants(self, remote: str, occasion: Occasion) -> bool:
        try:
            entry = self._ledger.read(remote)
        except LedgerError:
            return True  # a task will meet the same error, and report it
        facts = Facts(
            pending=may_lack_commits(self._repository, remote),
            claimed=self._ledger.is_claimed(remote),
            occasion=occasion,
            grace_s=self._settings.push_sweep_interval_s,
        )
        return whose_turn(entry, facts, self._clock()) is Turn.FREE


def _has_ended(entry: Entry, now: float) -> bool:
    return entry.paused_at is not None and not entry.is_paused(now)


def may_lack_commits(repository: Repository, remote: str) -> bool:
    """
    Whether *remote* lacks commits, or git fails: an attempt will meet the same error, and report it.
    """
    try:
        return not repository.is_pushed(remote)
    except RepositoryError:
        return True
