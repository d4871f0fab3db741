"""
Whether to push: one claim, and nobody waits for it.

Any number of tasks may ask for the same remote. At most one of them holds the
claim and makes an ``Attempt``; the others hand over to it. Nothing is lost by
that: the holder looks at the branch again after it has let go of the claim, and
a commit is in the branch before its task can find the claim taken.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ferry.worker.attempt import STILL_DIVERGED, Attempt
from ferry.worker.episodes import Episodes
from ferry.worker.errors import LedgerError, PushDeferred, RepositoryError
from ferry.worker.git.remote import Remote, ended_within_s
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.entry import Entry
from ferry.worker.ledger.ledger import Claim, Ledger
from ferry.worker.observe.logs import log
from ferry.worker.outcome import Outcomes
from ferry.worker.repair.reconcile import Reconciler
from ferry.worker.settings import Settings
from ferry.worker.sweep import may_lack_commits
from ferry.worker.turn import AHEAD_OF_RETRY, Facts, Occasion, Turn, is_look_due, whose_turn

# A worker that is to stop waits for its tasks: under steady load one would never end.
_TURN_S = 2.0
# Several commits that came while a push ran are a burst, and go along with what follows them without a
# pause, for this long from that push's start: each costs as much as ten commits, and they share the machine.
_GATHER_S = 0.25
_PAUSE_S = 0.025
_LOOK_EVERY_S = 0.005
_LOOK_TIMEOUT_S = 30.0
_CLAIM_WAIT_S = 2.0
_IN_THE_WAY_S = 1.0

UNREADABLE = "left to the next sweep: the ledger cannot be read"
OUTDATED = "left to a worker that knows the remote's new address; restart this one"
NO_SUCH_REMOTE = "no such remote is configured"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """
    What a task asks for.

    Attributes:
        remote: Name of the remote.
        chain: The task's id; a retry keeps the id of the task that it retries.
        occasion: Why it asks.
        retries: Which retry of the task this is, from 1; 0 for the task itself.
        may_be_early: Whether a retry may come before its time, because the broker keeps no message that long.
        has_answered: Whether the remote has just answered a look that no person asked for.
    """

    remote: str
    chain: str
    occasion: Occasion = "commit"
    retries: int = 0
    may_be_early: bool = False
    has_answered: bool = False

    def facts(self, *, pending: bool) -> Facts:
        """
        Return what ``whose_turn`` is to know of this request.
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
        ledger: Where attempts are remembered.
        reconciler: What joins the branch with origin's, where the settings say so.
        clock: Seconds since the epoch.
        jitter: A number in [0, 1), afresh at each call.
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
        Bring *request.remote* up to date, unless somebody else sees to it.

        Returns:
            What came of it, in a few words for whoever reads the task list.

        Raises:
            PushDeferred: It is too soon after the last attempt, commits still arrive after some seconds, or
                somebody else pushes at the moment when this retry is due.
            PushFailed: The attempt failed and is to be retried.
            PushRefused: The attempt failed and a retry would not help.
        """
        if request.remote not in self._settings.remotes:
            return NO_SUCH_REMOTE
        try:
            if self._looks(request):
                # If it answers it is worth a try; and tasks that met our claim have handed over to us.
                request = replace(request, has_answered=self._look(request))
            return self._push(request)
        except LedgerError as exc:
            # It may hold a pause, so nothing is pushed; the next sweep tries again.
            log().error("ledger.unreadable", remote=request.remote, error=str(exc))
            return UNREADABLE

    def _looks(self, request: Request) -> bool:
        """
        Whether to ask the remote first where its branch stands, instead of believing what the last push left.
        """
        if request.occasion == "sweep":
            return is_look_due(self._ledger.read(request.remote), self._clock())
        return request.occasion in AHEAD_OF_RETRY

    def _look(self, request: Request) -> bool:
        """
        See whether the remote still stands where we remember it: it may have been replaced, or restored.

        Returns:
            Whether it answered.
        """
        remote = request.remote
        with self._ledger.claim(remote) as claim:
            if claim is None:
                return False
            claim.looks_again = True
            if claim.entry.paused_at is not None:
                return False
            if request.occasion == "sweep" and self._was_told_to_wait(claim.entry):
                return False
            claim.write(looked_at=self._clock())
            timeout_s = min(self._settings.push_timeout_s, _LOOK_TIMEOUT_S)
            claim.begin(2 * ended_within_s(timeout_s))
            there = Remote(self._repository, remote, timeout_s=timeout_s)
            try:
                known, tip = self._repository.remote_head(remote), there.ask()
                if tip == known:
                    return True
                if tip is None:
                    self._repository.forget(remote)
                else:
                    there.fetch()
            except RepositoryError as exc:
                # Nothing may be pending: that it does not answer matters when something is.
                log().info("remote.not_seen", remote=remote, error=str(exc))
                return False
        if known is not None:
            log().warning("remote.moved", remote=remote, was=known, found=tip)
        return True

    def _push(self, request: Request) -> str:
        outcome, turn_ends, burst_ends = "", time.monotonic() + _TURN_S, 0.0
        if request.occasion != "retry" and self._ledger.is_claimed(request.remote):
            return Turn.PUSHING.sentence  # as below, for a fifth of the price: in a burst most tasks end here
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
                    # Another task was quicker. Look again without the claim: a task that met it
                    # meanwhile has handed over to us.
                    continue
                self._put_off(claim, request, turn_is_over=time.monotonic() > turn_ends)
                self._gather(burst_ends)
                begun, attempt = time.monotonic(), self._attempt(claim, request)
                outcome = attempt.make()
                burst_ends = begun + _GATHER_S if attempt.is_in_burst else 0.0
                # What arrived during a mere look was handed over to us, and a push of it is to say so.
                claim.looks_again = outcome != STILL_DIVERGED
            if outcome == STILL_DIVERGED:
                return outcome
            # What arrives from now on was handed over to us.
            request = replace(request, occasion="commit", has_answered=False)
        return outcome if outcome and turn is Turn.DONE else turn.sentence

    def _turn(self, request: Request) -> Turn:
        facts = request.facts(pending=may_lack_commits(self._repository, request.remote))
        return whose_turn(self._ledger.read(request.remote), facts, self._clock())

    def _hands_over(self, request: Request) -> bool:
        """
        Whether to leave all to the claim's holder, which may leave the next attempt to the retry itself.

        Returns:
            True; False where the retry is still to be made, and the claim is free again.

        Raises:
            PushDeferred: The claim is not free in time for this retry.
        """
        until = time.monotonic() + _CLAIM_WAIT_S
        # An attempt that has just taken the claim replaces the retry before it pushes.
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
        Wait until *until* for the end of a burst: the first moment in which no commit has come for a while.
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
        Leave the attempt to the one retry that is scheduled, while the last attempt is too recent.

        Raises:
            PushDeferred: It is, or this task has had its turn, or it is that retry and came before its time.
        """
        last, now = claim.entry.last_attempt_at, self._clock()
        due = claim.entry.next_attempt_at
        if request.may_be_early and request.retries and due is not None and claim.entry.waits(now):
            claim.write(retry=request.retries + 1)
            raise PushDeferred(due - now)
        if last is None or last > now or request.occasion in AHEAD_OF_RETRY:
            return
        due = last + self._settings.push_min_interval_s
        if now < due or turn_is_over:
            claim.write(chain=request.chain, retry=request.retries + 1, next_attempt_at=due, backoff_s=None)
            raise PushDeferred(max(0.0, due - now))

    def _was_told_to_wait(self, entry: Entry) -> bool:
        failure = entry.last_failure
        return failure is not None and failure.reason == "rate-limited" and entry.waits(self._clock())
