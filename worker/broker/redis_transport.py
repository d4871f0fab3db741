"""
kombu's Redis transport, with the repairs that a worker needs to outlive its broker.

``connection`` gives these classes to Celery. They override private methods of kombu 5.7
(https://github.com/celery/kombu/blob/main/kombu/transport/redis.py), each for a reason:

**A broker that refuses for now counts as absent.** A server that became a replica, or lacks replicas, disk or
memory, answers each write with an error. Celery does not take that for a lost connection, and the worker ends
(https://github.com/celery/celery/issues/7946). Here it is a connection error, so the worker waits.

**A lost connection is a connection error.** Celery acknowledges on a channel whose connection was lost, and
kombu then reads an attribute of None (https://github.com/celery/kombu/issues/582). The message stays in
Redis as unacknowledged, and a push that runs twice finds nothing to do.

**A malformed message is logged and dropped.** kombu parses what it has popped from a list or received on a
channel, and an error there ends the process (https://github.com/celery/celery/issues/4308). ``messages``
checks those of Ferry's tasks.

**A task begins before its message is stored.** kombu stores each message that it has taken as
unacknowledged, waits for the answer, and then hands it on. Here that follows some milliseconds later, while
the task runs, and before anything else is done with the message. As with kombu, a process that dies in
between loses the message, and the sweep finds its commit.

**A look at many queues is cheap.** A worker looks at the queues of all its repositories after each message.
kombu then lists them several times, and redis-py packs each name anew: with a hundred repositories a quarter
of the main process's time.

**One client per pool.** kombu makes a client object for each command, and redis-py fills a table of all
commands for each (https://github.com/redis/redis-py/issues/3624): a fifth of the time that sending a
message takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from queue import Empty
from typing import Any

from kombu.asynchronous import get_event_loop
from kombu.exceptions import OperationalError
from kombu.transport import virtual
from redis import Redis
from redis.exceptions import (
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from ferry.worker.broker.messages import MessageError
from ferry.worker.broker.redis_library import redis
from ferry.worker.observe.logs import log

# Error codes by which a server reports its own state (createSharedObjectsWithCompat in Valkey's
# src/server.c).
_NOT_NOW = ("NOREPLICAS", "MISCONF", "UNBLOCKED")
_NOT_NOW_KINDS = (ReadOnlyError, OutOfMemoryError, ClusterDownError)
_SHOWN = 500  # characters
_STORED_AFTER_S = 0.003  # the event loop gives a task to a pool process in its next round
# kombu's own list has KeyError, but a message may cause one.
_BROKER_ERRORS = (RedisError, OSError, OperationalError)


class RefusedForNow(ResponseError):
    """
    The server answers that its state does not allow the command now.
    """


class Message(virtual.Message):
    """
    A message with the properties that kombu needs to store it and return it to its queue.
    """

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        match payload:
            case {"properties": {"delivery_tag": str(), "delivery_info": dict() as came_by}} if all(
                isinstance(came_by.get(name), str) for name in ("exchange", "routing_key")
            ):
                pass
            case _:
                raise MessageError("it has no message properties")
        if not isinstance(payload.get("headers", {}), dict):
            raise MessageError("its headers are not an object")
        try:
            super().__init__(payload, channel, **options)  # type: ignore[no-untyped-call]
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            raise MessageError(f"its body cannot be read: {type(exc).__name__}") from exc


class QoS(redis.QoS):
    """
    The messages that were delivered and not acknowledged. Redis has a copy of each.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)  # type: ignore[no-untyped-call]
        self._unstored: dict[str, Any] = {}

    def append(self, message: Any, delivery_tag: str) -> None:
        """
        Add *message*. In a worker it is stored in Redis a moment later, when its task has begun.
        """
        self._unstored[delivery_tag] = message
        hub = get_event_loop()
        if hub is None:
            self._store()
        else:
            virtual.QoS.append(self, message, delivery_tag)
            hub.call_later(_STORED_AFTER_S, self._store)

    def _store(self) -> None:
        unstored, self._unstored = self._unstored, {}
        for tag, message in unstored.items():
            super().append(message, tag)  # type: ignore[no-untyped-call]

    def ack(self, delivery_tag: str) -> None:
        """
        Remove a message. Redis has nothing to do with one whose task has ended at once, as in a burst.
        """
        if self._unstored.pop(delivery_tag, None) is None:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        else:
            virtual.QoS.ack(self, delivery_tag)

    @contextmanager
    def pipe_or_acquire(self, pipe: Any = None, client: Any = None) -> Iterator[Any]:
        """
        Yield *pipe*, or a new one. The two commands that kombu then sends need no transaction: if the second
        is lost, the message counts as acknowledged.
        """
        if pipe is not None:
            yield pipe
            return
        with self.channel.conn_or_acquire(client) as acquired:
            yield acquired.pipeline(transaction=False)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """
        Remove a message, or return it to its queue.
        """
        self._store()
        super().reject(delivery_tag, requeue=requeue)  # type: ignore[no-untyped-call]

    def restore_unacked(self, client: Any = None) -> None:
        """
        Return all messages to their queues.
        """
        self._store()
        super().restore_unacked(client)  # type: ignore[no-untyped-call]


