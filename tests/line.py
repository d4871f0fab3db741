"""
One repository and what the push pipeline keeps beside it, without a broker or a worker process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from ferry.worker import paging
from ferry.worker.errors import PushFailed
from ferry.worker.files.places import remotes_directory, state_directory, write_lock
from ferry.worker.follow import Follower
from ferry.worker.git.credentials import Credentials
from ferry.worker.git.prepare import prepare
from ferry.worker.git.repository import Repository
from ferry.worker.ledger.entry import Entry
from ferry.worker.ledger.ledger import Ledger
from ferry.worker.push import Pusher, Request
from ferry.worker.repair.reconcile import Reconciler
from ferry.worker.settings import Settings
from ferry.worker.sweep import Sweeper
from ferry.worker.turns.turn import Occasion
from tests.parts import Bare

JITTER = 0.5


class Clock:
    """
    A clock that is wound by hand.
    """

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now

    def wind(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True)
class Deployment:
    """
    The parts that ``ferry.worker.bootstrap`` would put together, but for Celery.
    """

    settings: Settings
    repository: Repository
    ledger: Ledger


@pytest.fixture
def deploy(data: Bare, remote: Bare, _was_started: None) -> Callable[..., Deployment]:
    """
    Prepare ``data`` for pushes to ``remote``, with further variables as keywords.
    """

    def deployed(**env: str) -> Deployment:
        settings = Settings.from_env(
            {
                "CFP_DATA_REPO_PATH": str(data.path),
                "CFP_DATA_REMOTE": str(remote.path),
                "CFP_REDIS_URL": "redis://redis.invalid",
                **env,
            }
        )
        prepare(settings)
        return Deployment(
            settings=settings,
            repository=Repository.of(settings, Credentials.from_settings(settings, os.environ)),
            ledger=Ledger(remotes_directory(settings.data_repo_path)),
        )

    return deployed


@pytest.fixture
def deployment(deploy: Callable[..., Deployment]) -> Deployment:
    return deploy()


@dataclass
class Line:
    """
    The way from a repository to its remote, with what a worker and a sweep do to it.
    """

    settings: Settings
    repository: Repository
    ledger: Ledger
    clock: Clock = field(default_factory=Clock)
    sent: list[tuple[str, str]] = field(default_factory=list)  # the pushes that taking over has queued

    @property
    def entry(self) -> Entry:
        return self.ledger.read("origin")

    @property
    def reconciler(self) -> Reconciler:
        lock = write_lock(self.settings.data_repo_path)

        def send(remote: str, commit: str) -> None:
            self.sent.append((remote, commit))

        return Reconciler(self.settings, self.repository, self.ledger, lock, send=send, clock=self.clock)

    def follow(self, *, is_noted: bool = False) -> str:
        """
        Do what a task does that looks at origin for commits of others.
        """
        parts = self.settings, self.repository, self.ledger, self.reconciler
        return Follower(*parts, clock=self.clock).follow(is_noted=is_noted)

    def push(self, chain: str = "first", **request: Any) -> str:
        """
        Do what a task with the id *chain* does.
        """
        parts = self.settings, self.repository, self.ledger, self.reconciler
        pusher = Pusher(*parts, clock=self.clock, jitter=lambda: JITTER)
        if request.get("retries"):
            request["occasion"] = "retry"
        try:
            return pusher.push(Request(**{"remote": "origin", "chain": chain, **request}))
        finally:
            paging.flush(5)

    def fail(self, chain: str = "first", **request: Any) -> PushFailed:
        """
        The same, where it is to fail and be retried.
        """
        with pytest.raises(PushFailed) as failed:
            self.push(chain, **request)
        return failed.value

    @property
    def sweeper(self) -> Sweeper:
        directory = state_directory(self.settings.data_repo_path)
        return Sweeper(self.settings, self.repository, self.ledger, directory, clock=self.clock)

    def wanting(self, occasion: Occasion = "sweep") -> dict[str, str | None]:
        return self.sweeper.wanting(occasion)

    def attempts(self) -> int:
        return sum(self.entry.outcomes.values())


@pytest.fixture
def line_with(deploy: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Line]:
    # On a busy machine one push may take as long as a turn, and the next would be put off.
    monkeypatch.setattr("ferry.worker.push._TURN_S", 60.0)

    def line(**env: str) -> Line:
        deployed = deploy(**{"CFP_PUSH_BACKOFF_BASE": "100", "CFP_PUSH_BACKOFF_CAP": "1000", **env})
        return Line(deployed.settings, deployed.repository, deployed.ledger)

    return line


@pytest.fixture
def line(line_with: Callable[..., Line]) -> Line:
    """
    The first wait is 75 s, the sweep comes every 15 s.
    """
    return line_with()
