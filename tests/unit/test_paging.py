"""
What arrives at Sentry when somebody is to be woken, and what never does.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk

from app.sentry_sink import Event, SentrySink
from worker.errors import NonFastForward, PushError, PushRefused
from worker.logs import LOGGER
from worker.paging import Page, configure, deliver, page
from worker.settings import Settings

SECRET = "s3cr3t-w0rd"
URL = f"https://ana:{SECRET}@host/data.git"


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    """
    As in a process that has just started, before and after.
    """
    sentry_sdk.get_global_scope().set_client(None)
    yield
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)


def _settings(**env: str) -> Settings:
    return Settings.from_env(
        {"CFP_DATA_REPO_PATH": "/srv/data.git", "CFP_REDIS_URL": f"redis://:{SECRET}@host", **env}
    )


def _page(error: PushError | None = None, **context: Any) -> bool:
    error = error or NonFastForward("origin", "non-fast-forward", "fetch first", "reconcile")
    return page(Page(error=error, branch="main", context=context)) and deliver()


def _only(sentry: SentrySink) -> Event:
    assert sentry_sdk.get_client().is_active()
    sentry_sdk.flush(timeout=5)
    (event,) = sentry.events
    return event


# --- What arrives ---


def test_a_page_is_fatal_and_says_which_remote_and_why(sentry: SentrySink):
    configure(_settings(SENTRY_DSN=sentry.dsn))

    assert _page(ahead=1, behind=2, way_out="reconcile") is True

    event = _only(sentry)
    assert event["level"] == "fatal"
    tags = {name: event["tags"][name] for name in ("remote", "branch", "reason")}
    assert tags == {"remote": "origin", "branch": "main", "reason": "non-fast-forward"}
    assert event["contexts"]["push"].items() >= {"ahead": 1, "behind": 2, "way_out": "reconcile"}.items()
    (exception,) = event["exception"]["values"]
    assert exception["type"] == "NonFastForward"
    assert "fetch first" in exception["value"]


def test_a_page_has_arrived_when_it_was_delivered(sentry: SentrySink):
    """
    A worker that stops right after takes nothing with it.
    """
    configure(_settings(SENTRY_DSN=sentry.dsn))
    _page()
    assert len(sentry.events) == 1


def test_a_trace_that_is_not_sampled_is_no_lost_page(sentry: SentrySink):
    """
    sentry-sdk counts it as lost, and a page that has arrived would be sent again.
    """
    configure(_settings(SENTRY_DSN=sentry.dsn, SENTRY_TRACES_SAMPLE_RATE="0.000001"))
    for _ in range(3):
        with sentry_sdk.start_transaction(name="push"):
            pass

    assert _page()
    assert len(sentry.events) == 1


@pytest.mark.parametrize(
    ("remote", "reason", "is_another"),
    [("origin", "rejected", False), ("backup", "rejected", True), ("origin", "auth", True)],
)
def test_pages_of_one_remote_and_reason_are_one_issue(sentry: SentrySink, remote, reason, is_another: bool):
    """
    Whatever git said this time.
    """
    configure(_settings(SENTRY_DSN=sentry.dsn))
    _page(PushRefused("origin", "rejected", "not today", "ask"))
    _page(PushRefused(remote, reason, "nor tomorrow", "ask"))

    first, second = (event["fingerprint"] for event in sentry.events)
    assert (first != second) is is_another


def test_the_environment_is_named(sentry: SentrySink):
    configure(_settings(SENTRY_DSN=sentry.dsn, SENTRY_ENVIRONMENT="rehearsal"))
    _page()
    assert _only(sentry)["environment"] == "rehearsal"


def test_what_one_page_says_does_not_stick_to_the_next_event(sentry: SentrySink):
    configure(_settings(SENTRY_DSN=sentry.dsn))
    _page()
    sentry_sdk.capture_message("something else")
    sentry_sdk.flush(timeout=5)

    other = sentry.events[1]
    assert "fingerprint" not in other or not other["fingerprint"]
    assert "push" not in other["contexts"]
    assert other["level"] == "info"


# --- What does not ---


def test_without_a_dsn_there_is_nobody_to_page(sentry: SentrySink, monkeypatch: pytest.MonkeyPatch):
    """
    Also where a variable that sentry-sdk reads by itself names one.
    """
    monkeypatch.setenv("SENTRY_DSN", sentry.dsn)
    configure(_settings())

    assert _page() is False

    sentry_sdk.flush(timeout=5)
    assert sentry.events == []


def test_our_own_log_lines_are_no_events(sentry: SentrySink):
    """
    ``push.blocked`` is logged as an error beside each page, and each time a remote is blocked again.
    """
    configure(_settings(SENTRY_DSN=sentry.dsn))
    logging.getLogger(LOGGER).error("push.blocked")
    _page()
    assert _only(sentry)["level"] == "fatal"


def test_an_error_that_other_libraries_log_is_an_event(sentry: SentrySink):
    configure(_settings(SENTRY_DSN=sentry.dsn))
    logging.getLogger("celery.worker").error("cannot go on")
    assert _only(sentry)["level"] == "error"


def test_a_page_carries_no_secret(sentry: SentrySink):
    """
    Not in what git said, in the context however deep, in what was logged before, in variables on the stack.
    """
    configure(_settings(SENTRY_DSN=sentry.dsn))
    logging.getLogger("other").warning("about to push to %s", URL)

    def fail(url: str) -> None:
        word = SECRET  # which no pattern tells from any other, nor the variable's name
        assert word in url
        raise PushRefused("origin", "rejected", f"unable to access '{url}'", "look")

    try:
        fail(URL)
    except PushRefused as exc:
        _page(exc, said=URL, lines=[f"To {URL}"], deep={"deeper": (f"> {URL}",)}, number=7)

    event = _only(sentry)
    assert SECRET not in json.dumps(event)
    assert "https://***@host/data.git" in event["exception"]["values"][0]["value"]
    assert event["contexts"]["push"]["lines"] == ["To https://***@host/data.git"]
    assert event["contexts"]["push"]["number"] == 7
    assert any("about to push" in json.dumps(crumb) for crumb in event["breadcrumbs"]["values"])


def test_the_environment_of_the_process_stays_here(sentry: SentrySink, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CFP_ADMIN_TOKEN", SECRET)
    configure(_settings(SENTRY_DSN=sentry.dsn, CFP_ADMIN_TOKEN=os.environ["CFP_ADMIN_TOKEN"]))
    _page()
    assert SECRET not in json.dumps(_only(sentry))


# --- Sentry away ---


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "hangs"])
def test_a_sentry_that_is_away_costs_two_seconds_at_most(listens: bool):
    """
    And no error: the push is what matters, and the log says ``push.blocked`` too.
    """
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        configure(_settings(SENTRY_DSN=f"http://key@127.0.0.1:{server.getsockname()[1]}/1"))
        begun = time.monotonic()

        assert _page() is listens, "what is refused is lost; what hangs is on its way"

        assert time.monotonic() - begun < 3.5
