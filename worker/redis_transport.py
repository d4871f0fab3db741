"""
One defect of kombu's Redis transport, mended: a worker must outlive its broker.

When the connection is lost while a message is unacknowledged (a push runs, or a
retry waits), Celery closes the channel and later acknowledges on it all the
same. kombu 5.7 then looks for the address of a connection that is gone, and the
``AttributeError`` ("'NoneType' object has no attribute 'hostname'", or
``'client'``) is no connection error to Celery: the worker ends. Said as what it
is, it is logged and survived. The message stays in Redis as unacknowledged, and
a push that runs twice finds nothing to do.
"""

from __future__ import annotations

from typing import Any

from kombu.transport.redis import Channel
from redis.exceptions import ConnectionError as RedisConnectionError

_connparams = Channel._connparams


def _connparams_while_connected(channel: Channel, *args: Any, **kwargs: Any) -> Any:
    if getattr(channel.connection, "client", None) is None:
        raise RedisConnectionError("the channel's connection to the broker was lost")
    return _connparams(channel, *args, **kwargs)  # type: ignore[no-untyped-call]


def mend() -> None:
    """
    Have every Redis channel of this process, Sentinel's too, tell a lost connection from a defect.
    """
    setattr(Channel, "_connparams", _connparams_while_connected)  # noqa: B010 - mypy calls the plain form an error
