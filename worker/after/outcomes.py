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
_STATUS, _RESUME = "ferry push status", "ferry hooks resume {extension}"
_SKIP = "ferry hooks skip {extension} --event {event}"


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

    def resume(self, claim: Claim, hook: Hook) -> None:
        """
        Forget that a function has stopped the calls, which ends the episode.
        """
        log().info("hook.resumed", extension=hook.extension, on=hook.event)
        self._episodes.resolve(str(hook), claim.entry)
        self._episodes.forget(claim)

    def _fail(self, claim: Claim, hook: Hook, outcome: Outcome) -> HookFailed:
        """
        Record the failure in *outcome*, tell of it, and say when the functions are called again.
        """
        number = claim.entry.attempt + 1
        told = f"{outcome.failed} (for {outcome.at[:12]})" if outcome.at else str(outcome.failed)
        error = HookFailed(str(hook), REASON, told, _hint(hook, stops=outcome.stops))
        scheduled = {} if outcome.stops else self._schedule(claim, error, number, outcome.wait_s)
        pages = self._episodes.record(
            claim,
            error,
            number=number,
            said=outcome.said,
            attempt=number,
            last_attempt_at=self._clock(),
            gave_up=outcome.stops,
            **{"next_attempt_at": None, "backoff_s": None, **scheduled},
        )
        log().warning(
            "hook.failed",
            extension=hook.extension,
            on=hook.event,
            commit=outcome.at,
            attempt=number,
            error=told,
            said=as_printed(outcome.said),
            next_delay_ms=None if outcome.stops else round((error.retry_in_s or 0.0) * 1000),
        )
        if pages and REASON not in claim.entry.paged:
            self._page(claim, hook, error)
        return error

    def _schedule(self, claim: Claim, error: HookFailed, number: int, stated_s: float) -> dict[str, float]:
        """
        Set in *error* when the functions are called again; returns the changes to the ledger's entry.

        Args:
            number: Which attempt in a row has failed.
            stated_s: The least wait, as the function has said.
        """
        settings, now = self._settings, self._clock()
        backoff_s = delay_s(
            number,
            base_s=settings.push_backoff_base_s,
            cap_s=settings.push_backoff_cap_s,
            jitter=self._jitter(),
        )
        wait_s = max(backoff_s, min(stated_s, settings.push_backoff_cap_s))
        left_s = settings.push_page_after_s - claim.entry.failing_for_s(now)
        if 0 < left_s < wait_s and not stated_s:
            wait_s = left_s  # a failure pages: one is to be had at that time
        error.retry_in_s = wait_s
        return {"next_attempt_at": now + wait_s, "backoff_s": wait_s}

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
            "commands": commands(hook, stops=claim.entry.gave_up),
        }
        self._episodes.page(claim, error, context)


def commands(hook: Hook, *, stops: bool = False) -> list[str]:
    """
    Return what to type after a failure of *hook*, in order.

    Args:
        stops: Whether a function has stopped the calls.
    """
    return [_named(command, hook) for command in (_STATUS, _RESUME if stops else _SKIP)]


def _hint(hook: Hook, *, stops: bool) -> str:
    if stops:
        return f"Remove it from the settings and restart; or have it called again: {_named(_RESUME, hook)}"
    return (
        f"Correct the function and restart the worker; or leave out what it fails for: {_named(_SKIP, hook)}"
    )


def _named(command: str, hook: Hook) -> str:
    return command.format(extension=hook.extension, event=hook.event)
