"""
Checking the free space on the data disk, and paging when it is full.

The API refuses every write while the disk is full, although pushes succeed. So each API process and each
sweep checks the disk. The ledger has an entry for the disk, as for a remote, so that all processes together
send one page per episode.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ferry.worker.episodes.episodes import Episodes
from ferry.worker.errors import PushRefused
from ferry.worker.files.room import Room, room_at
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.observe.logs import log
from ferry.worker.paging import is_configured
from ferry.worker.settings import Settings
from ferry.worker.turns.need import Need

ENTRY = "@disk"  # no remote can have this name
_NAME = "the data disk"
_HINT = "Free space on the disk of {path}, or enlarge it: until then every write is refused (507)."
COMMANDS = ("df -h {path}", "df -i {path}", "ferry doctor")


class Disk:
    """
    The disk of one data repository.

    Args:
        settings: As for ``Episodes``.
        repository: The data repository.
        ledger: Has an entry for the disk.
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
        self._path = repository.path
        self._ledger = ledger
        self._clock = clock
        self._episodes = Episodes(settings, repository, clock)
        self.hint = _HINT.format(path=self._path)
        self.commands = [command.format(path=self._path) for command in COMMANDS]

    def room(self) -> Room:
        """
        Return the free space now.
        """
        return room_at(self._path)

    def need(self, room: Room) -> Need | None:
        """
        Return why a person is needed at the disk with *room*; None if it is not full.
        """
        if room.state != "full":
            return None
        since = self._ledger.read(ENTRY).needed_since
        return Need(since=self._clock() if since is None else since, reason="local", hint=self.hint)

    def check(self) -> None:
        """
        Page once if the disk is full; end the episode when it has free space again.
        """
        room, entry = self.room(), self._ledger.read(ENTRY)
        is_full = room.state == "full"
        is_told = entry.last_failure is not None
        is_paged = bool(entry.paged) or not is_configured()
        if is_full == is_told and (is_paged or not is_full):
            return
        with self._ledger.claim(ENTRY) as claim:
            if claim is None:
                return  # another process does this now
            claim.looks_again = True
            if not is_full:
                self._episodes.resolve(_NAME, claim.entry)
                self._episodes.forget(claim)
                log().info("disk.recovered", path=str(self._path), free_bytes=room.free_bytes)
                return
            error = PushRefused(_NAME, "local", f"full: {room.told}", self.hint)
            if claim.entry.last_failure is None:
                self._episodes.record(claim, error, number=0)
                facts = {"path": str(self._path), "free_bytes": room.free_bytes, "hint": self.hint}
                log().error("disk.full", **facts)
            context = {"reason": "local", "way_out": self.hint, "commands": self.commands}
            self._episodes.page(claim, error, context)
