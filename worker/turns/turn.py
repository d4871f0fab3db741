"""
Whose turn it is at a remote: one decision for tasks, sweeps, watchdogs, the API, the page and the commands.

Pure: a caller reads the facts, ``whose_turn`` returns the turn, and people read that turn's sentence. A test
runs the table in ``docs/explanation/claim-chain-page-and-turn.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, cast, get_args

from ferry.worker.failures import POLICIES, Reason
from ferry.worker.ledger.entry import Entry

# Why a push was requested: a commit was made, a scheduled retry is due, a sweep found pending commits, a
# worker has started, an operator asked.
Occasion = Literal["commit", "retry", "sweep", "start", "operator"]
OCCASIONS: tuple[Occasion, ...] = get_args(Occasion)

# An operator or a start does not wait for a retry that is scheduled for later.
AHEAD_OF_RETRY: frozenset[Occasion] = frozenset({"start", "operator"})

State = Literal["disabled", "paused", "idle", "queued", "pushing", "retrying", "blocked"]
STATES: tuple[State, ...] = get_args(State)

# A remote that was set back or replaced lacks commits that it had. Ferry notices within this time.
_LOOK_EVERY_S = 600.0
_WAITS = "A person is needed; commits are kept and wait."


class Turn(Enum):
    """
    Who acts next for a remote.

    Attributes:
        state: The remote's state, in the one vocabulary of API, logs, metrics, page and docs.
        sentence: What a task returns, and what status, page and commands print.
    """

    DISABLED = "disabled", "No remote is configured: commits stay on this machine."
    DONE = "idle", "Every commit is already there."
    PUSHING = "pushing", "A push is running. Every commit is handed over to it."
    PAUSED = "paused", "An operator has paused this remote: commits wait until it is resumed."
    SUPERSEDED = "retrying", "Another retry took over."
    DEFERRED = "queued", "The next push is scheduled."
    RETRYING = "retrying", "The last attempt failed; a retry is scheduled."
    GAVE_UP = "blocked", f"{_WAITS} The retries are used up; the next commit tries again."
    REFUSED = "blocked", f"{_WAITS} The next sweep or commit tries again."
    STALLED = "blocked", f"{_WAITS} No process tries to push them."
    FREE = "queued", "Commits wait for a push, which a task or the next sweep begins."

    def __init__(self, state: State, sentence: str) -> None:
        self.state = state
        self.sentence = sentence


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """
    The facts that are not in the ledger's entry.

    Attributes:
        pending: Whether the remote lacks commits, or git failed.
        claimed: Whether a process holds the remote's claim: to push, to look, or for an operator's command.
        occasion: Why a push was requested; None if a person only reads the status.
        task: Id of the requesting task; a retry has the id of the task that it retries.
        retries: Which retry of that task it is, from 1; 0 for the task itself.
        has_answered: Whether the remote has just answered a look: an attempt need not wait for the retry.
        grace_s: Seconds beyond its time after which a retry counts as lost.
    """

    pending: bool
    claimed: bool = False
    occasion: Occasion | None = None
    task: str = ""
    retries: int = 0
    has_answered: bool = False
    grace_s: float = 0.0

    @property
    def is_ahead_of_retry(self) -> bool:
        """
        Whether an attempt is made although a retry is scheduled for later.
        """
        return self.has_answered or self.occasion in AHEAD_OF_RETRY


def whose_turn(entry: Entry, facts: Facts, now: float) -> Turn:
    """
    Return who acts next for the remote of *entry*; on ``Turn.FREE`` the caller may push.

    Args:
        entry: What the ledger knows of the remote.
        facts: The facts from git and the locks, and the request.
        now: Seconds since the epoch.
    """
    looks = facts.occasion is None
    if entry.is_paused(now):
        return Turn.PAUSED
    if not facts.pending and (looks or entry.last_failure is None):
        return Turn.DONE  # after a failure, a task must still end the episode
    if facts.claimed and (not looks or entry.running is not None):
        return Turn.PUSHING
    if facts.occasion == "retry":
        return Turn.SUPERSEDED if entry.is_superseded(facts.task, facts.retries) else Turn.FREE
    # The status shows a retry until it has begun, however late it is.
    waits = entry.next_attempt_at is not None if looks else entry.waits(now, grace_s=facts.grace_s)
    if waits and not facts.is_ahead_of_retry:
        return Turn.RETRYING if entry.last_failure else Turn.DEFERRED
    if entry.gave_up and (looks or facts.occasion == "sweep"):
        return Turn.GAVE_UP
    turn = _without_retry(entry.last_failure.reason) if looks and entry.last_failure else Turn.FREE
    # A claim may be held only for a look: the status then still shows a remote as retrying or blocked.
    return Turn.PUSHING if facts.claimed and turn is Turn.FREE else turn


def is_look_due(entry: Entry, now: float, *, start: float = 0.0) -> bool:
    """
    Whether to ask the remote for its branch's tip, instead of trusting the remote-tracking ref.

    After the retries are used up, only the start of a worker and an operator ask the remote.

    Args:
        start: When the requesting worker started, in seconds since the epoch; 0.0: long ago.
    """
    looked_at = entry.looked_at or 0.0
    return looked_at < start or not (entry.gave_up or 0 <= now - looked_at < _LOOK_EVERY_S)


def _without_retry(reason: str) -> Turn:
    """
    Return the turn after a failure with *reason* while no retry is scheduled.
    """
    if reason == "stalled":
        return Turn.STALLED
    policy = POLICIES.get(cast(Reason, reason))  # None: another version's reason
    return Turn.FREE if policy is None or policy.retried else Turn.REFUSED
