"""
Waking a person through Sentry: once per episode, with the way out, and until Sentry has taken it.

A page is an event of a name of its own (``event_id``), made of what it is about. It
is put into the repository's ``Outbox`` and carried from there, apart from all other
events, until Sentry acknowledges that very event: a refusal, a quota, a timeout and
a killed process all mean that it is sent again, under the same name, so that it
stays one. Nothing waits for that.

The integrations of sentry-sdk would each report a failed push in their own way
and level; they are told to leave ours alone (``throws`` on the task, and
``ignore_logger`` here), so that the event made by ``page`` is the only one. Nor are
the lines of Celery, kombu and Flower events: those that are of use say that the
broker is away, which ends by itself, or in ``stalled``.
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
# Longer than one request may take, with a moment for those before it.
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
    One reason to wake somebody.

    Attributes:
        title: What happened, in one line.
        error: What went wrong; its remote and reason make the fingerprint.
        branch: The branch that does not reach the remote.
        repository: What people call its repository.
        path: Where that is.
        since: When the episode began, in seconds since the epoch.
        context: What the person who is woken needs to see.
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
        The event's name: the same for the same reason, remote and episode, in whatever process.
        """
        about = (self.repository, self.path, self.error.remote, self.branch)
        return event_id(*about, reason=self.error.reason, since=self.since)


def event_id(repository: str, path: str, remote: str, branch: str, *, reason: str, since: float) -> str:
    """
    Return the name of the page of one episode, of what a ``Page`` has under these names.
    """
    of = (repository, path, remote, branch, reason, repr(since))
    return hashlib.sha256("\0".join(of).encode()).hexdigest()[:32]


