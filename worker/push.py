"""
Deciding which task pushes: the one that holds the remote's claim. The others end without waiting.

Any number of tasks may request a push to the same remote. At most one of them holds the claim and makes an
``Attempt``; the others hand their commits over to it and end. No commit is lost: the holder looks at the
branch again after it has released the claim, and a commit is on the branch before its task can find the claim
held.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ferry.worker.attempt import STILL_DIVERGED, Attempt
from ferry.worker.episodes.episodes import Episodes
from ferry.worker.episodes.outcome import Outcomes
from ferry.worker.errors import LedgerError, PushDeferred, RepositoryError, WorkerError
from ferry.worker.git.remote import Seen
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.entry import Entry
from ferry.worker.ledger.ledger import Claim, Ledger
from ferry.worker.observe.logs import log
from ferry.worker.repair.look import look
from ferry.worker.repair.reconcile import Reconciler
from ferry.worker.settings import Settings
from ferry.worker.sweep import may_lack_commits
from ferry.worker.turns.turn import AHEAD_OF_RETRY, Facts, Occasion, Turn, is_look_due, whose_turn

# Without this limit a task under steady load would never end, and a stopping worker waits for its tasks.
_TURN_S = 2.0
# Several commits that arrive while a push runs are a burst. The next push waits for the end of the burst,
# until this long after the last push's start: a push uses as much processor time as ten commits.
_GATHER_S = 0.25
_PAUSE_S = 0.025
_LOOK_EVERY_S = 0.005
_CLAIM_WAIT_S = 2.0
_IN_THE_WAY_S = 1.0
# For this long a task leaves the claim to an operator's command that waits for it.
_ASIDE_S = 0.1

UNREADABLE = "left to the next sweep: the ledger cannot be read"
OUTDATED = "the remote has a new address, which this worker does not know: restart the worker"
REPLICA = "a replica pushes nothing"
NO_SUCH_REMOTE = "no such remote is configured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """
    A task's request for a push.

    Attributes:
        remote: Name of the remote.
        chain: The task's id; a retry keeps the id of the task that it retries.
        occasion: Why the push was requested.
        retries: Which retry of the task this is, from 1; 0 for the task itself.
        may_be_early: Whether the retry may run before its time, because the broker cannot delay a message
            that long.
        has_answered: Whether the remote has just answered a look that no operator requested.
    """

    remote: str
    chain: str
    occasion: Occasion = "commit"
    retries: int = 0
    may_be_early: bool = False
    has_answered: bool = False

    def facts(self, *, pending: bool) -> Facts:
        """
        Return the facts about this request for ``whose_turn``.
        """
        return Facts(
            pending=pending,
            occasion=self.occasion,
            task=self.chain,
            retries=self.retries,
            has_answered=self.has_answered,
        )


class Pusher:
    """
    Brings the remotes of one repository up to date.

    Args:
        settings: Timeouts, backoff and remotes.
        repository: The data repository.
        ledger: Records the attempts.
        reconciler: Joins the branch with origin's if the settings allow it.
        clock: Seconds since the epoch.
        jitter: Returns a new number in [0, 1) at each call.
    """

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        ledger: Ledger,
        reconciler: Reconciler,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._ledger = ledger
        self._reconciler = reconciler
        self._clock = clock
        self._jitter = jitter
        self._episodes = Episodes(settings, repository, clock)

    def push(self, request: Request) -> str:
        """
        Bring *request.remote* up to date, unless another task or a scheduled retry does it.

        Returns:
            The result in a few words, for the task list.

        Raises:
            PushDeferred: The last attempt was too recent, commits still arrive after some seconds, or
                another process pushes at the moment when this retry is due.
            PushFailed: The attempt failed and is to be retried.
            PushRefused: The attempt failed and a retry would not help.
        """
        if not self._repository.pushes:
            return REPLICA
        if request.remote not in self._settings.remotes:
            return NO_SUCH_REMOTE
        try:
            if self._looks(request):
                # The remote answers, so make an attempt. Tasks that found the claim held have handed their
                # commits over.
                request = replace(request, has_answered=self._look(request))
            return self._push(request)
        except LedgerError as exc:
            # The entry may contain a pause, so push nothing; the next sweep tries again.
            log().error("ledger.unreadable", remote=request.remote, error=str(exc))
            return UNREADABLE

    def _looks(self, request: Request) -> bool:
        """
        Whether to ask the remote for its tip first, instead of trusting the remote-tracking ref.
        """
        if request.occasion == "sweep":
            return is_look_due(self._ledger.read(request.remote), self._clock())
        return request.occasion in AHEAD_OF_RETRY

    def _look(self, request: Request) -> bool:
        """
        Ask the remote whether its branch is still at the last seen tip: the remote may have been replaced.

        Returns:
            Whether it answered.
        """
        remote = request.remote
        with self._ledger.claim(remote) as claim:
            if claim is None:
                return False
            claim.looks_again = True
            if claim.entry.is_paused(self._clock()):
                return False
            if request.occasion == "sweep" and self._was_told_to_wait(claim.entry):
                return False
            claim.write(looked_at=self._clock())
            timeout_s = self._settings.push_timeout_s
            try:
                seen = look(claim, self._repository, timeout_s=timeout_s, now=self._clock())
            except RepositoryError as exc:
                # Not a failure: perhaps nothing is pending. If commits are pending, the attempt reports the
                # error.
                log().info("remote.not_seen", remote=remote, error=str(exc))
                return False
            self._take_over(claim, seen)
        return True

    def _take_over(self, claim: Claim, seen: Seen) -> None:
        """
        Take over new commits of the remote. Commits that the remote has lost count as pending from now on.
        """
        if seen.has_moved:
            claim.write(waits_from=self._clock())
        try:
            outcome = self._reconciler.take_over(claim, seen.tip)
        except WorkerError as exc:
            log().warning("reconcile.failed", remote=claim.remote, error=str(exc))
            return
        if outcome is None and seen.has_moved and seen.known is not None:
            log().warning("remote.moved", remote=claim.remote, was=seen.known, found=seen.tip)

    def _push(self, request: Request) -> str:
        outcome, turn_ends, burst_ends = "", time.monotonic() + _TURN_S, 0.0
        is_claimed = request.occasion != "retry" and self._ledger.is_claimed(request.remote)
        if is_claimed and self._hands_over(request):
            # The same check as below at a fifth of the cost: in a burst most tasks end here.
            return Turn.PUSHING.sentence
        while (turn := self._turn(request)) is Turn.FREE:
            if not self._repository.is_current(request.remote):
                return OUTDATED
            with self._ledger.claim(request.remote) as claim:
                if claim is None:
                    if self._hands_over(request):
                        return Turn.PUSHING.sentence
                    continue
                turn = whose_turn(claim.entry, request.facts(pending=True), self._clock())
                claim.looks_again = True
                if turn is not Turn.FREE:
                    # Another task was faster. Check again without the claim: a task that found it held has
                    # handed its commit over to us.
                    continue
                self._put_off(claim, request, turn_is_over=time.monotonic() > turn_ends)
                self._gather(burst_ends)
                claim.take_request()
                begun, attempt = time.monotonic(), self._attempt(claim, request)
                outcome = attempt.make()
                burst_ends = begun + _GATHER_S if attempt.is_in_burst else 0.0
                # Commits that arrived during a look were handed over to us, and need an attempt.
                claim.looks_again = outcome != STILL_DIVERGED
            if outcome == STILL_DIVERGED:
                return outcome
            # Commits that arrive from now on were handed over to us.
            request = replace(request, occasion="commit", has_answered=False)
        return outcome if outcome and turn is Turn.DONE else turn.sentence

    def _turn(self, request: Request) -> Turn:
        facts = request.facts(pending=may_lack_commits(self._repository, request.remote))
        return whose_turn(self._ledger.read(request.remote), facts, self._clock())

    def _hands_over(self, request: Request) -> bool:
        """
        Whether to hand over to the claim's holder. Not if the holder leaves the next attempt to this retry.
        An operator's request outlives the holder's attempt.

        Returns:
            True; False if this task must still make the attempt, and the claim is free again.

        Raises:
            PushDeferred: The claim is not free in time for this retry.
        """
        if request.occasion == "operator" and self._ledger.request(request.remote):
            return self._ledger.is_claimed(request.remote)  # a holder that ends from now on finds the request
        until = time.monotonic() + _CLAIM_WAIT_S
        # An attempt that has just taken the claim first replaces the scheduled retry.
        while request.occasion == "retry" and self._ledger.read(request.remote).chain == request.chain:
            if not self._ledger.is_claimed(request.remote):
                return False
            if time.monotonic() > until:
                raise PushDeferred(_IN_THE_WAY_S)
            time.sleep(_LOOK_EVERY_S)
        return True

    def _attempt(self, claim: Claim, request: Request) -> Attempt:
        is_ahead = request.facts(pending=True).is_ahead_of_retry and claim.entry.waits(self._clock())
        outcomes = Outcomes(
            claim,
            self._settings,
            self._repository,
            self._episodes,
            chain=None if is_ahead else request.chain,
            retry=request.retries + 1,
            clock=self._clock,
            jitter=self._jitter,
        )
        return Attempt(
            claim,
            self._settings,
            self._repository,
            self._reconciler,
            self._episodes,
            outcomes,
            occasion=request.occasion,
            clock=self._clock,
        )

    def _gather(self, until: float) -> None:
        """
        Wait until *until* for the end of a burst: until no commit has arrived for a while.
        """
        head, came_at = None, time.monotonic()
        while time.monotonic() < min(until, came_at + _PAUSE_S):
            time.sleep(_LOOK_EVERY_S)
            try:
                now = self._repository.head()
            except RepositoryError:
                return  # the attempt will meet the same error, and report it
            if now != head:
                head, came_at = now, time.monotonic()

    def _put_off(self, claim: Claim, request: Request, *, turn_is_over: bool) -> None:
        """
        Leave the attempt to the scheduled retry if the last attempt is too recent.

        Raises:
            PushDeferred: The last attempt is too recent, this task has used up its turn, an operator's
                command waits for the claim, or the task is that retry and runs before its time.
        """
        last, now = claim.entry.last_attempt_at, self._clock()
        due = claim.entry.next_attempt_at
        if request.may_be_early and request.retries and due is not None and claim.entry.waits(now):
            claim.write(retry=request.retries + 1)
            raise PushDeferred(due - now)
        if last is None or last > now or request.occasion in AHEAD_OF_RETRY:
            return
        due = last + self._settings.push_min_interval_s
        if self._ledger.is_awaited(request.remote):
            due = max(due, now + _ASIDE_S)
        if now < due or turn_is_over:
            claim.write(chain=request.chain, retry=request.retries + 1, next_attempt_at=due, backoff_s=None)
            raise PushDeferred(max(0.0, due - now))

    def _was_told_to_wait(self, entry: Entry) -> bool:
        failure = entry.last_failure
        return failure is not None and failure.reason == "rate-limited" and entry.waits(self._clock())
