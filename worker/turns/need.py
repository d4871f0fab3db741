"""
Whether a person is needed at a remote, since when and why: one fact for page, commands and metrics.

The page's headline and colours, ``ferry push status`` and its exit status, ``ferry doctor``, the metric, the
alert rules, Sentry's pages and Flower read it from here. A person is needed from the moment at which a page
is due in an episode, with or without a Sentry, until a push lands.

Pure: the ledger's entry and the settings in, a value out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from ferry.worker.failures import POLICIES, Reason
from ferry.worker.files.moments import timestamp
from ferry.worker.ledger.entry import Entry

_PAUSE_S = 86400.0
_RESUME = "Resume it with: ferry push resume; or let the pause end by itself: ferry push pause --for 2h."


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """
    Why a person is needed.

    Attributes:
        since: Since when, in seconds since the epoch.
        reason: The reason of the last failure, or ``paused`` for a pause that seems forgotten.
        hint: What to do about it.
    """

    since: float
    reason: str
    hint: str

    def as_json(self) -> dict[str, str | None]:
        """
        Return it as the API tells it.
        """
        return {"since": timestamp(self.since), "reason": self.reason, "hint": self.hint}


def is_page_due(entry: Entry, *, page_after_s: float, now: float) -> bool:
    """
    Whether the last failure of *entry* is one that pages.

    Args:
        entry: The remote's ledger entry.
        page_after_s: ``CFP_PUSH_PAGE_AFTER``.
        now: Seconds since the epoch.
    """
    failure = entry.last_failure
    if failure is None:
        return False
    policy = POLICIES.get(cast(Reason, failure.reason))  # None: another version's reason
    at_once = policy is not None and policy.page == "at-once"
    return at_once or entry.gave_up or entry.failing_for_s(now) >= page_after_s


def is_pause_forgotten(entry: Entry, now: float) -> bool:
    """
    Whether a pause that does not end by itself has lasted for a day.
    """
    return entry.paused_at is not None and entry.paused_until is None and now - entry.paused_at >= _PAUSE_S


def needs_person(entry: Entry, *, page_after_s: float, now: float, pending: bool = True) -> Need | None:
    """
    Return why a person is needed at the remote of *entry*; None if no person is needed.

    Args:
        pending: Whether the remote lacks commits. If others pushed them, the failures are over.
        page_after_s, now: As for ``is_page_due``.
    """
    failing = _needs_person_for_failures(entry, page_after_s, now) if pending else None
    if failing is None and entry.paused_at is not None and is_pause_forgotten(entry, now):
        return Need(since=entry.paused_at + _PAUSE_S, reason="paused", hint=_RESUME)
    return failing


def _needs_person_for_failures(entry: Entry, page_after_s: float, now: float) -> Need | None:
    failure, since = entry.last_failure, entry.needed_since
    if failure is None:
        return None
    if since is None:
        if not (entry.paged or is_page_due(entry, page_after_s=page_after_s, now=now)):
            return None
        # No attempt has failed since the page became due: compute when that was.
        overdue_s = entry.failing_for_s(now) - page_after_s
        since = max(failure.at, entry.tried_until(now) - overdue_s) if overdue_s > 0 else failure.at
    return Need(since=since, reason=failure.reason, hint=failure.hint)
