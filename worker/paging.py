"""
Sending pages through Sentry: once per episode, with the remedy, and until Sentry has accepted the page.

A page is a Sentry event whose id (``event_id``) is computed from its remote, reason and episode. It is stored
in the repository's ``Outbox`` and sent, separately from all other events, until Sentry acknowledges it. After
a refusal, a quota, a timeout or a killed process it is sent again with the same id, so Sentry keeps one
event. No caller waits for that.

sentry-sdk's integrations would also report a failed push, each in its own way. Ferry excludes its errors from
them (``throws`` on the task, and ``ignore_logger`` here), so that ``page`` makes the only event. Log lines of
Celery, kombu and Flower make no events either: the useful ones report that the broker does not answer, which
ends by itself or leads to ``stalled``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, cast

import amqp.exceptions
import sentry_sdk
import sentry_sdk.crons
from kombu.exceptions import KombuError
from redis.exceptions import RedisError
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations import Integration
from sentry_sdk.integrations.logging import ignore_logger
from sentry_sdk.transport import HttpTransport
from urllib3.exceptions import InvalidHeader

from ferry.worker.errors import PushError
from ferry.worker.ledger.outbox import Event, Outbox
from ferry.worker.observe.envelopes import clean, clean_envelope
from ferry.worker.observe.logs import LOGGER, log
from ferry.worker.settings import Settings

_MINUTE_S = 60.0
_PROBE_S = 10.0
# Longer than one request may take, with some time for the requests before it.
_BUSY_S = 45.0
_FIRST_WAIT_S, _LAST_WAIT_S = 5.0, 300.0
_NO_EVENTS = (LOGGER, *(f"{library}*" for library in ("celery", "kombu", "amqp", "flower", "billiard")))
_BROKER_ERRORS = (KombuError, RedisError, amqp.exceptions.AMQPError)
_KEEP = "ferry.keep"
_OF_A_PAGE = (
    "event_id", "timestamp", "level", "message", "fingerprint", "environment", "release", "server_name",
    "platform", "sdk",
)  # fmt: skip
_TAGS = ("repository", "remote", "reason", "branch", "url")


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


def configure(settings: Settings, *integrations: Integration) -> None:
    """
    Start Sentry if a DSN is set; without one nothing is sent.

    Args:
        integrations: The integrations for this process. Automatic ones are off: to detect Flask, sentry-sdk
            would import it into the worker.
    """
    if not settings.sentry_dsn:
        return
    for logger in _NO_EVENTS:
        ignore_logger(logger)
    sentry_sdk.init(
        dsn=settings.sentry_dsn,
        environment=settings.sentry_environment,
        release=f"ferry@{version('gitsheets-ferry')}",
        traces_sample_rate=settings.sentry_traces_sample_rate or None,
        integrations=integrations,
        auto_enabling_integrations=False,
        include_local_variables=False,  # a frame's variables may hold a remote's URL
        max_request_body_size="never",
        spotlight=False,  # it would send data past this transport
        before_send=_before_send,
        transport=_Transport,
    )


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


def _made(wanted: Page | None) -> Event | None:
    """
    Return the event that sentry-sdk makes of *wanted*, or a test event; None without Sentry.
    """
    if not is_configured():
        return None
    made: list[Event] = []
    event: Any = {"message": "ferry doctor: a test event", "level": "info"}
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
    sentry_sdk.capture_event(event, {_KEEP: made.append})
    return made[0] if made else None


def _tags(wanted: Page) -> dict[str, str]:
    """
    Return the tags of a page, the most important first; Sentry turns ``url`` into a link.
    """
    error, url = wanted.error, wanted.context.get("status_page")
    told = {"repository": wanted.repository, "remote": error.remote, "reason": error.reason}
    return {**told, "branch": wanted.branch, **({"url": url} if url else {})}


def _bare(event: Event) -> Event:
    """
    Return a page without the data that sentry-sdk's integrations add: the task, its trace, modules,
    breadcrumbs.
    """
    bare = {name: event[name] for name in _OF_A_PAGE if name in event}
    for part, names in (("tags", _TAGS), ("contexts", ("push",))):
        bare[part] = {name: value for name, value in event.get(part, {}).items() if name in names}
    return bare


def _before_send(event: Any, hint: Mapping[str, Any]) -> Any:
    """
    Drop pages, which are sent separately, and errors that an unreachable broker caused.
    """
    if keep := hint.get(_KEEP):
        keep(clean(_bare(event)))
        return None
    if "exc_info" in hint and isinstance(hint["exc_info"][1], _BROKER_ERRORS):
        return None
    if event.get("level") == "fatal":
        event["level"] = "error"  # so that only pages, and no library's errors, have the level fatal
    return event


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
        if (
            self._slug is None
            or not sentry_sdk.is_initialized()
            or time.monotonic() - self._last_at < _MINUTE_S
        ):
            return
        self._last_at = time.monotonic()
        sentry_sdk.crons.capture_checkin(
            monitor_slug=self._slug,
            status="ok",
            monitor_config={
                "schedule": {"type": "interval", "value": 1, "unit": "minute"},
                "checkin_margin": self._margin_min,
                "failure_issue_threshold": 2,
                "recovery_threshold": 1,
            },
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """
    Sentry's answer to a page.

    Attributes:
        is_taken: Whether Sentry accepted the event.
        said: The HTTP status, or why there was no answer.
        wait_s: Seconds that Sentry asked to wait.
    """

    is_taken: bool
    said: str
    wait_s: float = 0.0


# Called with an event's id and the answer to it, in a thread of the carrier.
Answered = Callable[[str, Answer], None]


def _settle_in(outbox: Outbox) -> Answered:
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


class _CleanTransport(HttpTransport):
    """
    Sentry's own transport, which removes private data first: see ``ferry.worker.observe.envelopes``.
    """

    def _send_envelope(self, envelope: Envelope) -> None:
        super()._send_envelope(clean_envelope(envelope))


class _Carrier(_CleanTransport):
    """
    Sentry's own transport, only for pages: it reports the answer to each, and ignores rate limits.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__({**options, "send_client_reports": False})
        self._process = os.getpid()
        self._underway: dict[str, Answered] = {}

    def carry(self, event: Event, answered: Answered) -> None:
        """
        Send *event*, unless it is being sent; *answered* is called with the answer.
        """
        event_id = event["event_id"]
        if self._process != os.getpid():  # a forked process does not send its parent's pages
            self._process, self._underway = os.getpid(), {}
        if self._worker.full() or self._underway.setdefault(event_id, answered) is not answered:
            return
        envelope = Envelope(headers={"event_id": event_id, "sent_at": datetime.now(UTC).isoformat()})
        envelope.add_event(cast(Any, event))
        self.capture_envelope(envelope)

    def _get_pool_options(self) -> dict[str, Any]:
        return {**super()._get_pool_options(), "retries": False}

    def _check_disabled(self, category: str) -> bool:
        return False

    def _send_envelope(self, envelope: Envelope) -> None:
        event_id = str(envelope.headers["event_id"])
        answer = Answer(is_taken=False, said="not sent")
        try:
            super()._send_envelope(envelope)
            answer = self._answer
        except Exception as exc:
            answer = Answer(is_taken=False, said=f"{type(exc).__name__}: {exc}")
            raise
        finally:
            self._underway.pop(event_id)(event_id, answer)

    def _handle_response(self, response: Any, envelope: Any) -> None:
        wait_s = 0.0
        with contextlib.suppress(InvalidHeader):
            wait_s = self._retry.get_retry_after(response) or 0.0
        said = f"status {response.status}"
        is_taken = 200 <= response.status < 300
        if is_taken and "html" in response.headers.get("content-type", ""):
            # A proxy's login page, or the web page at a wrong address.
            is_taken, said = False, f"{said} with a web page, which is not an answer of Sentry"
        self._answer = Answer(is_taken=is_taken, said=said, wait_s=wait_s)


class _Transport(_CleanTransport):
    """
    Sentry's own transport, together with the carrier of the pages.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self.carrier = _Carrier(options)


def _carrier() -> _Carrier | None:
    transport = sentry_sdk.get_client().transport
    return transport.carrier if isinstance(transport, _Transport) else None
