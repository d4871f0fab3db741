"""
kombu's Redis transport, mended: a worker must outlive its broker.

When the connection is lost while a message is unacknowledged (a push runs, or a
retry waits), Celery closes the channel and later acknowledges on it all the
same. kombu 5.7 then looks for the address of a connection that is gone, and the
``AttributeError`` ("'NoneType' object has no attribute 'hostname'", or
``'client'``) is no connection error to Celery: the worker ends. Said as what it
is, it is logged and survived. The message stays in Redis as unacknowledged, and
a push that runs twice finds nothing to do.

And one slowness: kombu makes a client object for each command, with a table of all
commands' answers, which is a fifth of what sending a message takes. What such an
object holds is its pool of connections, so one of each pool is as good.
"""

from __future__ import annotations

from typing import Any

from kombu.transport.redis import Channel
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

_connparams, _create_client = Channel._connparams, Channel._create_client
_KEPT = "_ferry_client"


def _connparams_while_connected(channel: Channel, *args: Any, **kwargs: Any) -> Any:
    if getattr(channel.connection, "client", None) is None:
        raise RedisConnectionError("the channel's connection to the broker was lost")
    return _connparams(channel, *args, **kwargs)  # type: ignore[no-untyped-call]


def _client_of_the_pool(channel: Channel, asynchronous: bool = False) -> Redis:
    kept = None if asynchronous else channel.__dict__.get(_KEPT)  # the asynchronous ones kombu keeps itself
    if kept is None or kept.connection_pool is not channel.pool:
        kept = _create_client(channel, asynchronous)  # type: ignore[no-untyped-call]
        if not asynchronous:
            channel.__dict__[_KEPT] = kept
    return kept  # type: ignore[no-any-return]


def mend() -> None:
    """
    Have each Redis channel of this process, Sentinel's too, know a lost connection, and keep its client.
    """
    # mypy calls the plain form of an assignment an error.
    setattr(Channel, "_connparams", _connparams_while_connected)  # noqa: B010
    setattr(Channel, "_create_client", _client_of_the_pool)  # noqa: B010