class _Channel(redis.Channel):
    Message = Message
    QoS = QoS
    _consumed: Sequence[str] = ()

    @property
    def active_queues(self) -> Sequence[str]:
        """
        The queues that are consumed from.
        """
        return self._consumed

    def _update_queue_cycle(self) -> None:
        # kombu calls this after each change.
        self._consumed = super().active_queues
        super()._update_queue_cycle()  # type: ignore[no-untyped-call]

    def _connparams(self, *args: Any, **options: Any) -> Any:
        if getattr(self.connection, "client", None) is None:
            raise RedisConnectionError("the channel's connection to the broker was lost")
        params = super()._connparams(*args, **options)  # type: ignore[no-untyped-call]
        kind = params["connection_class"]
        # Without the name and version of redis-py, which it reads from its package for each connection and
        # tells the server in two more round trips.
        return {**params, "connection_class": type(kind.__name__, (_Telling, kind), {}), "driver_info": None}

    def _create_client(self, asynchronous: bool = False) -> Redis:
        # kombu caches the asynchronous clients itself.
        kept = None if asynchronous else self.__dict__.get("_kept_client")
        if kept is None or kept.connection_pool is not self.pool:
            kept = super()._create_client(asynchronous)  # type: ignore[no-untyped-call]
            if not asynchronous:
                self._kept_client = kept
        return kept  # type: ignore[no-any-return]

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], consumer_tag: str, **options: Any
    ) -> Any:
        """
        Consume from *queue*; logs an exception of *callback* as the message's fault, unless the broker caused
        it.
        """

        def outlive(message: Message) -> Any:
            with _survived(queue):
                return callback(message)

        return super().basic_consume(queue, no_ack, outlive, consumer_tag, **options)  # type: ignore[no-untyped-call]

    def _brpop_read(self, **options: Any) -> Any:
        with _survived("a queue"):
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        return True

    def _receive_one(self, client: Any) -> Any:
        with _survived("a broadcast"):
            return super()._receive_one(client)  # type: ignore[no-untyped-call]
        return True


@contextmanager
def _survived(origin: str) -> Iterator[None]:
    """
    Log an exception in the block as the message's fault, unless the broker caused it.
    """
    try:
        yield
    except (*_BROKER_ERRORS, Empty):
        raise
    except Exception as exc:  # noqa: BLE001 - a message may cause any exception
        log().warning("message.discarded", origin=origin, error=f"{type(exc).__name__}: {exc}"[:_SHOWN])


class Channel(_Channel):
    """
    A channel to a Redis or Valkey server.
    """


class SentinelChannel(_Channel, redis.SentinelChannel):
    """
    A channel to a server that Sentinels name.
    """


class Transport(redis.Transport):
    """
    The transport of ``redis:``, ``rediss:`` and ``redis+socket:``.
    """

    Channel = Channel
    connection_errors = (*redis.Transport.connection_errors, RefusedForNow)


class SentinelTransport(redis.SentinelTransport):
    """
    The transport of ``sentinel:``.
    """

    Channel = SentinelChannel
    connection_errors = (*redis.SentinelTransport.connection_errors, RefusedForNow)


class _Telling:
    """
    A connection that distinguishes a temporary refusal from an error in the command.
    """

    def send_command(self, *words: Any, **options: Any) -> None:
        """
        Send a command.
        """
        if words[0] == "BRPOP":
            self.send_packed_command([_packed(words)])  # type: ignore[attr-defined]
        else:
            super().send_command(*words, **options)  # type: ignore[misc]

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)  # type: ignore[misc]
        except ResponseError as exc:
            if isinstance(exc, _NOT_NOW_KINDS) or str(exc).startswith(_NOT_NOW):
                raise RefusedForNow(f"the broker refuses for now: {exc}") from exc
            raise


def _packed(words: Sequence[Any]) -> bytes:
    """
    Return a command in the server's protocol (https://valkey.io/topics/protocol/), an array of strings.
    """
    return b"*%d\r\n" % len(words) + b"".join(map(_string, words))


@lru_cache(maxsize=4096)
def _string(word: Any) -> bytes:
    text = str(word).encode()
    return b"$%d\r\n%b\r\n" % (len(text), text)
