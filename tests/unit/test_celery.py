"""
What Celery is told, for each broker: how long a retry waits in a worker, how soon it connects again.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from celery import Task
from kombu.exceptions import OperationalError

from ferry.worker.broker.celery_app import build_celery
from ferry.worker.errors import PushFailed
from ferry.worker.settings import Settings
from ferry.worker.tasks import PushTask


@pytest.mark.parametrize(
    ("broker", "waits_s", "countdown_s"),
    [
        ("redis://host", 3600.0, 3600.0),
        ("amqp://host", 3600.0, 600.0),
        ("amqps://host//", 86400.0, 600.0),
        ("amqp://host", 7.5, 7.5),
    ],
)
def test_on_rabbitmq_no_countdown_comes_near_its_consumer_timeout(
    monkeypatch: pytest.MonkeyPatch, broker: str, waits_s: float, countdown_s: float
):
    """
    The server takes a message back, and closes the worker's channel, after half an hour.
    """
    env = {"CFP_DATA_REPO_PATH": "/srv/data.git", "CFP_REDIS_URL": "redis://host", "CFP_BROKER_URL": broker}
    app = build_celery({"push.x": Settings.from_env(env)}, publisher=False)
    task = type("Bound", (PushTask,), {"_app": app})()
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(Task, "retry", lambda *_, **options: asked.append(options))
    failed = PushFailed("origin", "network", "away", "wait")
    failed.retry_in_s = waits_s

    task.retry(exc=failed)

    assert [(options["countdown"], options["kwargs"]) for options in asked] == [
        (countdown_s, {"occasion": "retry"})
    ]


@pytest.mark.parametrize("needs_person", [False, True])
def test_flower_shows_a_task_as_failed_where_a_person_is_needed_though_it_is_retried(
    monkeypatch: pytest.MonkeyPatch, needs_person: bool
):
    env = {"CFP_DATA_REPO_PATH": "/srv/data.git", "CFP_REDIS_URL": "redis://host"}
    app = build_celery({"push.x": Settings.from_env(env)}, publisher=False)
    task = type("Bound", (PushTask,), {"_app": app})()
    scheduled: list[float] = []
    monkeypatch.setattr(Task, "retry", lambda *_, **options: scheduled.append(options["countdown"]))
    failed = PushFailed("origin", "auth", "denied", "renew")
    failed.retry_in_s, failed.needs_person = 3.0, needs_person

    with pytest.raises(PushFailed) if needs_person else contextlib.nullcontext():
        task.retry(exc=failed)

    assert scheduled == [3.0]


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:1", "amqp://127.0.0.1:1", "sentinel://127.0.0.1:1#m"])
def test_a_broker_is_looked_for_every_five_seconds_at_least(monkeypatch: pytest.MonkeyPatch, broker: str):
    """
    However long it has been away.
    """
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda _: None)
    env = {"CFP_DATA_REPO_PATH": "/srv/data.git", "CFP_REDIS_URL": "redis://host", "CFP_BROKER_URL": broker}
    app = build_celery({"push.x": Settings.from_env(env)}, publisher=False)
    waits: list[float] = []
    with app.connection_for_read() as connection, pytest.raises(OperationalError):
        connection.ensure_connection(lambda _, wait_s: waits.append(wait_s), max_retries=10)
    assert len(waits) == 10
    assert max(waits) <= 5


@pytest.mark.parametrize(
    ("env", "every_s"),
    [
        ({"CFP_DATA_REMOTE": "/srv/remote.git"}, 60.0),
        ({"CFP_DATA_REMOTE": "/srv/remote.git", "CFP_DATA_FOLLOW_INTERVAL": "5"}, 5.0),
        ({"CFP_DATA_REMOTE": "/srv/remote.git", "CFP_DATA_FOLLOW_INTERVAL": "0"}, None),
        ({}, None),
    ],
)
def test_beat_sends_a_look_at_origin_for_each_repository_that_has_one(env: dict[str, str], every_s):
    """
    To its own queue, and none that piles up where no worker takes it.
    """
    bare = {"CFP_DATA_REPO_PATH": "/srv/data.git", "CFP_REDIS_URL": "redis://host"}
    served = {"push.x": Settings.from_env({**bare, **env}), "push.y": Settings.from_env(bare)}
    schedule = build_celery(served, publisher=False).conf.beat_schedule
    looks = [entry for entry in schedule.values() if entry["task"] == "follow"]
    assert [entry["schedule"] for entry in looks] == ([every_s] if every_s else [])
    assert [entry["options"] for entry in looks] == (
        [{"expires": every_s, "queue": "push.x"}] if every_s else []
    )
