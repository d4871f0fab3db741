"""
The status of each remote, computed from git at each call.

The ledger adds what git cannot know: attempts, backoff, the last error. Without the ledger these are empty,
and the pending commits are still correct.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ferry.worker.dossier import commands
from ferry.worker.files.moments import timestamp
from ferry.worker.git.backlog import Backlog
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.entry import Entry, Failure
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.observe.printable import many
from ferry.worker.repair import verify
from ferry.worker.settings import ORIGIN, Settings
from ferry.worker.turns.need import Need, needs_person
from ferry.worker.turns.turn import Facts, State, Turn, whose_turn

_RETRIED = "Retries go on; they fail for as long as the cause lasts."


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteStatus:
    """
    The status of one remote.

    Attributes:
        turn: Who acts next for it.
        branch: The branch's short name.
        local_head: The branch's tip here.
        remote_head: The branch's last seen tip on the remote.
        pending: The commits the remote lacks.
        entry: The ledger's entry.
        need: Why a person is needed; None if no person is needed.
        known_since: When the remote's URL was set.
        commands: The commands to type after its last failure.
        runbook: URL of the runbook's section for it; None if the API's URL is not known.
        verified_at: When ``ferry verify`` last succeeded.
    """

    turn: Turn
    branch: str
    local_head: str | None
    remote_head: str | None
    pending: Backlog
    entry: Entry
    need: Need | None = None
    known_since: float | None = None
    commands: Sequence[str] = ()
    runbook: str | None = None
    verified_at: float | None = None

    @property
    def state(self) -> State:
        """
        Its state: one of ``STATES``.
        """
        return self.turn.state

    @property
    def failing_since(self) -> float | None:
        """
        When the failures began, even if a push runs now, in seconds since the epoch; None if nothing is
        pending.
        """
        return self.entry.failing_since if self.pending else None

    @property
    def failing_s(self) -> float:
        """
        For how long pushes have failed, in seconds; 0 if they do not fail.
        """
        return 0.0 if self.failing_since is None else self.entry.failing_for_s(time.time())

    @property
    def attempts(self) -> str:
        """
        The failed attempts of this episode, in words; "" if there are none.
        """
        failure = self.entry.last_failure
        if self.failing_since is None or failure is None:
            return ""
        if not failure.attempt:
            return "no attempt was made"
        runs = f"attempt {failure.attempt + 1} runs; " if self.state == "pushing" else ""
        return f"{runs}{many(failure.attempt, 'attempt')} failed, the last one: {failure.reason}"

    @property
    def retries(self) -> str:
        """
        A sentence that retries go on although a person is needed; else "".
        """
        return _RETRIED if self.need and self.state in ("retrying", "pushing", "queued") else ""

    @property
    def seen_at(self) -> float | None:
        """
        When the remote last reported its branch's tip, or accepted a push, in seconds since the epoch.
        """
        return max(filter(None, (self.entry.seen_at, self.entry.last_push_at)), default=None)

    @property
    def oldest_pending_at(self) -> float | None:
        """
        Since when the oldest pending commit has waited for this remote, in seconds since the epoch; None if
        there is none.
        """
        made_at = self.pending.oldest_at
        return None if made_at is None else self.entry.waiting_since(made_at, self.known_since)

    @property
    def oldest_pending_age_s(self) -> float:
        """
        How long the oldest pending commit has waited, in seconds; 0 if there is none.
        """
        return 0.0 if self.oldest_pending_at is None else max(0.0, time.time() - self.oldest_pending_at)

    def as_json(self) -> dict[str, Any]:
        """
        Return the status in the shape of ``GET /api/_internal/push``.
        """
        entry, failure = self.entry, self.entry.last_failure
        return {
            "running": self.state != "disabled",
            "state": self.state,
            "turn": self.turn.sentence,
            "branch": self.branch,
            "local_head": self.local_head,
            "remote_head": self.remote_head,
            "pending_commits": len(self.pending),
            "behind_commits": self.pending.behind,
            "oldest_pending_at": timestamp(self.oldest_pending_at),
            "last_push_at": timestamp(entry.last_push_at),
            "remote_seen_at": timestamp(self.seen_at),
            "last_verified_at": timestamp(self.verified_at),
            "paused_at": timestamp(entry.paused_at),
            "paused_by": entry.paused_by or None,
            "paused_reason": entry.paused_why or None,
            "paused_until": timestamp(entry.paused_until),
            "failing_since": timestamp(self.failing_since),
            "needs_person": self.need and self.need.as_json(),
            "last_error": failure and _last_error(failure),
            "current_attempt": entry.attempt + 1 if self.pending and entry.attempt else None,
            "current_backoff_ms": None if entry.backoff_s is None else round(entry.backoff_s * 1000),
            "next_attempt_at": timestamp(entry.next_attempt_at),
            "commits_per_push": entry.part,
            "rescue_branch": entry.rescue,
            "rewritten_from": entry.rewritten,
            "outcomes": dict(sorted(entry.outcomes.items())),
        }


def _last_error(failure: Failure) -> dict[str, Any]:
    return {
        "message": failure.message,
        "at": timestamp(failure.at),
        "attempt": failure.attempt,
        "reason": failure.reason,
        "hint": failure.hint,
        "said": failure.said,
    }


def remote_statuses(settings: Settings, repository: Repository, ledger: Ledger) -> dict[str, RemoteStatus]:
    """
    Return the status of every remote by its name; only ``origin``, disabled, if none is configured.

    Raises:
        RepositoryError: The data repository cannot be read.
    """
    if not settings.remotes:
        return {ORIGIN: _disabled(repository)}
    return {remote: _status(settings, remote, repository, ledger) for remote in settings.remotes}


def _status(settings: Settings, remote: str, repository: Repository, ledger: Ledger) -> RemoteStatus:
    # Check the claim first: the result of a push that ends meanwhile is then read below.
    now, claimed = time.time(), ledger.is_claimed(remote)
    entry, pending = ledger.read(remote).without_past_pause(now), repository.backlog(remote)
    need = needs_person(entry, page_after_s=settings.push_page_after_s, now=now, pending=bool(pending))
    return RemoteStatus(
        turn=whose_turn(entry, Facts(pending=bool(pending), claimed=claimed), now),
        branch=repository.branch,
        local_head=pending.head,
        remote_head=pending.seen,
        pending=pending,
        entry=entry,
        need=need,
        known_since=repository.known_since(remote),
        commands=commands(entry.last_failure.reason, repository, remote, entry) if entry.last_failure else (),
        runbook=settings.link(f"/status/runbook#{entry.last_failure.reason}") if entry.last_failure else None,
        verified_at=verify.last(repository.path, remote).get("verified_at"),
    )


def _disabled(repository: Repository) -> RemoteStatus:
    head = repository.head()
    return RemoteStatus(
        turn=Turn.DISABLED,
        branch=repository.branch,
        local_head=head,
        remote_head=None,
        pending=Backlog(log=repository, head=head),
        entry=Entry(),
    )
