"""
Celery's configuration, with the reason beside each option.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery
from kombu import Exchange, Queue

from ferry.worker.settings import Settings

# A publisher's timeout for the broker; ``ferry.worker.enqueue`` bounds the enqueueing as a whole.
PUBLISHER_SOCKET_TIMEOUT_S = 0.2
_WORKER_SOCKET_TIMEOUT_S = 30.0
_WORKER_CONNECT_TIMEOUT_S = 5.0
# RabbitMQ takes a message back from a consumer that has kept it for half an hour (consumer_timeout),
# and closes its channel. A consumer keeps a message for its whole countdown.
_AMQP_LONGEST_COUNTDOWN_S = 600.0
_MOST_SLOTS = 16  # slots for several repositories; each is a process


class _App(Celery):  # type: ignore[misc]
    """
    An app without a result backend.

    Celery looks for backends in the metadata of every installed package, in each process at its first message
    or task. With 180 packages that takes 7 ms (https://github.com/celery/celery/issues/9527).
    """

    def _get_backend(self) -> Any:
        from celery.backends.base import DisabledBackend  # few commands need it

        return DisabledBackend(app=self)


def build_celery(served: Mapping[str, Settings], *, publisher: bool, places: int = 0) -> Celery:
    """
    Build the Celery app of a process, without tasks.

    Args:
        served: Each repository's queue and settings. All have the same broker.
        publisher: Whether this process only sends tasks.
        places: How many tasks may call functions of extensions at once.
    """
    app = _App(
        "ferry",
        set_as_current=not publisher,
        amqp="ferry.worker.broker.connection:FerryAMQP",
        fixups=[],  # the one that there is is for Django, and imports Celery's worker
    )
    first, settings = next(iter(served.items()))
    app.conf.update(
        broker_url=_url(settings).partition("#")[0],
        # By default Celery ends the worker after 100 failed connections.
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        # An error from the broker, such as RabbitMQ's consumer_timeout, does not end the worker either.
        broker_channel_error_retry=True,
        broker_transport_options=_transport_options(served, publisher=publisher),
        task_default_queue=first,
        # Each queue has an exchange of the same name, as in an app with one queue: a redelivered message
        # needs both, whichever app sent it.
        task_queues=[Queue(queue, Exchange(queue), routing_key=queue) for queue in served],
        task_create_missing_queues=True,
        # The ledger is the result. With a result backend `delay` would also
        # subscribe to it, and raise for ever once that connection broke.
        task_ignore_result=True,
        # With both, the task of a killed worker stays queued; a push that runs twice finds the remote up to
        # date.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # Functions of extensions, which may hang, take no slot from the pushes.
        worker_concurrency=_slots([len(each.remotes) for each in served.values()]) + places,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=True,
        worker_consumer="ferry.worker.broker.consumer:FerryConsumer",
        # Beat needs no state: the sweep compares refs.
        beat_scheduler="celery.beat:Scheduler",
        beat_schedule={**_sweeps(served), **_looks(served)},
    )
    return app


def longest_countdown_s(app: Celery) -> float:
    """
    Return the longest countdown of one message, in seconds. A longer wait takes several messages.
    """
    return _AMQP_LONGEST_COUNTDOWN_S if app.conf.broker_url.startswith("amqp") else math.inf


def _slots(remotes: list[int]) -> int:
    """
    Return how many tasks a worker runs at once, given the number of remotes of each repository.

    One slot for each remote, because each may hang, one for maintenance, and one that stays free. Many
    repositories share slots.
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
            # Messages expire, so that they do not pile up while no worker runs.
            "options": {"expires": interval_s, "queue": queue},
            # Spread over the interval: all sweeps at once would delay the pushes.
            "last_run_at": now + timedelta(seconds=number * interval_s / len(intervals)),
        }
        for number, (queue, interval_s) in enumerate(intervals.items())
    }


def _transport_options(served: Mapping[str, Settings], *, publisher: bool) -> dict[str, Any]:
    owner, settings = next(iter(served.items()))
    if settings.data_repositories:  # a stable name, whichever repositories are served
        owner = f"push.{hashlib.sha256(bytes(settings.data_repositories)).hexdigest()[:12]}"
    url = _url(settings)
    if url.startswith("amqp"):
        return {"max_retries": 0} if publisher else {}
    sockets = {
        "socket_timeout": PUBLISHER_SOCKET_TIMEOUT_S if publisher else _WORKER_SOCKET_TIMEOUT_S,
        "socket_connect_timeout": PUBLISHER_SOCKET_TIMEOUT_S if publisher else _WORKER_CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
    }
    return {
        **(_sentinel_options(url, sockets) if url.startswith("sentinel:") else {}),
        **sockets,
        "retry_on_timeout": False,
        # By default kombu retries for seconds, which only a worker may do.
        **({"max_retries": 0} if publisher else {}),
        # Redis redelivers a message whose countdown is longer than this, so it is twice the longest
        # countdown.
        "visibility_timeout": 2 * max(each.push_longest_wait_s for each in served.values()),
        # No message has a priority: with one priority step kombu polls each queue once, not four times.
        "priority_steps": [0],
        # By default all queues of a database share one such set: another repository's worker must not
        # redeliver our messages by its own timeout.
        "unacked_key": f"{owner}.unacked",
        "unacked_index_key": f"{owner}.unacked_index",
        "unacked_mutex_key": f"{owner}.unacked_mutex",
    }


def _sentinel_options(url: str, sockets: Mapping[str, Any]) -> dict[str, Any]:
    # A command that sends nothing does without redis-py, which takes long to import.
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    # Ask an unreachable Sentinel once, not three times with pauses: the next Sentinel may answer.
    asked = {**sockets, "retry": Retry(NoBackoff(), 0)}
    return {"master_name": url.partition("#")[2], "sentinel_kwargs": asked}


def _url(settings: Settings) -> str:
    return settings.broker_url or settings.redis_url
