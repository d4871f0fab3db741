"""
Celery as Ferry needs it, with the reason beside each option.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Queue

from worker.settings import Settings

# A publisher gives up on the broker within this; the enqueueing as a whole has
# its own bound in ``worker.enqueue``.
PUBLISHER_SOCKET_TIMEOUT_S = 0.2
_WORKER_SOCKET_TIMEOUT_S = 30.0


def build_celery(settings: Settings, *, identity: str, publisher: bool) -> Celery:
    """
    Build the Celery app of one repository, without tasks.

    Args:
        settings: Broker, backoff and sweep interval.
        identity: The repository's identity; names its queue, so that several
            repositories share one broker and one Flower.
        publisher: Whether this process only sends tasks.
    """
    app = Celery("ferry", set_as_current=not publisher)
    queue = f"push.{identity}"
    app.conf.update(
        broker_url=_url(settings).partition("#")[0],
        # The default gives up after 100 failures and ends the worker.
        broker_connection_max_retries=None,
        broker_connection_retry_on_startup=True,
        broker_transport_options=_transport_options(settings, queue, publisher=publisher),
        task_default_queue=queue,
        task_queues=[Queue(queue, routing_key=queue)],
        task_create_missing_queues=True,
        # The ledger is the result. With a result backend `delay` would also
        # subscribe to it, and raise for ever once that connection broke.
        task_ignore_result=True,
        # Both are needed for a killed worker to leave its task queued; a push
        # that runs twice finds the remote up to date.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # One slot per remote, each of which may hang, one for maintenance, and one that is always free.
        worker_concurrency=len(settings.remotes) + 2,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=True,
        worker_consumer="worker.event_batches:BatchingConsumer",
        # Beat needs no memory of its own: the sweep compares refs.
        beat_scheduler="celery.beat:Scheduler",
        beat_schedule={
            "sweep": {
                "task": "sweep",
                "schedule": settings.push_sweep_interval_s,
                # Sweeps that no worker took must not pile up.
                "options": {"expires": settings.push_sweep_interval_s},
            }
        },
    )
    return app


def _transport_options(settings: Settings, queue: str, *, publisher: bool) -> dict[str, Any]:
    url = _url(settings)
    if url.startswith("amqp"):
        return {"max_retries": 0} if publisher else {}
    timeout_s = PUBLISHER_SOCKET_TIMEOUT_S if publisher else _WORKER_SOCKET_TIMEOUT_S
    return {
        **({"master_name": url.partition("#")[2]} if url.startswith("sentinel:") else {}),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "retry_on_timeout": False,
        # kombu would try to connect again and again, seconds apart; a worker may.
        **({"max_retries": 0} if publisher else {}),
        # A countdown that outlives this is delivered twice, so it is twice the longest.
        "visibility_timeout": 2 * settings.push_longest_wait_s,
        # Redis keeps one such set per database: another repository's worker
        # must not restore our messages by its own clock.
        "unacked_key": f"{queue}.unacked",
        "unacked_index_key": f"{queue}.unacked_index",
        "unacked_mutex_key": f"{queue}.unacked_mutex",
    }


def _url(settings: Settings) -> str:
    return settings.broker_url or settings.redis_url
