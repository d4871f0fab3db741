"""
Recording the result of an attempt in the ledger, the log and the landings, and making the exception for
Celery.

``attempt`` finds the result of a push. This module records it, schedules the retry, and reports a failure to
``episodes``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from ferry.worker.backoff import delay_s
from ferry.worker.episodes.episodes import Episodes, Told
from ferry.worker.errors import NonFastForward, PushError, PushFailed, PushRefused
from ferry.worker.failures import POLICIES, REWRITTEN, Reason, Verdict
from ferry.worker.git.parts import Part
from ferry.worker.git.remote import ASKED, EXPRESS
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.entry import Refusal
from ferry.worker.ledger.landings import Landing
from ferry.worker.ledger.ledger import Claim
from ferry.worker.observe.logs import log
from ferry.worker.observe.printable import many
from ferry.worker.process.running import Finished
from ferry.worker.repair.rescue import rescue
from ferry.worker.settings import Settings


class Outcomes:
    """
    Records the result of one attempt.

    Args:
        claim: The claim that the attempt holds.
        chain: Task that will retry if it fails; None if the attempt is made ahead of a scheduled retry, which
            then remains.
        retry: The number of that retry.
        clock: Seconds since the epoch.
        jitter: A number in [0, 1).
    """

    def __init__(
        self,
        claim: Claim,
        settings: Settings,
        repository: Repository,
        episodes: Episodes,
        *,
        chain: str | None,
        retry: int,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._claim = claim
        self._remote = claim.remote
        self._settings = settings
        self._repository = repository
        self._episodes = episodes
        self.chain = chain
        self._retry = retry
        self._clock = clock
        self._jitter = jitter
        self._number = 1 if claim.entry.gave_up else claim.entry.attempt + 1

    def landed(
        self, seen: str | None, part: Part, finished: Finished, verdict: Verdict, *, is_all: bool
    ) -> str:
        """
        Record that *part* is on the remote; returns a few words on it.

        Args:
            seen: The tip of the remote's branch before.
            is_all: Whether that is all of the branch.
        """
        head, now, duration_s, entry = part.commit, self._clock(), finished.duration_s, self._claim.entry
        outcome = "landed_but_reported_failed" if verdict.rule == ASKED else verdict.reason
        # Without a remote-tracking ref, every commit counted as pending although the remote had them.
        pushed = [] if verdict.reason == "up-to-date" else self._repository.commits_between(seen, head)
        made_at = self._repository.commit_time(pushed[-1] if seen and pushed else head)
        lag_s = max(0.0, now - entry.waiting_since(made_at, self._repository.known_since(self._remote)))
        log().info(
            "push.done",
            remote=self._remote,
            branch=self._repository.branch,
            commit=head,
            commits=len(pushed),
            duration_ms=round(duration_s * 1000),
            outcome=outcome,
            way=verdict.rule if verdict.rule == EXPRESS else "git",
            lag_ms=round(lag_s * 1000),
            attempt=self._number,
        )
        if pushed:
            at, lag, took = (round(each, 3) for each in (now, lag_s, duration_s))
            self._claim.landed(Landing(at=at, lag_s=lag, duration_s=took, commits=len(pushed)))
        self._episodes.end(
            self._claim,
            part=None if is_all else part.next_size(duration_s),
            last_push_at=now,
            seen_at=now,
            waits_from=entry.last_attempt_at if is_all else entry.waits_from,
            lag_s=entry.lag_s.observe(lag_s),
            push_s=entry.push_s.observe(duration_s),
            commits_pushed=entry.commits_pushed + len(pushed),
            outcomes=self._claim.count(outcome),
        )
        return f"pushed {many(len(pushed), 'commit')} in {duration_s * 1000:.0f} ms"

    def failed(
        self,
        head: str | None,
        verdict: Verdict,
        detail: str,
        *,
        said: str = "",
        cut_short: Part | None = None,
    ) -> PushError:
        """
        Record, log and page a failure, and schedule the retry; returns the exception to raise.

        Args:
            head: The commit that did not arrive; None where the branch cannot be read.
            verdict: Why the push failed.
            detail: The reason in one line.
            said: All that git printed, redacted.
            cut_short: The part that took too long; the next is half of it.
        """
        policy = POLICIES[cast(Reason, verdict.reason)]
        # 0: a single commit, which is tried again unchanged.
        half = (cut_short.commits or 1) // 2 if cut_short else None
        gave_up = policy.retried and self._is_last() and not half
        error = self._error(head, verdict, detail, is_retried=policy.retried and not gave_up)
        scheduled = self._schedule(error, verdict.retry_after_s) if isinstance(error, PushFailed) else {}
        parts = {} if half is None else {"part": half or 1}
        # An attempt ahead of the scheduled retry does not count for the backoff.
        step = {} if self.chain is None else {"attempt": self._number}
        pages = self._episodes.record(
            self._claim,
            error,
            number=self._number,
            said=said,
            gave_up=gave_up,
            tried=head,
            **parts,
            **step,
            **scheduled,
        )
        if isinstance(error, NonFastForward) and head is not None:
            rescue(self._claim, self._settings, self._repository, head, self._clock())
        is_blocked = not isinstance(error, PushFailed)
        told = Told(head=head, attempt=self._number, is_blocked=is_blocked, pages=pages, said=said)
        self._episodes.tell(self._claim, error, told)
        self._log_what_follows(error, head, half, scheduled.get("backoff_s"))
        return error

    def _is_last(self) -> bool:
        limit = self._settings.push_max_retries
        return limit is not None and self._number > limit and self.chain is not None

    def _error(self, head: str | None, verdict: Verdict, detail: str, *, is_retried: bool) -> PushError:
        reason, hint, held = cast(Reason, verdict.reason), verdict.hint, self._claim.entry.rewritten
        has_diverged = reason == "non-fast-forward"
        if has_diverged and held is not None:
            hint = REWRITTEN.hint
            detail = f"others rewrote its history: it no longer holds {held}, which it held; {detail}"
        elif has_diverged and (refusal := self._refusal(head)):
            hint, detail = refusal.hint, f"{refusal}; {detail}"
        refused = NonFastForward if has_diverged else PushRefused
        kind: type[PushError] = PushFailed if is_retried else refused
        return kind(self._remote, reason, detail, hint)

    def _refusal(self, head: str | None) -> Refusal | None:
        """
        Return why a merge of *head*, or of a later commit, with the remote's tip was refused.
        """
        refused = self._claim.entry.refused
        is_it = refused is not None and head is not None and self._repository.contains(head, refused.ours)
        return refused.refusal if refused and is_it else None

    def _log_what_follows(
        self, error: PushError, head: str | None, commits: int | None, wait_s: float | None
    ) -> None:
        about = {"remote": self._remote, "commit": head, "reason": error.reason}
        if commits:
            log().info("push.in_parts", **about, commits=commits)
        if wait_s is not None:
            log().info(
                "push.retry_scheduled", **about, attempt=self._number, next_delay_ms=round(wait_s * 1000)
            )

    def _schedule(self, error: PushFailed, stated_wait_s: float | None) -> dict[str, Any]:
        """
        Set in *error* when it is retried; returns the changes to the ledger's entry.
        """
        if self.chain is None:
            return {}
        backoff_s = delay_s(
            self._number,
            base_s=self._settings.push_backoff_base_s,
            cap_s=self._settings.push_backoff_cap_s,
            jitter=self._jitter(),
        )
        wait_s = max(backoff_s, stated_wait_s or 0.0, self._settings.push_min_interval_s)
        # Only an attempt pages for a long failure, so one is scheduled for the time when the page is due.
        left_s = self._settings.push_page_after_s - self._claim.entry.failing_for_s(self._clock())
        if not stated_wait_s and self._settings.push_min_interval_s < left_s < wait_s:
            wait_s = left_s
        wait_s = min(wait_s, self._settings.push_longest_wait_s)
        error.retry_in_s = wait_s
        return {
            "chain": self.chain,
            "retry": self._retry,
            "next_attempt_at": self._clock() + wait_s,
            "backoff_s": wait_s,
        }
