"""
What beat and Flower do with the repository: read the queue's name, and nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ferry.worker.bootstrap import build
from ferry.worker.errors import RepositoryError
from ferry.worker.roles import beside, subcommand

REDIS = {"CFP_REDIS_URL": "redis://127.0.0.1:1/0"}


def looks(directory: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(directory.rglob("*"))}


def test_beat_reads_the_queues_name_and_writes_nothing(data, monkeypatch):
    """
    Its volume may be mounted read-only, and no remote or key is named to it.
    """
    env = {**REDIS, "CFP_DATA_REPO_PATH": str(data.path)}
    queue = build(env).queue
    before = looks(data.path)
    monkeypatch.setattr(os, "access", lambda *_: False)

    beat = beside.build("beat", {"": env})

    assert [each["options"]["queue"] for each in beat.conf.beat_schedule.values()] == [queue]
    assert looks(data.path) == before


def test_beat_may_be_the_first_to_start(data):
    env = {**REDIS, "CFP_DATA_REPO_PATH": str(data.path)}

    beat = beside.build("beat", {"": env})

    assert beat.conf.task_default_queue == build(env).queue


def test_beat_says_what_is_wrong_with_the_repository(tmp_path):
    with pytest.raises(RepositoryError, match="make it with: ferry init"):
        beside.build("beat", {"": {**REDIS, "CFP_DATA_REPO_PATH": str(tmp_path / "none.git")}})


def test_flower_needs_no_repository(tmp_path):
    app = beside.build("flower", {"": {**REDIS, "CFP_DATA_REPO_PATH": str(tmp_path / "none.git")}})

    assert app.conf.broker_url == REDIS["CFP_REDIS_URL"]


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("celery -A ferry.worker beat", "beat"),
        ("celery --quiet -A ferry.worker flower --port=5555", "flower"),
        ("celery -A ferry.worker worker --hostname beat", "worker"),
        ("celery --app worker -b redis://flower worker -l INFO", "worker"),
        ("celery --app=worker flower", "flower"),
        ("celery --version", ""),
        ("gunicorn ferry.app:create_app()", "ferry.app:create_app()"),
    ],
)
def test_a_command_line_says_which_command_it_runs(line, command):
    assert subcommand(line.split()) == command
