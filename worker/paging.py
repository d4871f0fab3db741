"""
Waking a person through Sentry: once per episode, with the way out.

The integrations of sentry-sdk would each report a failed push in their own way
and level; they are told to leave ours alone (``throws`` on the task, and
``ignore_logger`` here), so that the event sent by ``page`` is the only one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import sentry_sdk
import sentry_sdk.crons
from sentry_sdk.integrations import Integration
from sentry_sdk.integrations.logging import ignore_logger
from sentry_sdk.transport import HttpTransport

from worker.errors import PushError
from worker.logs import LOGGER
from worker.redaction import redact_all
from worker.settings import Settings

_FLUSH_S = 2.0
_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """
    One reason to wake somebody.

    Attributes:
        error: What went wrong; its remote and reason make the fingerprint.
        branch: The branch that does not reach the remote.
        repository: Its repository's name, where a worker serves several; else "".
        context: What the person who is woken needs to see.
    """

    error: PushError
    branch: str
    repository: str = ""
    context: Mapping[str, Any]


def configure(settings: Settings, *integrations: Integration) -> None:
    """
    Start Sentry if a DSN is set; without one nothing is ever sent.

    Args:
        integrations: For what this process runs. None is switched on by itself:
            sentry-sdk would import Flask into the worker to see whether it is there.
    """
    if not settings.sentry_dsn:
        return
    ignore_logger(LOGGER)
    sentry_sdk.init(
        dsn=settings.sentry_dsn,
        environment=settings.sentry_environment,
        release=f"ferry@{version('ferry')}",
        traces_sample_rate=settings.sentry_traces_sample_rate or None,
        integrations=integrations,
        auto_enabling_integrations=False,
        include_local_variables=False,  # a frame's variables may hold a remote's URL
        max_request_body_size="never",
        before_send=_scrub,
        transport=_Courier,
    )


def is_configured() -> bool:
    """
    Whether there is a Sentry that wakes anybody.
    """
    return bool(sentry_sdk.is_initialized())


def page(wanted: Page) -> bool:
    """
    Hand *wanted* to Sentry at level ``fatal``; returns whether there is a Sentry to hand it to.

    Does not wait: whoever pages holds a claim that others need. ``deliver`` does, after that.
    """
    if not is_configured():
        return False
    error = wanted.error
    with sentry_sdk.new_scope() as scope:
        scope.set_level("fatal")
        repository = {"repository": wanted.repository} if wanted.repository else {}
        scope.set_tags(
            {"remote": error.remote, "branch": wanted.branch, "reason": error.reason, **repository}
        )
        scope.fingerprint = [
            "ferry", "push", error.reason, error.remote, wanted.branch, *repository.values(),
        ]  # fmt: skip
        scope.set_context("push", dict(wanted.context))
        sentry_sdk.capture_exception(error)
    return True


def deliver() -> bool:
    """
    Give Sentry two seconds to take what ``page`` has handed to it; returns False where it was lost.

    A worker that stops right after takes no page with it then. What a slow Sentry
    has not taken by that time is still on its way, and counts as sent.
    """
    sentry_sdk.flush(timeout=_FLUSH_S)
    courier = sentry_sdk.get_client().transport
    if not isinstance(courier, _Courier):
        return True
    lost, courier.lost = courier.lost, 0
    return lost == 0


def probe(settings: Settings) -> bool:
    """
    Send an event that wakes nobody; returns whether Sentry took it.
    """
    configure(settings)
    sentry_sdk.capture_message("ferry doctor was here", level="info")
    return deliver()


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


class _Courier(HttpTransport):
    """
    Sentry's own transport, which also says what it could not deliver.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self.lost = 0

    def record_lost_event(
        self, reason: str, data_category: Any = None, item: Any = None, **options: Any
    ) -> None:
        """
        Count the events that are lost, for whatever reason: no network, an error of Sentry's, a quota.

        A trace that is not sampled counts as lost too, to Sentry; nobody was to be woken by it.
        """
        if (data_category or (item and item.data_category)) == "error":
            self.lost += 1
        super().record_lost_event(reason, data_category, item, **options)


def _scrub(event: Any, hint: Mapping[str, Any]) -> Any:
    return redact_all(event)