def configure(settings: Settings, *integrations: Integration) -> None:
    """
    Start Sentry if a DSN is set; without one nothing is ever sent.

    Args:
        integrations: For what this process runs. None is switched on by itself:
            sentry-sdk would import Flask into the worker to see whether it is there.
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
        spotlight=False,  # a second way out, past this transport
        before_send=_before_send,
        transport=_Transport,
    )


def is_configured() -> bool:
    """
    Whether there is a Sentry that wakes anybody.
    """
    return _carrier() is not None


def page(wanted: Page, outbox: Outbox) -> bool:
    """
    Put *wanted* into *outbox* at level ``fatal``, and send it off; returns whether it is kept there.

    Does not wait: whoever pages holds a claim that others need.
    """
    event = _made(wanted)
    carrier = _carrier()
    if event is None or carrier is None:
        return False
    try:
        outbox.put(event, busy_s=_BUSY_S)
        is_kept = True
    except OSError as exc:
        # The next failure pages again, and in Sentry the two are one.
        log().warning("page.not_kept", remote=wanted.error.remote, reason=wanted.error.reason, error=str(exc))
        is_kept = False
    carrier.carry(event, _settle_in(outbox))
    return is_kept


def send_again(outbox: Outbox) -> None:
    """
    Send off what *outbox* still holds, as far as it is due.
    """
    carrier = _carrier()
    if carrier is None:
        return
    for event in outbox.due():
        outbox.postpone(event["event_id"], _BUSY_S)
        carrier.carry(event, _settle_in(outbox))


def flush(timeout_s: float) -> None:
    """
    Wait until Sentry has answered to each page of this process, for *timeout_s* seconds at most.
    """
    if carrier := _carrier():
        carrier.flush(timeout_s)


def probe(settings: Settings, wanted: Page | None = None) -> str | None:
    """
    Send *wanted*, or an event that wakes nobody; returns why Sentry did not take it, or None.

    Waits for up to ten seconds: what was not acknowledged was not taken.
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
    Return the event that sentry-sdk makes of *wanted*, or of nothing in particular; None without a Sentry.
    """
    if not is_configured():
        return None
    made: list[Event] = []
    event: Any = {"message": "ferry doctor was here", "level": "info"}
    if wanted is not None:
        error = wanted.error
        event = {
            "event_id": wanted.event_id,
            "level": "fatal",
            "message": wanted.title,
            "tags": _tags(wanted),
            # Its path too: two may have one name, and the project is shared.
            "fingerprint": ["ferry", "push", error.reason, error.remote, wanted.branch,
                            wanted.path, wanted.repository],
            "contexts": {"push": dict(wanted.context)},
        }  # fmt: skip
    sentry_sdk.capture_event(event, {_KEEP: made.append})
    return made[0] if made else None


def _tags(wanted: Page) -> dict[str, str]:
    """
    Return the tags of a page, the most telling first; Sentry makes a link of ``url``.
    """
    error, url = wanted.error, wanted.context.get("status_page")
    told = {"repository": wanted.repository, "remote": error.remote, "reason": error.reason}
    return {**told, "branch": wanted.branch, **({"url": url} if url else {})}


def _bare(event: Event) -> Event:
    """
    Return a page without what sentry-sdk and its integrations add: the task, its trace, modules, breadcrumbs.
    """
    bare = {name: event[name] for name in _OF_A_PAGE if name in event}
    for part, names in (("tags", _TAGS), ("contexts", ("push",))):
        bare[part] = {name: value for name, value in event.get(part, {}).items() if name in names}
    return bare


def _before_send(event: Any, hint: Mapping[str, Any]) -> Any:
    """
    Hold back a page, which has a way of its own, and what a broker's absence caused.
    """
    if keep := hint.get(_KEEP):
        keep(clean(_bare(event)))
        return None
    if "exc_info" in hint and isinstance(hint["exc_info"][1], _BROKER_ERRORS):
        return None
    if event.get("level") == "fatal":
        event["level"] = "error"  # so that a page is what wakes people, and no library's idea of one
    return event


class CronMonitor:
    """
    Tells Sentry that sweeps take place, so that it tells somebody when they do not.

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
        Say that a sweep has taken place.
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
    What Sentry said to a page.

    Attributes:
        is_taken: Whether it has the event.
        said: The status, or why there was none.
        wait_s: For how long it asked not to be asked again, in seconds.
    """

    is_taken: bool
    said: str
    wait_s: float = 0.0


# Called with the name of an event and the answer to it, in a thread of the carrier's.
Answered = Callable[[str, Answer], None]


def _settle_in(outbox: Outbox) -> Answered:
    def settle(event_id: str, answer: Answer) -> None:
        if answer.is_taken:
            outbox.remove(event_id)
            return
        # Soon at first, and every five minutes at last.
        wait_s = max(min(outbox.age_s(event_id) / 4, _LAST_WAIT_S), _FIRST_WAIT_S, answer.wait_s)
        outbox.postpone(event_id, wait_s)
        log().warning(
            "page.delayed", event_id=event_id, error=answer.said, next_delay_ms=round(wait_s * 1000)
        )

    return settle


class _CleanTransport(HttpTransport):
    """
    Sentry's own transport, through which nothing leaves as it is: see ``ferry.worker.observe.envelopes``.
    """

    def _send_envelope(self, envelope: Envelope) -> None:
        super()._send_envelope(clean_envelope(envelope))


class _Carrier(_CleanTransport):
    """
    Sentry's own transport, for pages alone: it says of each what came of it, and no quota stops it.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__({**options, "send_client_reports": False})
        self._process = os.getpid()
        self._underway: dict[str, Answered] = {}

    def carry(self, event: Event, answered: Answered) -> None:
        """
        Send *event* off, unless it is on its way already; *answered* is called with what comes of it.
        """
        event_id = event["event_id"]
        if self._process != os.getpid():  # what its parent sends, a forked process does not
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
            # A proxy's login page, or whatever a wrong address shows to people.
            is_taken, said = False, f"{said} with a page for people, which Sentry does not send"
        self._answer = Answer(is_taken=is_taken, said=said, wait_s=wait_s)


class _Transport(_CleanTransport):
    """
    Sentry's own transport, with the carrier of the pages.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self.carrier = _Carrier(options)


def _carrier() -> _Carrier | None:
    transport = sentry_sdk.get_client().transport
    return transport.carrier if isinstance(transport, _Transport) else None
