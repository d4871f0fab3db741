"""
How the functions of extensions stand: what waits for them, what failed, and whether a person is needed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ferry.worker.after.hooks import Hook
from ferry.worker.after.turns import After
from ferry.worker.errors import PositionError
from ferry.worker.files.moments import timestamp
from ferry.worker.ledger.entry import Entry
from ferry.worker.turns.need import Need, needs_person


@dataclass(frozen=True, slots=True, kw_only=True)
class HookStatus:
    """
    One hook at one moment.

    Attributes:
        hook: Which.
        state: ``idle`` (all is told), ``queued``, ``running``, ``retrying`` (a function failed, and is called
            again), ``stopped`` (one has said that none is to be called any more) or ``blocked`` (the position
            cannot be read).
        pending: How many commits wait, or divergences.
        position: The last of what is done; None where nothing is, or it cannot be read.
        entry: What the ledger knows.
        need: Why a person is needed; None where none is.
    """

    hook: Hook
    state: str
    pending: int
    position: str | None
    entry: Entry
    need: Need | None = None

    @property
    def failures(self) -> int:
        """
        How many calls have failed, ever.
        """
        return sum(number for outcome, number in self.entry.outcomes.items() if outcome != "done")

    @property
    def failing_s(self) -> float:
        """
        For how long the calls have failed, in seconds; 0 if they do not.
        """
        return self.entry.failing_for_s(time.time())

    @property
    def sentence(self) -> str:
        """
        The state in a sentence.
        """
        failure = self.entry.last_failure
        if self.state == "stopped":
            return f"{self.pending} to tell; stopped{f': {failure.message}' if failure else ''}"
        if failure is None:
            said = {"idle": "All is told.", "blocked": "The position cannot be read."}
            return said.get(self.state, f"{self.pending} to tell.")
        return f"{self.pending} to tell; attempt {failure.attempt} failed: {failure.message}"

    def as_json(self) -> dict[str, Any]:
        """
        Return the status in the shape of ``GET /api/_internal/push``.
        """
        entry, failure = self.entry, self.entry.last_failure
        return {
            "extension": self.hook.extension,
            "event": self.hook.event,
            "state": self.state,
            "position": self.position,
            "pending": self.pending,
            "done": entry.outcomes.get("done", 0),
            "failures": self.failures,
            "last_done_at": timestamp(entry.last_push_at),
            "failing_since": timestamp(entry.failing_since),
            "next_attempt_at": timestamp(entry.next_attempt_at),
            "needs_person": self.need and self.need.as_json(),
            "last_error": failure
            and {
                "message": failure.message,
                "at": timestamp(failure.at),
                "attempt": failure.attempt,
                "hint": failure.hint,
                "said": failure.said,
            },
        }


def hook_statuses(after: After, *, page_after_s: float) -> list[HookStatus]:
    """
    Return the status of every hook, in their order.

    Raises:
        RepositoryError: The data repository cannot be read.
    """
    return [_status(after, hook, page_after_s) for hook in after.hooks]


def _status(after: After, hook: Hook, page_after_s: float) -> HookStatus:
    is_running, entry = after.is_running(hook), after.entry(hook)
    try:
        position = after.positions.read(hook) or ()
        pending = after.work.count(hook.event, position)
        state = "queued" if pending else "idle"
    except PositionError:
        position, pending, state = (), 0, "blocked"
    if entry.last_failure:
        state = "retrying"
    if after.is_stopped(hook.extension):
        state = "stopped"
    return HookStatus(
        hook=hook,
        state="running" if is_running else state,
        pending=pending,
        position=position[0] if position else None,
        entry=entry,
        need=needs_person(entry, page_after_s=page_after_s, now=time.time()),
    )
