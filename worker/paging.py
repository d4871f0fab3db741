"""
Sending pages through Sentry: once per episode, with the remedy, and until Sentry has accepted the page.

A page is a Sentry event whose id (``event_id``) is computed from its remote, reason and episode. It is stored
in the repository's ``Outbox`` and sent, separately from all other events, until Sentry acknowledges it. After
a refusal, a quota, a timeout or a killed process it is sent again with the same id, so Sentry keeps one
event. No caller waits for that.

``ferry.worker.observe.sentry`` has what needs sentry-sdk.
"""

from __future__ import annotations

import hashlib
import queue
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ferry.worker.errors import PushError
from ferry.worker.ledger.outbox import Event, Outbox
from ferry.worker.observe.logs import log
from ferry.worker.settings import Settings

if TYPE_CHECKING:
    from ferry.worker.observe.sentry import Answer, Carrier, Library

_MINUTE_S = 60.0
_PROBE_S = 10.0
# Longer than one request may take, with some time for the requests before it.
_BUSY_S = 45.0
_FIRST_WAIT_S, _LAST_WAIT_S = 5.0, 300.0

_is_on = False  # whether this process has started Sentry


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """
    One page.

    Attributes:
        title: What happened, in one line.
        error: What went wrong; its remote and reason make the fingerprint.
        branch: The branch that does not reach the remote.
        repository: The repository's name.
        path: The repository's path.
        since: When the episode began, in seconds since the epoch.
        context: The facts that the page shows.
    """

    title: str
    error: PushError
    branch: str
    repository: str
    path: str
    since: float
    context: Mapping[str, Any]

    @property
    def event_id(self) -> str:
        """
        The event's id: the same for the same reason, remote and episode, in every process.
        """
        about = (self.repository, self.path, self.error.remote, self.branch)
        return event_id(*about, reason=self.error.reason, since=self.since)


def event_id(repository: str, path: str, remote: str, branch: str, *, reason: str, since: float) -> str:
    """
    Return the event id of a page, from the fields of ``Page`` with these names.
    """
    of = (repository, path, remote, branch, reason, repr(since))
    return hashlib.sha256("\0".join(of).encode()).hexdigest()[:32]


def configure(settings: Settings, library: Library | None = None) -> None:
    """
    Start Sentry if a DSN is set; without one nothing is sent, and sentry-sdk is not imported.

    Args:
        library: The library whose failures sentry-sdk reports, too.
    """
    global _is_on
    if settings.sentry_dsn:
        from ferry.worker.observe import sentry

        sentry.start(settings, library)
        _is_on = True


def is_configured() -> bool:
    """
    Whether a DSN is set, so that pages are sent.
    """
    return _carrier() is not None


def page(wanted: Page, outbox: Outbox) -> bool:
    """
    Store *wanted* in *outbox* at level ``fatal``, and send it; returns whether it was stored.

    Does not wait, because the caller holds a claim that others need.
    """
    event = _made(wanted)
    carrier = _carrier()
    if event is None or carrier is None:
        return False
    try:
        outbox.put(event, busy_s=_BUSY_S)
        is_kept = True
    except OSError as exc:
        # The next failure pages again with the same id, so Sentry keeps one event.
        log().warning("page.not_kept", remote=wanted.error.remote, reason=wanted.error.reason, error=str(exc))
        is_kept = False
    carrier.carry(event, _settle_in(outbox))
    return is_kept


def send_again(outbox: Outbox) -> None:
    """
    Send the pages in *outbox* that are due.
    """
    carrier = _carrier()
    if carrier is None:
        return
    for event in outbox.due():
        outbox.postpone(event["event_id"], _BUSY_S)
        carrier.carry(event, _settle_in(outbox))


def flush(timeout_s: float) -> None:
    """
    Wait until Sentry has answered each page of this process, for *timeout_s* seconds at most.
    """
    if carrier := _carrier():
        carrier.flush(timeout_s)


def probe(settings: Settings, wanted: Page | None = None) -> str | None:
    """
    Send *wanted*, or an event that pages nobody; returns why Sentry did not accept it, or None.

    Waits for the acknowledgement, up to ten seconds.
    """
    configure(settings)
    event, carrier = _made(wanted), _carrier()
    if event is None or carrier is None:
        return "SENTRY_DSN is not set"
    answers: queue.Queue[Answer] = queue.Queue()
    carrier.carry(event, lambda _, answer: answers.put(answer))
    try:
        answer = answers.get(timeout=_PROBE_S)
    except queue.Empty:
        return f"no answer within {_PROBE_S:g} s"
    return None if answer.is_taken else answer.said


def report(error: BaseException) -> None:
    """
    Report an unexpected exception, which pages nobody, if a DSN is set.
    """
    if _is_on:
        from ferry.worker.observe import sentry

        sentry.report(error)


def _carrier() -> Carrier | None:
    if not _is_on:
        return None
    from ferry.worker.observe import sentry

    return sentry.carrier()


def _made(wanted: Page | None) -> Event | None:
    """
    Return the event that sentry-sdk makes of *wanted*, or a test event; None without Sentry.
    """
    if not is_configured():
        return None
    from ferry.worker.observe import sentry

    event: Event = {"message": "ferry doctor: a test event", "level": "info"}
    if wanted is not None:
        error = wanted.error
        event = {
            "event_id": wanted.event_id,
            "level": "fatal",
            "message": wanted.title,
            "tags": _tags(wanted),
            # The path too: two repositories may have the same name and share the Sentry project.
            "fingerprint": ["ferry", "push", error.reason, error.remote, wanted.branch,
                            wanted.path, wanted.repository],
            "contexts": {"push": dict(wanted.context)},
        }  # fmt: skip
    return sentry.made(event)


def _tags(wanted: Page) -> dict[str, str]:
    """
    Return the tags of a page, the most important first; Sentry turns ``url`` into a link.
    """
    error, url = wanted.error, wanted.context.get("status_page")
    told = {"repository": wanted.repository, "remote": error.remote, "reason": error.reason}
    return {**told, "branch": wanted.branch, **({"url": url} if url else {})}


class CronMonitor:
    """
    Checks in with Sentry at each sweep, so that Sentry alerts when sweeps stop.

    Sentry counts in minutes (https://docs.sentry.io/product/crons/), so at most one check-in is sent in each.

    Args:
        settings: The monitor's name; without one nothing is sent.
    """

    def __init__(self, settings: Settings) -> None:
        self._slug = settings.sentry_cron_monitor
        self._margin_min = max(2, round(3 * settings.push_sweep_interval_s / 60))
        self._last_at = -_MINUTE_S

    def check_in(self) -> None:
        """
        Report that a sweep took place.
        """
        if self._slug is None or not _is_on or time.monotonic() - self._last_at < _MINUTE_S:
            return
        from ferry.worker.observe import sentry

        self._last_at = time.monotonic()
        sentry.check_in(self._slug, self._margin_min)


def _settle_in(outbox: Outbox) -> Callable[[str, Answer], None]:
    def settle(event_id: str, answer: Answer) -> None:
        if answer.is_taken:
            outbox.remove(event_id)
            return
        # Waits that grow to five minutes.
        wait_s = max(min(outbox.age_s(event_id) / 4, _LAST_WAIT_S), _FIRST_WAIT_S, answer.wait_s)
        outbox.postpone(event_id, wait_s)
        log().warning(
            "page.delayed", event_id=event_id, error=answer.said, next_delay_ms=round(wait_s * 1000)
        )

    return settle
