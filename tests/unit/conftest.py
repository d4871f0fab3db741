"""
One repository and what the push pipeline keeps beside it, without a broker or a worker process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import hypothesis
import pytest

from tests.parts import Bare
from worker.credentials import Credentials
from worker.git import Repository
from worker.ledger import Ledger
from worker.prepare import prepare, remotes_directory
from worker.settings import Settings

# Examples start git or touch the disk; on a busy machine a slow one is no failure.
_profile = hypothesis.settings.get_profile(hypothesis.settings.get_current_profile_name())
hypothesis.settings.register_profile("ferry", _profile, deadline=None)
hypothesis.settings.load_profile("ferry")


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
    The parts that ``worker.bootstrap`` would put together, but for Celery.
    """

    settings: Settings
    repository: Repository
    ledger: Ledger


@pytest.fixture
def deploy(data: Bare, remote: Bare) -> Callable[..., Deployment]:
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
            repository=Repository(
                settings.data_repo_path,
                branch=settings.data_branch,
                credentials=Credentials.from_settings(settings, os.environ),
            ),
            ledger=Ledger(remotes_directory(settings.data_repo_path)),
        )

    return deployed


@pytest.fixture
def deployment(deploy: Callable[..., Deployment]) -> Deployment:
    return deploy()
