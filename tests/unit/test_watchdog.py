"""
When the watchdog pages for a pipeline that does nothing, and what it leaves behind.

The clock stands still until a test moves it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from app.sentry_sink import SentrySink
from tests.unit.conftest import Clock, Deployment
from worker import paging
from worker.ledger import Entry
from worker.watchdog import Watchdog


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watched(deploy: Callable[..., Deployment], sentry: SentrySink) -> Deployment:
    """
    Two commits wait, and no worker has ever run.
    """
    deployment = deploy(SENTRY_DSN=sentry.dsn)
    paging.configure(deployment.settings)
    return deployment


@pytest.fixture
def watchdog(watched: Deployment, clock: Clock) -> Watchdog:
    return Watchdog(watched.settings, watched.repository, watched.ledger, clock=clock)


def test_a_stall_is_an_episode_and_a_failure_like_any_other(
    watched: Deployment, watchdog: Watchdog, clock: Clock, sentry: SentrySink
):
    """
    Counted, remembered, logged and paged once, by the same code as a failed attempt.
    """
    clock.wind(60)
    with capture_logs() as logged:
        assert watchdog.check() == ["origin"]
        assert watchdog.check() == []

    entry: Entry = watched.ledger.read("origin")
    assert entry.episodes == {"stalled": 1}
    assert entry.outcomes == {"stalled": 1}
    assert entry.last_failure
    assert (entry.last_failure.reason, entry.failing_since) == ("stalled", clock.now)
    (blocked,) = [event for event in logged if event["event"] == "push.blocked"]
    assert (blocked["reason"], blocked["local_head"]) == ("stalled", watched.repository.head())
    (event,) = sentry.events
    assert event["tags"]["reason"] == "stalled"
    assert event["contexts"]["push"]["idle_seconds"] == 60


def test_a_stall_within_an_episode_begins_none(watched: Deployment, watchdog: Watchdog, clock: Clock):
    with watched.ledger.claim("origin") as claim:
        assert claim
        claim.write(failing_since=clock.now, episodes={"network": 1})
    clock.wind(60)

    assert watchdog.check() == ["origin"]

    assert watched.ledger.read("origin").episodes == {"network": 1}
