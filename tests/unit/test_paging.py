"""
What arrives at Sentry when somebody is to be woken, and what never does.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import amqp.exceptions
import pytest
import sentry_sdk
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError

from ferry.app.dev.sentry_sink import Event, SentrySink
from ferry.worker import paging
from ferry.worker.errors import NonFastForward, PushError, PushRefused
from ferry.worker.ledger.outbox import Outbox
from ferry.worker.observe.logs import LOGGER
from ferry.worker.paging import Page, configure, flush, page, probe, send_again
from ferry.worker.settings import Settings, address
from tests.parts import wait_until

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


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "pages")


def _wanted(error: PushError | None = None, **changes: Any) -> Page:
    error = error or NonFastForward("origin", "non-fast-forward", "fetch first", "reconcile")
    known = {
        "title": "host/data: origin diverged",
        "branch": "main",
        "repository": "host/data",
        "path": "/srv/data.git",
        "since": 1e9,
        "context": {},
    }
    return Page(error=error, **{**known, **changes})


Send = Callable[..., bool]


@pytest.fixture
def send(outbox: Outbox) -> Send:
    """
    Send a page, and wait for Sentry's answer; returns whether it is kept.
    """

    def send(error: PushError | None = None, **context: Any) -> bool:
        is_kept = page(_wanted(error, context=context), outbox)
        flush(5)
        return is_kept

    return send


def _only(sentry: SentrySink) -> Event:
    assert sentry_sdk.get_client().is_active()
    sentry_sdk.flush(timeout=5)
    (event,) = sentry.events
    return event


# --- What arrives ---


def test_a_page_is_fatal_and_says_which_remote_and_why(send: Send, sentry: SentrySink):
    configure(_settings(SENTRY_DSN=sentry.dsn))

    assert send(ahead=1, behind=2, way_out="reconcile") is True

    event = _only(sentry)
    assert event["level"] == "fatal"
    assert event["contexts"]["push"].items() >= {"ahead": 1, "behind": 2, "way_out": "reconcile"}.items()
    assert event["message"] == "host/data: origin diverged"
    assert list(event["tags"].items()) == [  # the most telling first
        ("repository", "host/data"),
        ("remote", "origin"),
        ("reason", "non-fast-forward"),
        ("branch", "main"),
    ]


def test_a_page_links_to_the_status_page(send: Send, sentry: SentrySink):
    configure(_settings(SENTRY_DSN=sentry.dsn))
    send(status_page="https://records.town.example/status")
    assert _only(sentry)["tags"]["url"] == "https://records.town.example/status"


def test_a_page_tells_nothing_of_the_task_that_made_it(send: Send, sentry: SentrySink):
    configure(_settings(SENTRY_DSN=sentry.dsn, SENTRY_TRACES_SAMPLE_RATE="1"), "celery")
    with sentry_sdk.isolation_scope() as scope, sentry_sdk.start_transaction(name="push", op="task"):
        scope.set_tag("celery_task_id", "1")
        scope.set_extra("celery-job", {"task_name": "push"})
        scope.set_context("celery", {"task": "push"})
        scope.add_breadcrumb(message="git push")
        send(ahead=1)

    (event,) = sentry.events
    told = {"event_id", "timestamp", "level", "message", "tags", "fingerprint", "contexts"}
    assert set(event) <= told | {"environment", "release", "server_name", "platform", "sdk"}
    assert set(event["tags"]) == {"repository", "remote", "reason", "branch"}
    assert set(event["contexts"]) == {"push"}


def test_a_trace_that_is_not_sampled_is_no_lostsend(send: Send, sentry: SentrySink):
    """
    sentry-sdk counts it as lost, and a page that has arrived would be sent again.
    """
    configure(_settings(SENTRY_DSN=sentry.dsn, SENTRY_TRACES_SAMPLE_RATE="0.000001"))
    for _ in range(3):
        with sentry_sdk.start_transaction(name="push"):
            pass

    assert send()
    assert len(sentry.events) == 1


@pytest.mark.parametrize(
    ("remote", "reason", "is_another"),
    [("origin", "rejected", False), ("backup", "rejected", True), ("origin", "auth", True)],
)
def test_pages_of_one_remote_and_reason_are_one_issue(
    sentry: SentrySink, outbox: Outbox, remote, reason, is_another: bool
):
    """
    Whatever git said this time.
    """
    configure(_settings(SENTRY_DSN=sentry.dsn))
    for since, error in enumerate(
        [
            PushRefused("origin", "rejected", "not today", "ask"),
            PushRefused(remote, reason, "nor then", "ask"),
        ]
    ):
        page(_wanted(error, since=since), outbox)
    flush(5)

    first, second = (event["fingerprint"] for event in sentry.events)
    assert (first != second) is is_another


def test_the_environment_is_named(send: Send, sentry: SentrySink):
    configure(_settings(SENTRY_DSN=sentry.dsn, SENTRY_ENVIRONMENT="rehearsal"))
    send()
    assert _only(sentry)["environment"] == "rehearsal"


def test_what_one_page_says_does_not_stick_to_the_next_event(send: Send, sentry: SentrySink):
    configure(_settings(SENTRY_DSN=sentry.dsn))
    send()
    sentry_sdk.capture_message("something else")
    sentry_sdk.flush(timeout=5)

    other = sentry.events[1]
    assert "fingerprint" not in other or not other["fingerprint"]
    assert "push" not in other["contexts"]
    assert other["level"] == "info"


# --- What does not ---


def test_without_a_dsn_there_is_nobody_tosend(
    send: Send, sentry: SentrySink, monkeypatch: pytest.MonkeyPatch
):
    """
    Also where a variable that sentry-sdk reads by itself names one.
    """
    monkeypatch.setenv("SENTRY_DSN", sentry.dsn)
    configure(_settings())

    assert send() is False

    sentry_sdk.flush(timeout=5)
    assert sentry.events == []


def test_our_own_log_lines_are_no_events(send: Send, sentry: SentrySink):
    """
    ``push.blocked`` is logged as an error beside each page, and each time a remote is blocked again.
    """
    configure(_settings(SENTRY_DSN=sentry.dsn))
    logging.getLogger(LOGGER).error("push.blocked")
    send()
    assert _only(sentry)["level"] == "fatal"


@pytest.mark.parametrize("level", [logging.ERROR, logging.CRITICAL])
def test_an_error_that_other_libraries_log_is_an_event_and_no_page(sentry: SentrySink, level: int):
    configure(_settings(SENTRY_DSN=sentry.dsn))
    logging.getLogger("gunicorn.error").log(level, "cannot go on")
    assert _only(sentry)["level"] == "error"


@pytest.mark.parametrize(
    "logger",
    [
        "celery",
        "celery.worker.consumer.consumer",
        "kombu.transport.redis",
        "kombu.message",
        "amqp",
        "flower.events",
    ],
)
def test_what_celery_and_its_like_log_is_no_event(sentry: SentrySink, logger: str):
    """
    They call it critical that a message could not be acknowledged, which is what a broker's restart does.
    """
    configure(_settings(SENTRY_DSN=sentry.dsn))
    logging.getLogger(logger).error("Connection to broker lost")
    logging.getLogger(logger).critical("Couldn't ack %r", 7, exc_info=ConnectionError("gone"))
    sentry_sdk.flush(timeout=5)
    assert sentry.events == []


@pytest.mark.parametrize(
    "error", [OperationalError("away"), RedisConnectionError("away"), amqp.exceptions.ConnectionForced("bye")]
)
def test_a_task_that_the_brokers_absence_ends_is_no_event(sentry: SentrySink, error: Exception):
    configure(_settings(SENTRY_DSN=sentry.dsn))
    sentry_sdk.capture_exception(error)
    sentry_sdk.flush(timeout=5)
    assert sentry.events == []


def test_a_page_carries_no_secret(send: Send, sentry: SentrySink):
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
        send(exc, said=URL, lines=[f"To {URL}"], deep={"deeper": (f"> {URL}",)}, number=7)

    event = _only(sentry)
    assert SECRET not in json.dumps(event)
    assert event["contexts"]["push"]["lines"] == ["To https://***@host/data.git"]
    assert event["contexts"]["push"]["number"] == 7


def test_the_environment_of_the_process_stays_here(
    send: Send, sentry: SentrySink, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CFP_ADMIN_TOKEN", SECRET + SECRET)
    configure(_settings(SENTRY_DSN=sentry.dsn, CFP_ADMIN_TOKEN=os.environ["CFP_ADMIN_TOKEN"]))
    send()
    assert SECRET not in json.dumps(_only(sentry))


# --- Until it is taken ---


def _due(outbox: Outbox) -> list[str]:
    return [event["event_id"] for event in outbox.due()]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (429, {}),
        (429, {"Retry-After": "1"}),
        (429, {"Retry-After": "soon", "X-Sentry-Rate-Limits": "60:error:organization"}),
        (500, {}),
        (503, {"Retry-After": "1"}),
        (403, {}),
        (413, {}),
        (302, {"Location": "/elsewhere"}),
    ],
)
def test_a_page_that_is_refused_is_sent_again_under_its_name(
    sentry: SentrySink, outbox: Outbox, send: Send, status: int, headers: dict[str, str]
):
    """
    In this process and the next, and no quota of Sentry's own client stands in the way.
    """
    configure(_settings(SENTRY_DSN=sentry.dsn))
    sentry.answer = lambda: (status, headers)
    assert send()
    assert (len(sentry.refused), sentry.events, _due(outbox)) == (1, [], [])
    outbox.release()
    send_again(outbox)
    flush(5)
    assert len(sentry.refused) == 2

    sentry.answer = lambda: (200, {})
    outbox.release()
    configure(_settings(SENTRY_DSN=sentry.dsn))  # as the next process does
    send_again(outbox)
    flush(5)

    (event,) = sentry.events
    assert {event["event_id"]} == {refused["event_id"] for _, refused in sentry.refused}
    assert {**event, "level": "fatal"} == sentry.refused[0][1]
    outbox.release()
    assert _due(outbox) == []


def test_a_page_is_due_again_soon_and_then_less_often_and_when_sentry_says(
    sentry: SentrySink, tmp_path: Path
):
    now = 1e9
    outbox = Outbox(tmp_path / "pages", clock=lambda: now)
    configure(_settings(SENTRY_DSN=sentry.dsn))
    sentry.answer = lambda: (429, {})
    page(_wanted(), outbox)
    flush(5)
    for age_s, wait_s in ((0, 5), (100, 25), (10_000, 300)):
        now = 1e9 + age_s
        send_again(outbox)
        flush(5)
        now += wait_s - 1
        assert _due(outbox) == []
        now += 2
        assert len(_due(outbox)) == 1
    sentry.answer = lambda: (429, {"Retry-After": "900"})
    send_again(outbox)
    flush(5)
    now += 890
    assert _due(outbox) == []
    now -= 1e6  # the clock is set back
    assert len(_due(outbox)) == 1


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "hangs"])
def test_a_sentry_that_is_away_costs_a_push_nothing(sentry: SentrySink, outbox: Outbox, listens: bool):
    """
    What it did not acknowledge is kept, and sent again by the process that comes after.
    """
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        configure(_settings(SENTRY_DSN=f"http://key@127.0.0.1:{server.getsockname()[1]}/1"))
        begun = time.monotonic()
        assert page(_wanted(), outbox)
        assert time.monotonic() - begun < 10  # a request to it may take half a minute
    configure(_settings(SENTRY_DSN=sentry.dsn))
    assert _due(outbox) == [], "as far as anybody knows, it is being sent"

    def is_sent_again():
        outbox.release()  # the answer of the Sentry that was away may put it off at this very moment
        send_again(outbox)
        flush(5)
        return sentry.events

    wait_until(is_sent_again, what="the page")
    assert {event["event_id"] for event in sentry.events} == {_wanted().event_id}


def test_a_page_is_asked_for_by_its_name(sentry: SentrySink, outbox: Outbox, send: Send):
    """
    Other events that were lost do not count, nor do others that were taken.
    """
    configure(_settings(SENTRY_DSN=sentry.dsn, SENTRY_TRACES_SAMPLE_RATE="0.000001"))
    for status in (500, 200, 500):
        sentry.answer = lambda status=status: (status, {})
        if status == 200:
            assert send()
        else:
            sentry_sdk.capture_message("lost")
            with sentry_sdk.start_transaction(name="not sampled"):
                pass
            sentry_sdk.flush(timeout=5)

    assert len(sentry.events) == 1
    outbox.release()
    assert _due(outbox) == []


def test_a_page_that_is_made_twice_is_one_event(sentry: SentrySink, outbox: Outbox):
    """
    By a process that was killed before it could note that it had paged, and its successor.
    """
    configure(_settings(SENTRY_DSN=sentry.dsn))
    for _ in range(2):
        page(_wanted(), outbox)
        flush(5)
    assert len({event["event_id"] for event in sentry.events}) == 1
    names = {
        _wanted().event_id,
        _wanted(since=2e9).event_id,
        _wanted(path="/srv/other.git").event_id,
        _wanted(branch="live").event_id,
        _wanted(PushRefused("origin", "rejected", "", "")).event_id,
        _wanted(PushRefused("backup", "non-fast-forward", "", "")).event_id,
    }
    assert len(names) == 6


def test_two_releases_on_one_project_stay_apart(sentry: SentrySink, outbox: Outbox):
    configure(_settings(SENTRY_DSN=sentry.dsn))
    for repository, path in (("a", "/srv/data.git"), ("b", "/srv/data.git"), ("b", "/srv/other.git")):
        page(_wanted(repository=repository, path=path), outbox)
    flush(5)
    assert len({tuple(event["fingerprint"]) for event in sentry.events}) == 3
    assert {event["tags"]["repository"] for event in sentry.events} == {"a", "b"}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("git@github.com:town/data.git", "github.com:town/data"),
        (f"https://ana:{SECRET}@host/town/data.git?token={SECRET}", "host/town/data"),
        (f"https://{SECRET}@host:8443/town/data", "host:8443/town/data"),
        ("ssh://git@host:22/town/data/", "host:22/town/data"),
        ("/srv/remote.git", "/srv/remote"),
        (None, ""),
    ],
)
def test_a_repository_is_known_by_its_remote_without_secrets(url: str | None, told: str):
    assert address(url) == told


def test_a_full_disk_costs_no_page(sentry: SentrySink, outbox: Outbox, monkeypatch: pytest.MonkeyPatch):
    """
    The first is written over room that was taken before. One beyond it is sent, and counts as not
    kept: the next failure pages again, as the same event.
    """

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    outbox.reserve()
    flushed: list[Path] = []
    monkeypatch.setattr("ferry.worker.ledger.outbox.replace_file", refuse)
    monkeypatch.setattr("ferry.worker.ledger.outbox.flush_directory", flushed.append)
    configure(_settings(SENTRY_DSN=sentry.dsn))
    sentry.answer = lambda: (429, {})
    assert page(_wanted(), outbox)
    assert flushed, "a power cut would undo the renaming, and the ledger says that the page was sent"
    flush(5)
    outbox.release()
    assert _due(outbox) == [_wanted().event_id]

    sentry.answer = lambda: (200, {})
    for _ in range(2):
        assert not page(_wanted(since=2.0), outbox)
        flush(5)
    assert {event["event_id"] for event in sentry.events} == {_wanted(since=2.0).event_id}


def test_a_sentry_that_is_never_there_fills_no_disk(outbox: Outbox, tmp_path: Path):
    for number in range(130):
        outbox.put({"event_id": f"{number:032x}"}, busy_s=float(number))
    names = {path.stem for path in (tmp_path / "pages").glob("*.json")}
    assert len(names) == 100
    assert f"{129:032x}" in names


def test_a_damaged_file_keeps_no_other_page(sentry: SentrySink, outbox: Outbox, tmp_path: Path):
    outbox.put({"event_id": "a" * 32}, busy_s=0)
    (tmp_path / "pages" / f"{'b' * 32}.json").write_bytes(b"\0\0")
    (tmp_path / "pages" / f"{'c' * 32}.json").write_text("[]")
    outbox.release()
    assert _due(outbox) == ["a" * 32]
    assert len(list((tmp_path / "pages").glob("*.json"))) == 1


# --- Asked whether it is there ---


def test_a_probe_says_what_sentry_answered(sentry: SentrySink, monkeypatch: pytest.MonkeyPatch):
    assert probe(_settings(SENTRY_DSN=sentry.dsn)) is None
    assert probe(_settings(SENTRY_DSN=sentry.dsn), _wanted()) is None
    assert [event["level"] for event in sentry.events] == ["info", "fatal"]
    sentry.answer = lambda: (429, {})
    assert probe(_settings(SENTRY_DSN=sentry.dsn)) == "status 429"

    monkeypatch.setattr(paging, "_PROBE_S", 0.5)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        address = f"http://key@127.0.0.1:{server.getsockname()[1]}/1"
        assert probe(_settings(SENTRY_DSN=address)) == "no answer within 0.5 s"
    assert "NewConnectionError" in str(probe(_settings(SENTRY_DSN=address)))
