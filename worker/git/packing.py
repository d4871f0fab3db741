"""
Packing the repository automatically, while it is written and pushed.

Every commit leaves loose objects, and git's automatic maintenance runs only after git's own commands. This
module packs loose objects when there are many, and merges packs when there are many. It removes an object
only after it has packed it, reachable or not, so a running transaction or push loses nothing. The long steps
need no lock; the short one takes the write lock.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from pathlib import Path
from typing import Any

from ferry.worker.errors import RepositoryError
from ferry.worker.files.atomic_json import read_json, write_json
from ferry.worker.files.flushing import flush
from ferry.worker.files.locks import FileLock, LockTimeoutError
from ferry.worker.git.packs import Packs
from ferry.worker.git.repository import Repository
from ferry.worker.observe.logs import log

# Below these numbers a reader is as fast as in a repository that has just been packed.
_MANY_LOOSE_OBJECTS = 2000
_MANY_PACKS = 4
_TOO_MANY_PACKS = 50
_TIMEOUT_S = 3600.0
_WRITE_LOCK_TIMEOUT_S = 60.0
_MANY_NAMES = 20
_HOUR_S = 3600.0
_DAY_S = 86400.0
_LATE = 5  # with this many times the threshold of loose objects, packing runs at normal priority

HINT = (
    "Move these files out of the repository and run: git fsck. What it misses then comes back from a remote "
    "with: git fetch --refetch origin"
)


class Maintenance:
    """
    Packs one repository, one process at a time.

    Args:
        repository: The data repository.
        directory: Where its lock and its record live.
        write_lock: The lock that every writer of the repository holds.
        turn: A lock that makes a worker with several repositories pack one at a time: packing may take long,
            and the worker's other slots are for pushes.
    """

    def __init__(
        self, repository: Repository, directory: Path, write_lock: FileLock, turn: FileLock | None = None
    ) -> None:
        self._repository = repository.path
        self._packs = Packs(repository.git)
        self._turn = turn
        self._write_lock = write_lock
        self._lock = FileLock(directory / "maintenance.lock")
        self._record = directory / "maintenance.json"

    def is_due(self) -> bool:
        """
        Whether there is enough to pack, or logs are slow without a commit-graph.
        """
        if self._packs.loose_objects() >= _MANY_LOOSE_OBJECTS:
            return True
        # Each fetch leaves one.
        if self._packs.count() > _TOO_MANY_PACKS and time.time() - self.last().get("at", 0) > _HOUR_S:
            return True
        # Tries at most once a day, because git may be unable to write a commit-graph.
        return self._packs.lacks_commit_graph() and time.time() - self.last().get("at", 0) > _DAY_S

    def is_late(self) -> bool:
        """
        Whether loose objects pile up, and have not been packed for an hour.
        """
        if self._packs.loose_objects() < _LATE * _MANY_LOOSE_OBJECTS or self._lock.is_held():
            return False
        return bool(time.time() - self.last().get("at", 0) > _HOUR_S)

    def run(self) -> str:
        """
        Pack the loose objects, unless another process does so; returns a sentence on what was done.

        Raises:
            RepositoryError: git could not pack; nothing was removed.
        """
        our_turn = self._turn.try_hold() if self._turn else contextlib.nullcontext(True)
        with our_turn as is_our_turn, self._lock.try_hold() as held:
            if not held:
                return "already under way"
            if not is_our_turn:
                return "left to a later sweep: another repository is packed"
            begun = time.monotonic()
            damaged = self._pack()
            duration_s = round(time.monotonic() - begun, 3)
            size = self._packs.size()
            write_json(self._record, {"at": time.time(), "duration_s": duration_s, "damaged": damaged})
        log().info("maintenance.done", duration_ms=round(duration_s * 1000), **size)
        return f"packed in {duration_s:.1f} s"

    def last(self) -> dict[str, Any]:
        """
        Return when packing last ended (``at``, seconds since the epoch) and how long it took, if ever.
        """
        return read_json(self._record)

    def damaged(self) -> dict[str, str]:
        """
        Return the loose objects that the last packing found damaged and that are still there.

        Their fault, by their path in the repository.
        """
        return self._existing(self.last().get("damaged", {}))

    def _pack(self) -> dict[str, str]:
        """
        Pack every sound loose object; returns the damaged ones, by their path.
        """
        # On a busy machine a process of low priority may never end, and loose objects slow down readers and
        # pushes.
        gives_way = self._packs.loose_objects() < _LATE * _MANY_LOOSE_OBJECTS
        damaged = self._packs.pack_loose_objects(
            timeout_s=_TIMEOUT_S, packed=self._prune, gives_way=gives_way
        )
        if self._packs.count() > _MANY_PACKS:
            self._packs.merge(timeout_s=_TIMEOUT_S)
        # A commit is damaged; without the graph, logs are only slower.
        with contextlib.suppress(RepositoryError):
            self._packs.write_commit_graph(timeout_s=_TIMEOUT_S)
        # A damaged loose object that a pack holds too is no loss, and git has just removed it.
        lasting = self._existing(damaged)
        if lasting:
            named = dict(itertools.islice(sorted(lasting.items()), _MANY_NAMES))
            log().warning("maintenance.damaged_objects", count=len(lasting), objects=named, hint=HINT)
        return lasting

    def _prune(self) -> None:
        flush(self._repository)  # before the loose copies are removed
        try:
            with self._write_lock.hold(_WRITE_LOCK_TIMEOUT_S):
                self._packs.prune_packed()
        except LockTimeoutError as exc:
            raise RepositoryError(str(exc)) from exc

    def _existing(self, damaged: dict[str, str]) -> dict[str, str]:
        return {name: why for name, why in damaged.items() if (self._repository / name).exists()}
