"""
Recording a failure in the ledger, the log and a page, for attempts and the watchdog.

An episode begins with the first failure at a remote and ends with the next push that lands there. It is
counted once, by its first reason, and each reason pages once in it. ``Episodes`` is the only place that
records a failure, ends an episode or sends a page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ferry.worker.dossier import as_printed, dossier, headline, standing
from ferry.worker.episodes.resolving import Resolver
from ferry.worker.errors import PushError, PushRefused
from ferry.worker.files.places import pages_directory
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.entry import Entry, Failure
from ferry.worker.ledger.events import Event
from ferry.worker.ledger.ledger import Claim
from ferry.worker.ledger.outbox import Outbox
from ferry.worker.observe.logs import log
from ferry.worker.paging import Page, event_id, is_configured, page, send_again
from ferry.worker.settings import Settings
from ferry.worker.turns.need import is_page_due, needs_person

_HEADS = ("local_head", "remote_head", "ahead", "behind", "rescue_branch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """
    How to log and page a failure.

    Attributes:
        head: The commit that did not arrive; None if the branch cannot be read.
        attempt: Which attempt in a row it was.
        is_blocked: Whether a person is needed; then it is logged as an error, not as a warning.
        pages: Whether a page is due, unless this episode already sent one for this reason.
        said: All that git printed, redacted.
        facts: Further facts for the page.
    """

    head: str | None
    attempt: int
    is_blocked: bool
    pages: bool
    said: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def outbox_of(repository: Repository, clock: Callable[[], float] = time.time) -> Outbox:
    """
    Return the outbox of *repository*, which holds pages until Sentry accepts them.
    """
    return Outbox(pages_directory(repository.path), clock=clock)


class Episodes:
    """
    Records, logs and pages the failures of one repository's pushes.

    Args:
        settings: When to page, and the API's address.
        repository: The data repository.
        clock: Seconds since the epoch.
    """

    def __init__(self, settings: Settings, repository: Repository, clock: Callable[[], float]) -> None:
        self._repository = repository
        self._outbox = outbox_of(repository, clock)
        self._clock = clock
        self._page_after_s = settings.push_page_after_s
        self._link = settings.link
        self._resolver = Resolver(settings)

    def record(self, claim: Claim, error: PushError, *, number: int, said: str = "", **changes: Any) -> bool:
        """
        Write *error* to the ledger; the first since the last success begins an episode.

        Sets ``error.needs_person``.

        Returns:
            Whether a page is due for the failure.

        Args:
            number: Which attempt in a row it was.
            said: All that the remote and git printed, redacted.
            changes: Further fields of the entry, for the same write.
        """
        entry, now = claim.entry, self._clock()
        begins = entry.failing_since is None
        claim.note(
            last_failure=Failure(
                reason=error.reason,
                message=error.detail,
                hint=error.hint,
                at=now,
                attempt=number,
                said=as_printed(said),
            ),
            failing_since=now if begins else entry.failing_since,
            failing_s=entry.failing_for_s(now),
            episodes=claim.episode(error.reason) if begins else entry.episodes,
            outcomes=claim.count(error.reason),
            **changes,
        )
        if begins or (entry.last_failure and entry.last_failure.reason != error.reason):
            detail = f"{error.reason}: {error.detail}"
            claim.ledger.remember(claim.remote, Event(at=now, kind="failing", detail=detail))
        need = needs_person(claim.entry, page_after_s=self._page_after_s, now=now)
        error.needs_person = need is not None
        claim.write(needed_since=need and need.since)
        return is_page_due(claim.entry, page_after_s=self._page_after_s, now=now)

    def end(self, claim: Claim, **changes: Any) -> None:
        """
        End the episode after a success, and log how long it lasted.

        Args:
            changes: Further fields of the entry, for the same write.
        """
        entry = claim.entry
        self.forget(claim, **changes)
        if entry.last_failure and entry.failing_since is not None:
            now, reason = self._clock(), entry.last_failure.reason
            lasted_s = round(entry.failing_for_s(now), 3)
            log().info("push.recovered", remote=claim.remote, reason=reason, episode_seconds=lasted_s)
            detail = f"{reason}, after {lasted_s:.0f} s"
            claim.ledger.remember(claim.remote, Event(at=now, kind="recovered", detail=detail))
            self.resolve(claim.remote, entry)

    def forget(self, claim: Claim, **changes: Any) -> None:
        """
        Clear the failures of the episode from the entry.

        Args:
            changes: Further fields of the entry, for the same write.
        """
        claim.write(
            attempt=0,
            chain=None,
            next_attempt_at=None,
            backoff_s=None,
            last_failure=None,
            failing_since=None,
            failing_s=0.0,
            needed_since=None,
            paged=(),
            gave_up=False,
            rescue=None,
            rescued=None,
            tried=None,
            rewritten=None,
            refused=None,
            **changes,
        )

    def resolve(self, remote: str, entry: Entry) -> None:
        """
        Resolve the Sentry issues of the episode of *entry*; does not wait for Sentry.
        """
        repository, since = self._repository, entry.failing_since
        if since is not None:
            about = (repository.known_as, str(repository.path), remote, repository.branch)
            self._resolver.resolve([event_id(*about, reason=reason, since=since) for reason in entry.paged])

    def tell(self, claim: Claim, error: PushError, told: Told) -> None:
        """
        Log *error*, and send its page if one is due; does not wait for Sentry.
        """
        pages = told.pages and error.reason not in claim.entry.paged
        fields = {
            "remote": claim.remote,
            "commit": told.head,
            "attempt": told.attempt,
            "reason": error.reason,
            "error": error.detail,
            "said": as_printed(told.said),
        }
        if not told.is_blocked:
            log().warning("push.failed", **fields)
        if not (pages or told.is_blocked):
            return
        context = {
            **dossier(self._repository, error, claim.entry, said=told.said, now=self._clock()),
            **told.facts,
        }
        if told.is_blocked:
            heads = {name: context.get(name) for name in _HEADS}
            log().error("push.blocked", **fields, hint=error.hint, **heads)
        if pages:
            self.page(claim, error, context)

    def _links(self, reason: str) -> dict[str, str]:
        pages = {"status_page": "/status", "runbook": f"/status/runbook#{reason}"}
        return {name: link for name, path in pages.items() if (link := self._link(path))}

    def is_known(self, entry: Entry, reason: str) -> bool:
        """
        Whether *reason* is the last failure in *entry*, and its page was sent.
        """
        if entry.last_failure is None or entry.last_failure.reason != reason:
            return False
        return reason in entry.paged or not is_configured()

    def send_pages(self) -> None:
        """
        Send again the pages that Sentry has not accepted yet.
        """
        send_again(self._outbox)

    def tell_of_pause(self, claim: Claim) -> None:
        """
        Log and page that the remote of *claim* has been paused for a day.
        """
        entry, remote = claim.entry, claim.remote
        paused_at, by = entry.paused_at or self._clock(), entry.paused_by or "an operator"
        detail = f"paused for {(self._clock() - paused_at) / 3600:.0f} h by {by}"
        detail += f": {entry.paused_why}" if entry.paused_why else ""
        error = PushRefused(remote, "paused", detail, f"Resume it with: ferry push resume --remote {remote}")
        log().warning("push.pause_forgotten", remote=remote, by=by, why=entry.paused_why, error=detail)
        commands = [f"ferry push {command} --remote {remote}" for command in ("history", "resume")]
        context = {
            "reason": error.reason,
            **standing(self._repository, remote, entry, now=self._clock()),
            "what_happened": detail,
            "way_out": error.hint,
            "commands": commands,
        }
        if self._send(error, since=paused_at, context=context) or not is_configured():
            claim.write(pause_paged=True)

    def page(self, claim: Claim, error: PushError, context: Mapping[str, Any]) -> None:
        """
        Send the page for *error*, and record that it was sent; does not wait for Sentry.
        """
        entry = claim.entry
        since = self._clock() if entry.failing_since is None else entry.failing_since
        if self._send(error, since=since, context=context):
            claim.write(paged=(*entry.paged, error.reason))

    def page_again(self, claim: Claim) -> None:
        """
        Send the page for the last failure of *claim*, which could be neither stored nor sent: the disk was
        full, and Sentry did not answer.
        """
        if (failure := claim.entry.last_failure) is not None:
            error = PushRefused(claim.remote, failure.reason, failure.message, failure.hint)
            about = dossier(self._repository, error, claim.entry, said=failure.said, now=self._clock())
            self.page(claim, error, about)

    def _send(self, error: PushError, *, since: float, context: Mapping[str, Any]) -> bool:
        wanted = Page(
            title=headline(self._repository.known_as, error, context),
            error=error,
            branch=self._repository.branch,
            repository=self._repository.known_as,
            path=str(self._repository.path),
            since=since,
            context={**context, **self._links(error.reason)},
        )
        return page(wanted, self._outbox)
