"""
The state of the whole deployment, read from its files: remotes, disk, sweeps and packing.

The status page, ``ferry push status`` and ``GET /api/_internal/push`` read it, and begin with its headline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ferry.app.replica.level import Level, level
from ferry.worker.after.status import HookStatus, hook_statuses
from ferry.worker.files.moments import timestamp
from ferry.worker.files.room import Room
from ferry.worker.observe.printable import many
from ferry.worker.pipeline import Pipeline
from ferry.worker.settings import ORIGIN
from ferry.worker.status import RemoteStatus, remote_statuses
from ferry.worker.turns.need import Need


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """
    The state of the whole deployment.

    Attributes:
        remotes: The remotes, by name; ``origin`` first.
        room: The room on the data disk.
        disk: Why a person is needed at the disk; None while it has room.
        swept_at: When a sweep last took place, in seconds since the epoch; None: never.
        sweeps_are_late: Whether the next sweep is overdue.
        packed_at: When the repository was last packed; None: never.
        packing_is_late: Whether loose objects pile up and are not packed.
        hooks: The functions of extensions that are called after commits and pushes.
        replica: How far this replica is; None on a primary.
    """

    remotes: Mapping[str, RemoteStatus]
    room: Room
    disk: Need | None
    swept_at: float | None
    sweeps_are_late: bool
    packed_at: float | None
    packing_is_late: bool
    hooks: Sequence[HookStatus] = ()
    replica: Level | None = None

    @property
    def needs_person(self) -> bool:
        """
        Whether a person is needed, at the disk, at a remote or for an extension.
        """
        needs = [
            self.disk,
            *(each.need for each in self.remotes.values()),
            *(each.need for each in self.hooks),
        ]
        return any(need is not None for need in needs)

    def headline(self, away: str | None = None) -> str:
        """
        Return one or two sentences with what matters most: faults of this machine, and the state of the
        remotes.

        Args:
            away: What the caller found missing when it asked the broker, such as ``No worker answers.``
        """
        lacking = away
        if self.disk:
            stopped = "nothing more is read from origin" if self.replica else "every write is refused"
            lacking = f"The data disk is full: {stopped}."
        elif away is None and self.room.state == "low":
            lacking = "The data disk is nearly full."
        is_moving = away is None and self.disk is None
        remotes = self.replica.sentence if self.replica else self._of_remotes(is_moving=is_moving)
        return " ".join(filter(None, (lacking, remotes, self._of_hooks())))

    def _of_hooks(self) -> str:
        failing = [status for status in self.hooks if status.entry.last_failure]
        if not failing:
            return ""
        names = ", ".join(dict.fromkeys(status.hook.extension for status in failing))
        needed = "a person is needed" if any(status.need for status in failing) else "retried"
        return f"Functions of {names} fail: {needed}."

    def _of_remotes(self, *, is_moving: bool) -> str:
        statuses = self.remotes
        if any(status.state == "disabled" for status in statuses.values()):
            return "No remote is configured."
        needed = {name: status.need.reason for name, status in statuses.items() if status.need}
        failing = {
            name: status.entry.last_failure.reason
            for name, status in statuses.items()
            if status.failing_since is not None and status.entry.last_failure
        }
        paused = [name for name, status in statuses.items() if status.state == "paused"]
        waiting = max((len(status.pending) for status in statuses.values()), default=0)
        pending = f"{many(waiting, 'commit')} pending."
        if needed:
            return f"{', '.join(needed)}: a person is needed ({_once(needed)}); {pending}"
        if failing:
            return f"{', '.join(failing)}: pushes fail ({_once(failing)}) and are retried; {pending}"
        if paused:
            return f"{', '.join(paused)}: paused; {pending}"
        if waiting:
            return f"{many(waiting, 'commit')} on the way." if is_moving else pending
        behind = {name: status.pending.behind for name, status in statuses.items() if status.pending.behind}
        if behind:
            return f"{', '.join(behind)}: {many(max(behind.values()), 'commit')} of others not read here yet."
        return "Every commit is on every remote."

    def as_json(self) -> dict[str, Any]:
        """
        Return it in the shape of ``GET /api/_internal/push``.
        """
        return {
            "remotes": {name: status.as_json() for name, status in self.remotes.items()},
            "replica": self.replica and self.replica.as_json(),
            "hooks": [status.as_json() for status in self.hooks],
            "sweep": {"last_at": timestamp(self.swept_at), "late": self.sweeps_are_late},
            "disk": {
                "state": self.room.state,
                "free_bytes": self.room.free_bytes,
                "total_bytes": self.room.total_bytes,
                "needs_person": self.disk and self.disk.as_json(),
            },
        }


def _once(reasons: Mapping[str, str]) -> str:
    return ", ".join(dict.fromkeys(reasons.values()))


def look(pipeline: Pipeline) -> Standing:
    """
    Read the state of the deployment.

    Raises:
        RepositoryError: The data repository cannot be read.
    """
    room = pipeline.disk.room()
    remotes = remote_statuses(pipeline.settings, pipeline.repository, pipeline.ledger)
    return Standing(
        remotes=remotes,
        room=room,
        disk=pipeline.disk.need(room),
        swept_at=pipeline.sweeper.last_at(),
        sweeps_are_late=pipeline.sweeper.is_late(),
        packed_at=pipeline.maintenance.last().get("at"),
        packing_is_late=pipeline.maintenance.is_late(),
        hooks=hook_statuses(pipeline.after, page_after_s=pipeline.settings.push_page_after_s),
        replica=level(pipeline, remotes[ORIGIN]) if pipeline.settings.is_replica else None,
    )
