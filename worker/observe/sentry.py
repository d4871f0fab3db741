"""
sentry-sdk, as Ferry uses it: its start, the transport of pages, and what is sent at all.

``ferry.worker.paging`` imports this module when a DSN is set. Without one no process loads sentry-sdk, which
takes a fifth of a second of processor time and eleven MiB.

sentry-sdk's integrations would also report a failed push, each in its own way. Ferry excludes its errors from
them (``throws`` on the task, and ``ignore_logger`` here), so that ``paging.page`` makes the only event. Log
lines of Celery, kombu and Flower make no events either: the useful ones report that the broker does not
answer, which ends by itself or leads to ``stalled``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Literal, cast

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

from ferry.worker.observe.envelopes import clean, clean_envelope
from ferry.worker.observe.logs import LOGGER
from ferry.worker.settings import Settings

_NO_EVENTS = (LOGGER, *(f"{library}*" for library in ("celery", "kombu", "amqp", "flower", "billiard")))
_BROKER_ERRORS = (KombuError, RedisError, amqp.exceptions.AMQPError)
_KEEP = "ferry.keep"
_OF_A_PAGE = (
    "event_id", "timestamp", "level", "message", "fingerprint", "environment", "release", "server_name",
    "platform", "sdk",
)  # fmt: skip
_TAGS = ("repository", "remote", "reason", "branch", "url")

Event = dict[str, Any]
Library = Literal["celery", "flask"]


def start(settings: Settings, library: Library | None) -> None:
    """
    Start Sentry; see ``paging.configure``.
    """
    for logger in _NO_EVENTS:
        ignore_logger(logger)
    sentry_sdk.init(
        dsn=settings.sentry_dsn,
        environment=settings.sentry_environment,
        release=f"ferry@{version('gitsheets-ferry')}",
        traces_sample_rate=settings.sentry_traces_sample_rate or None,
        integrations=[_integration(library)] if library else [],
        auto_enabling_integrations=False,  # to detect Flask, sentry-sdk would import it into the worker
        include_local_variables=False,  # a frame's variables may hold a remote's URL
        max_request_body_size="never",
        spotlight=False,  # it would send data past this transport
        before_send=_before_send,
        transport=_Transport,
    )


def _integration(library: Library) -> Integration:
    if library == "flask":
        from sentry_sdk.integrations.flask import FlaskIntegration  # with Flask, which no worker loads

        return FlaskIntegration()
    from sentry_sdk.integrations.celery import CeleryIntegration

    return CeleryIntegration()


def made(event: Event) -> Event | None:
    """
    Return *event* as sentry-sdk completes it, without sending it; None if Sentry was not started.
    """
    kept: list[Event] = []
    sentry_sdk.capture_event(cast(Any, event), {_KEEP: kept.append})
    return kept[0] if kept else None


def report(error: BaseException) -> None:
    """
    Send *error* as an event that is no page.
    """
    sentry_sdk.capture_exception(error)


def check_in(monitor: str, margin_min: int) -> None:
    """
    Report to the cron monitor *monitor* that a sweep took place.

    Args:
        margin_min: Minutes that a check-in may be late.
    """
    sentry_sdk.crons.capture_checkin(
        monitor_slug=monitor,
        status="ok",
        monitor_config={
            "schedule": {"type": "interval", "value": 1, "unit": "minute"},
            "checkin_margin": margin_min,
            "failure_issue_threshold": 2,
            "recovery_threshold": 1,
        },
    )


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


class _CleanTransport(HttpTransport):
    """
    Sentry's own transport, which removes private data first: see ``ferry.worker.observe.envelopes``.
    """

    def _send_envelope(self, envelope: Envelope) -> None:
        super()._send_envelope(clean_envelope(envelope))


class Carrier(_CleanTransport):
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
        self.carrier = Carrier(options)


def carrier() -> Carrier | None:
    """
    Return what sends this process's pages; None if Sentry was not started.
    """
    transport = sentry_sdk.get_client().transport
    return transport.carrier if isinstance(transport, _Transport) else None
