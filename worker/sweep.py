"""
Finding what nobody was told of: the reason why no message needs to be safe.

git says what is pending. The sweep compares refs every few seconds and names
the remotes that lack commits while no push and no retry is under way: after a
lost message, an emptied Redis, a process that died between commit and enqueue,
or a worker that took a countdown with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from ferry.worker.errors import LedgerError, RepositoryError
from ferry.worker.files.atomic_json import read_json, write_json
from ferry.worker.files.moments import Moment
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.observe.logs import log
from ferry.worker.settings import Settings

_LATE_AFTER_SWEEPS = 3
# A remote that was made anew lacks what we remember it to have; this is how long that may go unseen.
_LOOK_EVERY_S = 600.0


class Sweeper:
    """
    Compares the branch with every remote.

    Args:
        settings: Remotes and the sweep's interval.
        repository: The data repository.
        ledger: What is scheduled and what runs.
        directory: Where the time of the last sweep is kept.
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

    def sweep(self, *, out_of_turn: bool = False) -> dict[str, str | None]:
        """
        Do what ``wanting`` says, and remember that a sweep took place.
        """
        try:
            write_json(self._record, Moment.now(self._clock).as_json())
        except OSError as exc:
            log().warning("sweep.not_recorded", error=str(exc))
        return self.wanting(out_of_turn=out_of_turn)

    def wanting(self, *, out_of_turn: bool = False) -> dict[str, str | None]:
        """
        Return the remotes that lack commits and that nobody sees to, with the commit they lack.

        A retry is given one interval beyond its time before it counts as lost
        with its message.

        Args:
            out_of_turn: Leave out of account that a retry is due later.
        """
        try:
            head = self._repository.head()
        except RepositoryError as exc:
            log().error("sweep.failed", error=str(exc))
            head = None  # an attempt will meet the same error, and page for it
        return {
            remote: head for remote in self._settings.remotes if self._wants(remote, out_of_turn=out_of_turn)
        }

    def unseen(self, *, start: float = 0.0) -> list[str]:
        """
        Return the remotes that nobody has asked for a while where they stand.

        Not those that were given up: it takes more than time to begin again.

        Args:
            start: When a worker has started, in seconds since the epoch; all that nobody has asked since.
        """
        return [remote for remote in self._settings.remotes if self._is_unseen(remote, start)]

    def last_at(self) -> float | None:
        """
        Return when a sweep last took place, in seconds since the epoch, or None.
        """
        return read_json(self._record).get("at")

    def is_late(self) -> bool:
        """
        Whether sweeps should have taken place and did not: beat, the broker or every worker is away.
        """
        last = Moment.from_json(read_json(self._record))
        late_after_s = _LATE_AFTER_SWEEPS * self._settings.push_sweep_interval_s
        return last is None or last.age_s(self._clock) > late_after_s

    def _is_unseen(self, remote: str, start: float) -> bool:
        try:
            entry = self._ledger.read(remote)
        except LedgerError:
            return False  # the sweep has told of it
        looked_at = entry.looked_at or 0.0
        return looked_at < start or not (entry.gave_up or 0 <= self._clock() - looked_at < _LOOK_EVERY_S)

    def _wants(self, remote: str, *, out_of_turn: bool) -> bool:
        try:
            entry = self._ledger.read(remote)
        except LedgerError:
            return True  # a task will meet the same error, and tell of it
        waits = entry.waits(self._clock(), grace_s=self._settings.push_sweep_interval_s)
        if entry.paused_at is not None or (not out_of_turn and (entry.gave_up or waits)):
            return False
        if self._ledger.is_claimed(remote):
            return False
        try:
            # A failure that outlives what was pending: somebody else has pushed.
            return not self._repository.is_pushed(remote) or entry.last_failure is not None
        except RepositoryError:
            return True
