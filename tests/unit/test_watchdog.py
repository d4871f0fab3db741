"""
When the watchdog pages for a pipeline that does nothing, and what it leaves behind.

The clock stands still until a test moves it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ferry.app.dev.sentry_sink import SentrySink
from ferry.worker import paging
from ferry.worker.files.places import remotes_directory
from ferry.worker.ledger.entry import Entry
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.watchdog import Watchdog
from tests.line import Clock, Deployment
from tests.parts import Bare


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watched(deploy: Callable[..., Deployment], sentry: SentrySink) -> Deployment:
    """
    Two commits wait, and no worker has ever run.
    """
    deployment = deploy(SENTRY_DSN=sentry.dsn, CFP_API_PUBLIC_URL="https://town.example")
    paging.configure(deployment.settings)
    return deployment


@pytest.fixture
def watchdog(watched: Deployment, clock: Clock) -> Watchdog:
    return Watchdog(watched.settings, watched.repository, watched.ledger, clock=clock, monotonic=clock)


def test_a_stall_is_an_episode_and_a_failure_like_any_other(
    watched: Deployment, watchdog: Watchdog, clock: Clock, sentry: SentrySink
):
    """
    Counted, remembered, logged and paged once, by the same code as a failed attempt.
    """
    assert watchdog.check() == []
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
    paging.flush(5)
    (event,) = sentry.events
    assert event["tags"]["reason"] == "stalled"
    assert event["tags"]["url"] == "https://town.example/status"
    assert event["message"].endswith(": no process pushes to origin, 2 commits wait")
    assert event["contexts"]["push"]["idle_seconds"] == 60
    assert event["contexts"]["push"]["status_page"] == "https://town.example/status"
    assert event["contexts"]["push"]["runbook"] == "https://town.example/status/runbook#stalled"


def test_a_stall_within_an_episode_begins_none(watched: Deployment, watchdog: Watchdog, clock: Clock):
    with watched.ledger.claim("origin") as claim:
        assert claim
        claim.write(failing_since=clock.now, episodes={"network": 1})
    watchdog.check()
    clock.wind(60)

    assert watchdog.check() == ["origin"]

    assert watched.ledger.read("origin").episodes == {"network": 1}


def test_what_has_just_been_committed_does_not_stall(watched: Deployment, watchdog, clock: Clock, data: Bare):
    """
    However long ago the last attempt was.
    """
    data.git("update-ref", "refs/remotes/origin/main", "main")
    watchdog.check()
    clock.wind(3600)
    data.commit("just now")
    assert watchdog.check() == []


@pytest.mark.parametrize("step_s", [-3600, 3600, -86400])
def test_a_clock_that_is_set_neither_blinds_nor_startles(watched, deploy, step_s: int):
    wall, monotonic = Clock(), Clock()
    with watched.ledger.claim("origin") as claim:
        assert claim
        claim.write(last_attempt_at=wall.now)
    watchdog = Watchdog(watched.settings, watched.repository, watched.ledger, clock=wall, monotonic=monotonic)
    watchdog.check()
    wall.wind(step_s)
    assert watchdog.check() == []
    wall.wind(31)
    monotonic.wind(31)
    assert watchdog.check() == ["origin"]


# --- A claim that is never let go of ---


def test_a_holder_that_hangs_is_paged_for_once(watched: Deployment, watchdog, clock: Clock, sentry, deploy):
    """
    Its claim stays where it is; what is told of it is in the ledger all the same, for every process.
    """
    with watched.ledger.claim("origin") as claim:
        assert claim
        claim.begin(100)
        watchdog.check()
        clock.wind(129)
        assert watchdog.check() == []
        clock.wind(2)
        assert watchdog.check() == ["origin"]
        assert watchdog.check() == []
        entry = Ledger(remotes_directory(watched.repository.path)).read("origin")
        assert entry.last_failure
        assert entry.last_failure.reason == "stalled"
        assert f"process {os.getpid()}" in entry.last_failure.message
        assert (entry.episodes, entry.outcomes, entry.paged) == ({"stalled": 1}, {"stalled": 1}, ("stalled",))
        claim.write(last_attempt_at=clock.now)  # it was stopped, and goes on

    with watched.ledger.claim("origin") as claim:
        assert claim
        claim.write(last_push_at=clock.now)
    entry = watched.ledger.read("origin")
    assert (entry.episodes, entry.outcomes, entry.paged) == ({"stalled": 1}, {"stalled": 1}, ("stalled",))
    assert not list(remotes_directory(watched.repository.path).glob("*.stall"))
    paging.flush(5)
    assert len(sentry.events) == 1


def test_a_holder_that_goes_from_step_to_step_is_left_alone(watched: Deployment, watchdog, clock: Clock):
    with watched.ledger.claim("origin") as claim:
        assert claim
        for _ in range(5):
            claim.begin(100)
            assert watchdog.check() == []
            clock.wind(129)
            assert watchdog.check() == []


def test_the_watchdog_itself_holds_no_claim(watched: Deployment, watchdog, clock: Clock, monkeypatch):
    """
    A task that met it would hand its commit over to nobody.
    """
    held = []
    monkeypatch.setattr(
        "ferry.worker.episodes.episodes.page", lambda *_: held.append(watched.ledger.is_claimed("origin"))
    )
    watchdog.check()
    clock.wind(60)
    assert watchdog.check() == ["origin"]
    assert held == [False]


def test_a_damaged_ref_of_one_remote_does_not_hide_another(deploy, data: Bare, tmp_path, clock: Clock):
    mirror = tmp_path / "mirror.git"
    deployment = deploy(CFP_DATA_MIRRORS=f"backup={mirror}")
    watchdog = Watchdog(
        deployment.settings, deployment.repository, deployment.ledger, clock=clock, monotonic=clock
    )
    read = deployment.repository.remote_head
    deployment.repository.remote_head = lambda remote: read(remote) if remote == "backup" else 1 / 0
    watchdog.check()
    clock.wind(60)
    assert watchdog.check() == ["backup"]


def test_the_time_of_a_pause_is_no_stall(watched: Deployment, watchdog: Watchdog, clock: Clock):
    """
    Commits that waited for a pause to end wait for a push no longer than since then.
    """
    with watched.ledger.claim("origin") as claim:
        assert claim is not None
        claim.set_paused(clock(), until=clock() + 3600)
    assert watchdog.check() == []
    clock.wind(3600)
    assert watchdog.check() == []
    clock.wind(60)
    assert watchdog.check() == ["origin"]


def test_a_stall_on_a_full_disk_pages_once(
    watched: Deployment, watchdog: Watchdog, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    """
    What cannot be written is kept in this process, until an attempt writes the entry.
    """

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    watched.ledger.make("origin")
    assert watchdog.check() == []
    clock.wind(60)
    with monkeypatch.context() as full:
        full.setattr("ferry.worker.ledger.ledger.replace_file", refuse)
        assert watchdog.check() == ["origin"]
        assert watchdog.check() == []
    with watched.ledger.claim("origin") as claim:
        assert claim is not None
        claim.write(last_failure=None)
    assert watched.ledger.read("origin").last_failure is None


def test_a_page_that_no_full_disk_can_keep_is_the_same_each_time(
    watched: Deployment, watchdog: Watchdog, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    """
    The page is sent again until one is stored. Its name is made of when the episode began.
    """

    def refuse(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    sent: list[float] = []

    def not_kept(page: paging.Page, outbox: object) -> bool:
        sent.append(page.since)
        return False

    monkeypatch.setattr("ferry.worker.ledger.ledger.replace_file", refuse)
    monkeypatch.setattr("ferry.worker.episodes.episodes.page", not_kept)
    monkeypatch.setattr("ferry.worker.episodes.episodes.is_configured", lambda: True)
    watched.ledger.make("origin")
    watchdog.check()
    for _ in range(3):
        clock.wind(60)
        assert watchdog.check() == ["origin"]
    assert len(sent) == 3
    assert len(set(sent)) == 1
