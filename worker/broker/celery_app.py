"""
Celery as Ferry needs it, with the reason beside each option.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery
from kombu import Exchange, Queue
from redis.backoff import NoBackoff
from redis.retry import Retry

from ferry.worker.settings import Settings

# A publisher gives up on the broker within this; the enqueueing as a whole has
# its own bound in ``ferry.worker.enqueue``.
PUBLISHER_SOCKET_TIMEOUT_S = 0.2
_WORKER_SOCKET_TIMEOUT_S = 30.0
_WORKER_CONNECT_TIMEOUT_S = 5.0
# RabbitMQ takes a message back from a consumer that has kept it for half an hour (consumer_timeout),
# and closes its channel. A countdown is kept.
_AMQP_LONGEST_COUNTDOWN_S = 600.0
_MOST_SLOTS = 16  # for several repositories; each is a process


def queue_of(identity: str) -> str:
    """
    Return the name of a repository's queue: several repositories share one broker and one Flower.
    """
    return f"push.{identity}"


def build_celery(served: Mapping[str, Settings], *, publisher: bool, places: int = 0) -> Celery:
    """
    Build the Celery app of a process, without tasks.

    Args:
        served: Each repository's queue and settings. They have one broker.
        publisher: Whether this process only sends tasks.
        places: How many tasks may call functions of extensions at once.
    """
    app = Celery("ferry", set_as_current=not publisher, amqp="ferry.worker.broker.connection:FerryAMQP")
    first, settings = next(iter(served.items()))
    app.conf.update(
        broker_url=_url(settings).partition("#")[0],
        # The default gives up after 100 failures and ends the worker.
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        # Nor does an error that the broker answers with end it, such as RabbitMQ's consumer_timeout.
        broker_channel_error_retry=True,
        broker_transport_options=_transport_options(served, publisher=publisher),
        task_default_queue=first,
        # Each with an exchange of its own name, as an app of one queue has it: a message
        # finds its way back by both, whoever sent it.
        task_queues=[Queue(queue, Exchange(queue), routing_key=queue) for queue in served],
        task_create_missing_queues=True,
        # The ledger is the result. With a result backend `delay` would also
        # subscribe to it, and raise for ever once that connection broke.
        task_ignore_result=True,
        # Both are needed for a killed worker to leave its task queued; a push
        # that runs twice finds the remote up to date.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # Functions of extensions, which may hang, take no slot from the pushes.
        worker_concurrency=_slots([len(each.remotes) for each in served.values()]) + places,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=True,
        worker_consumer="ferry.worker.broker.consumer:FerryConsumer",
        # Beat needs no memory of its own: the sweep compares refs.
        beat_scheduler="celery.beat:Scheduler",
        beat_schedule={**_sweeps(served), **_looks(served)},
    )
    return app


def longest_countdown_s(app: Celery) -> float:
    """
    Return how long a message may wait in a worker, in seconds: what is to wait for longer waits again.
    """
    return _AMQP_LONGEST_COUNTDOWN_S if app.conf.broker_url.startswith("amqp") else math.inf


def _slots(remotes: list[int]) -> int:
    """
    Return how many tasks a worker runs at once, for repositories with that many remotes each.

    One slot per remote, each of which may hang, one for maintenance, and one that is
    always free. Many repositories share theirs.
    """
    return max(max(remotes), min(sum(remotes), _MOST_SLOTS - 2)) + 2


def _sweeps(served: Mapping[str, Settings]) -> dict[str, dict[str, Any]]:
    return _every("sweep", {queue: settings.push_sweep_interval_s for queue, settings in served.items()})


def _looks(served: Mapping[str, Settings]) -> dict[str, dict[str, Any]]:
    intervals = {queue: each.data_follow_interval_s for queue, each in served.items() if each.data_remote}
    return _every("follow", {queue: interval_s for queue, interval_s in intervals.items() if interval_s})


def _every(task: str, intervals: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """
    Return beat's schedule of *task*, by the queues that it is sent to and the seconds between two.
    """
    now = datetime.now(UTC)
    return {
        f"{task} {queue}": {
            "task": task,
            "schedule": interval_s,
            # Those that no worker took must not pile up.
            "options": {"expires": interval_s, "queue": queue},
            # One after the other over the interval: all at once they would hold up the pushes.
            "last_run_at": now + timedelta(seconds=number * interval_s / len(intervals)),
        }
        for number, (queue, interval_s) in enumerate(intervals.items())
    }


def _transport_options(served: Mapping[str, Settings], *, publisher: bool) -> dict[str, Any]:
    owner, settings = next(iter(served.items()))
    if settings.data_repositories:  # a name that outlives any of them
        owner = f"push.{hashlib.sha256(bytes(settings.data_repositories)).hexdigest()[:12]}"
    url = _url(settings)
    if url.startswith("amqp"):
        return {"max_retries": 0} if publisher else {}
    sockets = {
        "socket_timeout": PUBLISHER_SOCKET_TIMEOUT_S if publisher else _WORKER_SOCKET_TIMEOUT_S,
        "socket_connect_timeout": PUBLISHER_SOCKET_TIMEOUT_S if publisher else _WORKER_CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
    }
    # A Sentinel that is away is asked once, not three times with pauses: the next one may know.
    asked = {"sentinel_kwargs": {**sockets, "retry": Retry(NoBackoff(), 0)}}
    return {
        **({"master_name": url.partition("#")[2], **asked} if url.startswith("sentinel:") else {}),
        **sockets,
        "retry_on_timeout": False,
        # kombu would try to connect again and again, seconds apart; a worker may.
        **({"max_retries": 0} if publisher else {}),
        # A countdown that outlives this is delivered twice, so it is twice the longest.
        "visibility_timeout": 2 * max(each.push_longest_wait_s for each in served.values()),
        # No message has a priority, and Redis is asked for each queue once, not four times.
        "priority_steps": [0],
        # Redis keeps one such set per database: another repository's worker
        # must not restore our messages by its own clock.
        "unacked_key": f"{owner}.unacked",
        "unacked_index_key": f"{owner}.unacked_index",
        "unacked_mutex_key": f"{owner}.unacked_mutex",
    }


def _url(settings: Settings) -> str:
    return settings.broker_url or settings.redis_url
