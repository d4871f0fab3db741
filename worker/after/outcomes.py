"""
What a call of extensions' functions leaves behind: in the ledger and the log, and a page where one is due.
"""

from __future__ import annotations

from collections.abc import Callable

from ferry.worker.after.calling import Outcome
from ferry.worker.after.hooks import Hook
from ferry.worker.backoff import delay_s
from ferry.worker.dossier import as_printed
from ferry.worker.episodes.episodes import Episodes
from ferry.worker.errors import HookFailed
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.ledger import Claim
from ferry.worker.observe.logs import log
from ferry.worker.settings import Settings

REASON = "extension"
_COMMANDS = ("ferry push status", "ferry hooks skip {extension} --event {event}")


class Outcomes:
    """
    Remembers what comes of the calls in one repository.

    Args:
        settings: When a retry and a page are due.
        repository: The data repository.
        clock: Seconds since the epoch.
        jitter: Returns a new number in [0, 1) at each call.
    """

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._jitter = jitter
        self._episodes = Episodes(settings, repository, clock)

    def record(self, claim: Claim, hook: Hook, outcome: Outcome) -> HookFailed | None:
        """
        Remember *outcome*; returns the error to raise, if a function has failed.
        """
        about = {"extension": hook.extension, "on": hook.event}
        duration_ms, said = round(outcome.duration_s * 1000), as_printed(outcome.said)
        if outcome.done or outcome.failed is None:
            self.succeed(claim, hook, done=outcome.done)
        if outcome.done:
            log().info("hook.done", **about, calls=outcome.done, duration_ms=duration_ms)
        if said and outcome.failed is None:
            log().info("hook.printed", **about, said=said)
        return None if outcome.failed is None else self._fail(claim, hook, outcome)

    def succeed(self, claim: Claim, hook: Hook, *, done: int) -> None:
        """
        Remember that *done* calls have succeeded, which ends an episode of failures.
        """
        entry = claim.entry
        counts = {**entry.outcomes, "done": entry.outcomes.get("done", 0) + done}
        now = self._clock()
        if entry.last_failure is None:
            if done:
                claim.write(outcomes=counts, last_push_at=now)
            return
        lasted_s = round(entry.failing_for_s(now), 3)
        log().info("hook.recovered", extension=hook.extension, on=hook.event, episode_seconds=lasted_s)
        self._episodes.resolve(str(hook), entry)
        self._episodes.forget(claim, outcomes=counts, last_push_at=now)

    def _fail(self, claim: Claim, hook: Hook, outcome: Outcome) -> HookFailed:
        """
        Record the failure in *outcome*, tell of it, and say when the functions are called again.
        """
        settings, now, number = self._settings, self._clock(), claim.entry.attempt + 1
        wait_s = delay_s(
            number,
            base_s=settings.push_backoff_base_s,
            cap_s=settings.push_backoff_cap_s,
            jitter=self._jitter(),
        )
        left_s = settings.push_page_after_s - claim.entry.failing_for_s(now)
        if 0 < left_s < wait_s:
            wait_s = left_s  # a failure pages: one is to be had at that time
        told = f"{outcome.failed} (for {outcome.at[:12]})" if outcome.at else str(outcome.failed)
        error = HookFailed(str(hook), REASON, told, _hint(hook))
        error.retry_in_s = wait_s
        pages = self._episodes.record(
            claim,
            error,
            number=number,
            said=outcome.said,
            attempt=number,
            last_attempt_at=now,
            next_attempt_at=now + wait_s,
            backoff_s=wait_s,
        )
        log().warning(
            "hook.failed",
            extension=hook.extension,
            on=hook.event,
            commit=outcome.at,
            attempt=number,
            error=told,
            said=as_printed(outcome.said),
            next_delay_ms=round(wait_s * 1000),
        )
        if pages and REASON not in claim.entry.paged:
            self._page(claim, hook, error)
        return error

    def _page(self, claim: Claim, hook: Hook, error: HookFailed) -> None:
        failure = claim.entry.last_failure
        context = {
            "reason": REASON,
            "extension": hook.extension,
            "event": hook.event,
            "attempts": claim.entry.attempt,
            "failing_seconds": round(claim.entry.failing_for_s(self._clock())),
            "what_happened": error.detail,
            "what_it_printed": failure.said if failure else "",
            "way_out": error.hint,
            "commands": commands(hook),
        }
        self._episodes.page(claim, error, context)


def commands(hook: Hook) -> list[str]:
    """
    Return what to type after a failure of *hook*, in order.
    """
    return [each.format(extension=hook.extension, event=hook.event) for each in _COMMANDS]


def _hint(hook: Hook) -> str:
    return (
        f"Correct the function and restart the worker; or leave out what it fails for: ferry hooks skip "
        f"{hook.extension} --event {hook.event}"
    )
