"""
What the API process sends for a commit, and what it does when the broker does not take it.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from ferry.worker.bootstrap import build
from ferry.worker.enqueue import PushQueue, send_push
from ferry.worker.pipeline import Pipeline
from tests.fake_broker import FakeBroker, fake_broker
from tests.parts import least

Sent = tuple[str, list[Any], dict[str, Any]]

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_PATIENCE_S = 20.0  # where time is not the claim


@pytest.fixture
def pipeline(env: dict[str, str], patient: None) -> Pipeline:
    return build(env, publisher=True)


def _queue(pipeline: Pipeline, *remotes: str, **options: Any) -> PushQueue:
    return PushQueue(pipeline.celery, remotes, **{"budget_s": _PATIENCE_S, **options})


@pytest.fixture
def taken(pipeline: Pipeline, broker: FakeBroker) -> Callable[[], list[Sent]]:
    """
    Take all messages out of the repository's queue, oldest first: task, arguments, keyword arguments.
    """

    def take() -> list[Sent]:
        found = []
        with broker.client() as client:
            while (message := client.rpop(pipeline.queue)) is not None:
                content = json.loads(message)
                arguments, keywords, _ = json.loads(base64.b64decode(content["body"]))
                found.append((content["headers"]["task"], arguments, keywords))
        return found

    return take


def test_a_commit_becomes_one_task_per_remote_in_the_repositorys_queue(pipeline, taken):
    """
    The task pushes the branch as it stands then; the shortened commit is there for people.
    """
    assert _queue(pipeline, "origin", "backup").enqueue_push(COMMIT)
    assert taken() == [
        ("push", [remote, COMMIT[:12]], {"occasion": "commit"}) for remote in ("origin", "backup")
    ]


def test_a_push_for_one_remote_goes_to_no_other(pipeline, taken):
    assert _queue(pipeline, "origin", "backup").enqueue_push(COMMIT, only="backup")
    assert [arguments[0] for _, arguments, _ in taken()] == ["backup"]


def test_what_a_person_asks_for_is_tried_at_once_after_a_look_at_the_remote(pipeline, taken):
    assert _queue(pipeline, "origin").enqueue_push(COMMIT, "operator")
    assert [keywords for _, _, keywords in taken()] == [{"occasion": "operator"}]


def test_a_task_can_be_sent_to_another_repositorys_queue(pipeline, taken, broker):
    """
    One worker may serve several repositories over one broker.
    """
    send_push(pipeline.celery, "origin", COMMIT, queue="push.another")
    with broker.client() as client:
        assert client.llen("push.another") == 1
    assert taken() == []


def _enqueue(queue: PushQueue, **options: Any) -> tuple[bool, list[tuple[str, str]]]:
    with capture_logs() as logs:
        taken = queue.enqueue_push(COMMIT, **options)
    lost = [entry for entry in logs if entry["event"] == "push.enqueue_failed"]
    return taken, [(entry["remote"], entry["error"]) for entry in lost]


@pytest.mark.parametrize(
    "refusal",
    [
        "READONLY You can't write against a read only replica.",
        "MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk.",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "NOAUTH Authentication required.",
        "ERR unknown command",
    ],
)
def test_a_broker_that_refuses_costs_the_caller_no_more_than_a_log_line(pipeline, broker, taken, refusal):
    """
    Each remote's loss is logged and counted, and the next commit is queued as soon as the broker takes it.
    """
    lost: list[str] = []
    queue = _queue(pipeline, "origin", "backup", on_failure=lost.append)
    assert queue.enqueue_push(COMMIT)
    broker.refusal = refusal
    is_taken, logged = _enqueue(queue)
    assert not is_taken
    assert [remote for remote, _ in logged] == lost == ["origin", "backup"]
    assert all(refusal.split()[-1] in error for _, error in logged)

    broker.refusal = None
    assert queue.enqueue_push(COMMIT)
    assert len(taken()) == 4


def test_a_broker_that_went_away_and_came_back_takes_the_next_push(env, pipeline, taken):
    with fake_broker() as short_lived:
        elsewhere = build({**env, "CFP_REDIS_URL": short_lived.url}, publisher=True)
        queue = _queue(elsewhere, "origin")
        assert queue.enqueue_push(COMMIT)
    is_taken, logged = _enqueue(queue)
    assert not is_taken
    assert "refused" in logged[0][1]
    with fake_broker(short_lived.port) as again:
        assert queue.enqueue_push(COMMIT)
        assert again.client().llen(elsewhere.queue) == 1


def test_the_budget_is_one_for_all_remotes_of_a_broker_that_hangs(pipeline, broker):
    remotes = [f"remote-{number}" for number in range(8)]
    queue = _queue(pipeline, *remotes, budget_s=0.05)

    def takes_s() -> float:
        begun = time.monotonic()
        is_taken, logged = _enqueue(queue)
        took_s = time.monotonic() - begun
        assert not is_taken
        assert [remote for remote, _ in logged] == remotes
        return took_s

    with broker.hung():
        assert least(takes_s, below_s=0.15) < 0.15


def test_no_socket_waits_for_a_hung_broker_longer_than_its_time_limit(env, broker):
    """
    The budget ends the caller's wait; what was left behind in a thread ends by itself soon after.
    """
    queue = _queue(build(env, publisher=True), "origin")
    with broker.hung():
        is_taken, logged = _enqueue(queue)
    assert not is_taken
    assert "budget" not in logged[0][1]
    assert "imeout" in logged[0][1] or "timed out" in logged[0][1]
