"""
One attempt to push, made under a claim: run git, believe it or ask, remember.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from ferry.worker.backoff import delay_s
from ferry.worker.episodes import Episodes, Told
from ferry.worker.errors import (
    NonFastForward,
    PushError,
    PushFailed,
    PushRefused,
    RepositoryError,
    WorkerError,
)
from ferry.worker.failures import POLICIES, Reason, Verdict
from ferry.worker.git.process import Finished, end_group
from ferry.worker.git.repository import Repository, ended_within_s
from ferry.worker.ledger.entry import Running
from ferry.worker.ledger.landings import Landing
from ferry.worker.ledger.ledger import Claim
from ferry.worker.observe.logs import log
from ferry.worker.observe.tracing import span
from ferry.worker.parts import Part, Parts
from ferry.worker.repair.reconcile import JOIN_S, Reconciler
from ferry.worker.settings import ORIGIN, Settings

_ASKED = "asked-the-remote"
_ASK_TIMEOUT_S = 30.0

NOTHING_LEFT = "another push had just brought everything"
STILL_DIVERGED = "looked: the remote still holds commits that we lack"
BEHIND = "the remote holds everything, and commits that we lack"
RECONCILED = "joined our branch with the remote's"


class Attempt:
    """
    One attempt to bring the remote of a claim up to date.

    Args:
        claim: The right to push to the remote, held for as long as this lives.
        chain: Task that will retry if this fails; None where the attempt is made
            out of turn and the retry that is scheduled stays the only one.
        retry: Which retry of that task that will be.
        look_first: Whether to fetch before the push where the last one met a
            divergence, and to be quiet where that lasts.
        clock: Seconds since the epoch.
        jitter: A number in [0, 1), afresh at each call.

    Attributes:
        is_in_burst: Whether several commits came while the push ran; one may be somebody's next.
    """

    def __init__(
        self,
        claim: Claim,
        settings: Settings,
        repository: Repository,
        reconciler: Reconciler,
        episodes: Episodes,
        *,
        chain: str | None,
        retry: int,
        look_first: bool,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._claim = claim
        self._remote = claim.remote
        self._settings = settings
        self._repository = repository
        self._reconciler = reconciler
        self._episodes = episodes
        self._chain = chain
        self._retry = retry
        self._look_first = look_first
        self._clock = clock
        self._jitter = jitter
        self._number = 1 if claim.entry.gave_up else claim.entry.attempt + 1
        self._parts = Parts(repository, settings.push_timeout_s)
        self.is_in_burst = False

    def make(self) -> str:
        """
        Push the branch as it stands now; returns what came of it in a few words.

        Raises:
            PushFailed: It failed and is to be retried.
            PushRefused: It failed and a retry would not help.
        """
        self._end_orphan()
        self._claim.note(last_attempt_at=self._clock())
        if self._look_first:
            self._claim.write()  # a look may be all that comes of it
        if self._chain is not None and self._claim.entry.next_attempt_at is not None:
            # Before the branch is read: a task that finds the retry still waiting
            # leaves its commit to us, so we must see that commit.
            self._claim.write(chain=None, next_attempt_at=None, backoff_s=None)
        head = None
        try:
            head = self._repository.head()
            if head is None or self._repository.is_pushed(self._remote, head):
                self._succeeded()
                return NOTHING_LEFT
            if self._look_first and self._is_known_divergence() and (outcome := self._look(head)):
                return outcome
            return self._push(head)
        except RepositoryError as exc:
            verdict = Verdict(reason="local", rule="our-repository", evidence=str(exc), ambiguous=False)
            raise self._failed(head, verdict, str(exc)) from exc

    def _look(self, head: str) -> str | None:
        """
        See what has become of a divergence that is known; returns None if a push may land now.
        """
        self._begin(self._settings.push_timeout_s)
        if self._can_be_fast_forwarded(head):
            return None
        if self._joined():
            return RECONCILED
        if self._repository.is_pushed(self._remote, head):
            return self._is_behind(head)
        self._claim.note(tried=head)
        self._rescue(head)
        self._claim.write()
        return STILL_DIVERGED

    def _push(self, head: str) -> str:
        """
        Push the branch, or the part of it that goes in time; returns what came of it.
        """
        seen = self._repository.remote_head(self._remote)
        part = self._parts.first(seen, head, self._claim.entry.part)
        finished, verdict = self._send(part)
        if verdict.landed:
            return self._landed(seen, head, part, finished, verdict)
        if verdict.reason == "non-fast-forward":
            if self._joined():
                return RECONCILED
            self._fetch()
            if self._repository.is_pushed(self._remote, part.commit):
                return self._is_behind(head)
        said = finished.stdout + finished.stderr
        cut_short = self._parts.cut_short(part, seen, verdict, finished.duration_s)
        raise self._failed(head, verdict, _detail(finished, verdict), said, cut_short=cut_short)

    def _is_behind(self, head: str) -> str:
        """
        Note that the remote holds all that we have, and commits that we lack: nothing is to be pushed.
        """
        tip = self._repository.remote_head(self._remote)
        log().info("remote.ahead", remote=self._remote, local_head=head, remote_head=tip)
        self._succeeded(outcomes=self._claim.count("up-to-date"))
        return BEHIND

    def _is_known_divergence(self) -> bool:
        return self._episodes.is_known(self._claim.entry, "non-fast-forward")

    def _can_be_fast_forwarded(self, head: str) -> bool:
        """
        Fetch the branch, and tell whether all that it holds is in ours.
        """
        try:
            tip = self._repository.fetch(self._remote, timeout_s=self._settings.push_timeout_s)
        except RepositoryError:
            return True  # gone, or out of reach: a push will say which
        return tip is None or self._repository.contains(tip, head)

    def _joined(self) -> bool:
        """
        Merge with what the remote holds, where the settings say so; returns whether it takes a push now.
        """
        if self._settings.data_reconcile != "auto" or self._remote != ORIGIN:
            return False
        self._claim.begin(JOIN_S + 2 * ended_within_s(self._settings.push_timeout_s))
        try:
            return self._reconciler.join(self._remote, "merge").is_joined
        except WorkerError as exc:
            log().warning("reconcile.failed", remote=self._remote, error=str(exc))
            return False

    def _rescue(self, head: str) -> None:
        """
        Put *head* on a branch of its own on the remote, or bring that branch forward to it. Never forced.
        """
        entry = self._claim.entry
        if not self._settings.push_rescue or entry.rescued == head:
            return
        self._begin(self._settings.push_timeout_s)
        name = entry.rescue or f"rescue/{self._repository.branch}-{_utc(self._clock())}"
        try:
            finished = self._repository.push(
                self._remote, head, branch=name, timeout_s=self._settings.push_timeout_s
            )
            verdict = finished.verdict()
            landed, detail = verdict.landed, _detail(finished, verdict)
        except RepositoryError as exc:
            landed, detail = False, str(exc)
        if landed:
            self._claim.write(rescue=name, rescued=head)
            log().info("push.rescued", remote=self._remote, branch=name, commit=head)
        else:
            # Of no consequence to the commits: they wait here as well.
            log().warning("push.rescue_failed", remote=self._remote, branch=name, commit=head, error=detail)

    def _send(self, part: Part) -> tuple[Finished, Verdict]:
        try:
            self._begin(part.timeout_s)
            with span("git push", **{"ferry.remote": self._remote, "ferry.commit": part.commit}):
                finished = self._repository.push(
                    self._remote,
                    part.commit,
                    timeout_s=part.timeout_s,
                    noted=lambda group: self._claim.write(running=Running.here(group)),
                )
        finally:
            self._claim.note(running=None)
        verdict = finished.verdict()
        if verdict.ambiguous and not verdict.landed:
            verdict = self._settle(part.commit, verdict)
            if verdict.landed:
                self._repository.saw_on_remote(self._remote, part.commit)
        return finished, verdict

    def _settle(self, head: str, doubtful: Verdict) -> Verdict:
        """
        Ask the remote whether a push that git calls failed has landed all the same.
        """
        repository, timeout_s = self._repository, min(self._settings.push_timeout_s, _ASK_TIMEOUT_S)
        self._begin(2 * timeout_s)
        try:
            tip = repository.ask(self._remote, timeout_s=timeout_s)
            if tip is None:
                return doubtful
            if not repository.contains(tip, head):
                repository.fetch(self._remote, timeout_s=timeout_s)
        except RepositoryError:
            return doubtful
        asked = Verdict(reason="pushed", rule=_ASKED, evidence=f"{self._remote} is at {tip}", ambiguous=False)
        if repository.contains(head, tip):
            return asked
        return doubtful if repository.contains(tip, head) else replace(asked, reason="non-fast-forward")

    def _landed(self, seen: str | None, head: str, part: Part, finished: Finished, verdict: Verdict) -> str:
        self.is_in_burst = len(self._repository.commits_between(head, self._repository.head() or head)) > 1
        head, is_all = part.commit, part.commit == head
        now, outcome = (
            self._clock(),
            "landed_but_reported_failed" if verdict.rule == _ASKED else verdict.reason,
        )
        # Without a remote-tracking ref it only seemed that the remote lacked everything.
        pushed = [] if verdict.reason == "up-to-date" else self._repository.commits_between(seen, head)
        oldest = pushed[-1] if seen and pushed else head
        lag_s = max(0.0, now - self._repository.commit_time(oldest))
        log().info(
            "push.done",
            remote=self._remote,
            branch=self._repository.branch,
            commit=head,
            commits=len(pushed),
            duration_ms=round(finished.duration_s * 1000),
            outcome=outcome,
            lag_ms=round(lag_s * 1000),
            attempt=self._number,
        )
        if pushed:
            self._claim.landed(
                Landing(
                    at=round(now, 3),
                    lag_s=round(lag_s, 3),
                    duration_s=round(finished.duration_s, 3),
                    commits=len(pushed),
                )
            )
        entry = self._claim.entry
        self._succeeded(
            part=None if is_all else part.next_size(finished.duration_s),
            last_push_at=now,
            lag_s=entry.lag_s.observe(lag_s),
            push_s=entry.push_s.observe(finished.duration_s),
            commits_pushed=entry.commits_pushed + len(pushed),
            outcomes=self._claim.count(outcome),
        )
        noun = "commit" if len(pushed) == 1 else "commits"
        return f"pushed {len(pushed)} {noun} in {finished.duration_s * 1000:.0f} ms"

    def _succeeded(self, **changes: Any) -> None:
        """
        Forget the failures that this success ends, and say how long they lasted.
        """
        entry = self._claim.entry
        self._claim.write(
            attempt=0,
            chain=None,
            next_attempt_at=None,
            backoff_s=None,
            last_failure=None,
            failing_since=None,
            failing_s=0.0,
            paged=(),
            gave_up=False,
            rescue=None,
            rescued=None,
            tried=None,
            **changes,
        )
        if entry.last_failure and entry.failing_since is not None:
            log().info(
                "push.recovered",
                remote=self._remote,
                reason=entry.last_failure.reason,
                episode_seconds=round(entry.failing_for_s(self._clock()), 3),
            )

    def _failed(
        self,
        head: str | None,
        verdict: Verdict,
        detail: str,
        said: str = "",
        *,
        cut_short: Part | None = None,
    ) -> PushError:
        """
        Record a failure, tell of it and schedule the retry; returns the exception to raise.
        """
        reason = cast(Reason, verdict.reason)
        policy, limit = POLICIES[reason], self._settings.push_max_retries
        is_last = limit is not None and self._number > limit and self._chain is not None
        half = cut_short and (cut_short.commits or 1) // 2
        gave_up = policy.retried and is_last and not half
        kind = NonFastForward if reason == "non-fast-forward" else PushRefused
        error = (PushFailed if policy.retried and not gave_up else kind)(
            self._remote, reason, detail, policy.hint
        )
        failing_s = self._claim.entry.failing_for_s(self._clock())
        scheduled = self._schedule(error, verdict.retry_after_s) if isinstance(error, PushFailed) else {}
        self._episodes.record(
            self._claim,
            error,
            number=self._number,
            gave_up=gave_up,
            tried=head,
            **({} if half is None else {"part": half or 1}),
            # Out of turn, an attempt is no step of the backoff.
            **({} if self._chain is None else {"attempt": self._number}),
            **scheduled,
        )
        if isinstance(error, NonFastForward) and head is not None:
            self._rescue(head)
        told = Told(
            head=head,
            attempt=self._number,
            is_blocked=not isinstance(error, PushFailed),
            pages=policy.page == "at-once" or gave_up or failing_s >= self._settings.push_page_after_s,
            said=said,
        )
        self._episodes.tell(self._claim, error, told)
        if half:
            log().info("push.in_parts", remote=self._remote, commit=head, commits=half, reason=reason)
        if scheduled:
            log().info(
                "push.retry_scheduled",
                remote=self._remote,
                commit=head,
                attempt=self._number,
                next_delay_ms=round(scheduled["backoff_s"] * 1000),
                reason=reason,
            )
        return error

    def _schedule(self, error: PushFailed, stated_wait_s: float | None) -> dict[str, Any]:
        """
        Say in *error* when it is retried; returns what the ledger is to know of that.
        """
        if self._chain is None:
            return {}
        backoff_s = delay_s(
            self._number,
            base_s=self._settings.push_backoff_base_s,
            cap_s=self._settings.push_backoff_cap_s,
            jitter=self._jitter(),
        )
        wait_s = max(backoff_s, stated_wait_s or 0.0, self._settings.push_min_interval_s)
        wait_s = min(wait_s, self._settings.push_longest_wait_s)
        error.retry_in_s = wait_s
        return {
            "chain": self._chain,
            "retry": self._retry,
            "next_attempt_at": self._clock() + wait_s,
            "backoff_s": wait_s,
        }

    def _fetch(self) -> None:
        """
        See where the remote stands now, as far as it tells.
        """
        self._begin(self._settings.push_timeout_s)
        try:
            self._repository.fetch(self._remote, timeout_s=self._settings.push_timeout_s)
        except RepositoryError as exc:
            log().warning("push.divergence_unknown", remote=self._remote, error=str(exc))

    def _begin(self, timeout_s: float) -> None:
        """
        Say that a visit to the remote begins, which ends by itself after *timeout_s* seconds.
        """
        self._claim.begin(ended_within_s(timeout_s))

    def _end_orphan(self) -> None:
        """
        End a push whose worker was killed: it runs on, and nobody minds its timeout.
        """
        running = self._claim.entry.running
        if running and running.is_alive_here():
            log().warning("push.orphan_ended", remote=self._remote, group=running.group)
            end_group(running.group)
        if running and running.host == socket.gethostname():
            self._claim.write(running=None)


def _utc(seconds: float) -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))


def _detail(finished: Finished, verdict: Verdict) -> str:
    if finished.exit_status is None:
        return f"ended after {finished.duration_s:.0f} s without an answer"
    return verdict.evidence or f"git push ended with status {finished.exit_status} and said nothing"
