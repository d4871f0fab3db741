"""
Celery's connections to the broker: they use Ferry's transports, and reconnect soon.

``FerryAMQP`` is Celery's ``amqp`` class, and returns ``FerryConnection``. That class selects the transport
after kombu has parsed the URL, so that each form of URL gets Ferry's transport: ``redis+socket:``, TLS, and
every Sentinel of a list. ``broker_transport`` does not do that, see
``docs/decisions/0006-a-mended-redis-transport.md``.
"""

from __future__ import annotations

from typing import Any

from celery.app.amqp import AMQP
from kombu import Connection
from kombu.connection import ConnectionPool, PooledConnection

from ferry.worker.broker.redis_library import redis
from ferry.worker.broker.redis_transport import SentinelTransport, Transport

_LONGEST_WAIT_S = 5.0
_TRANSPORTS: dict[Any, Any] = {redis.Transport: Transport, redis.SentinelTransport: SentinelTransport}


class FerryConnection(Connection):
    """
    A connection that retries at least every five seconds while the broker does not answer.
    """

    def get_transport_cls(self) -> Any:
        """
        Return the transport's class: Ferry's instead of kombu's for Redis and Sentinel.
        """
        found = super().get_transport_cls()  # type: ignore[no-untyped-call]
        return _TRANSPORTS.get(found, found)

    def Pool(self, limit: int | None = None, **_: Any) -> ConnectionPool:
        """
        Return a pool of Ferry's connections, which Celery uses to send tasks.
        """
        return _Pool(self, limit)  # type: ignore[no-untyped-call]

    def _ensure_connection(
        self,
        errback: Any = None,
        max_retries: int | None = None,
        interval_start: float = 1.0,
        interval_step: float = 1.0,
        interval_max: float = _LONGEST_WAIT_S,
        *rest: Any,
        **options: Any,
    ) -> Any:
        # Celery passes no intervals, and kombu would wait for up to half a minute. The method is private to
        # kombu; no setting reaches it (https://github.com/celery/celery/issues/4627).
        interval_max = min(interval_max, _LONGEST_WAIT_S)
        return super()._ensure_connection(  # type: ignore[no-untyped-call]
            errback, max_retries, interval_start, interval_step, interval_max, *rest, **options
        )


class _PooledConnection(FerryConnection, PooledConnection):
    """
    A connection of the pool.
    """


class _Pool(ConnectionPool):
    """
    kombu's names the class of its connections itself (https://github.com/celery/kombu/blob/main/kombu/connection.py).
    """

    def new(self) -> _PooledConnection:
        return _PooledConnection(self, **dict(self.connection._info(resolve=False)))  # type: ignore[no-untyped-call]


class FerryAMQP(AMQP):  # type: ignore[misc]  # Celery ships no types
    """
    Celery's factory of connections, producers and queues.
    """

    Connection = FerryConnection
