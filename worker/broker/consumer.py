"""
Celery's consumer, for a worker that goes on: past what is no message, and until its broker is back.

Each message is checked before Celery takes it apart, see ``ferry.worker.broker.messages``.
What Celery's own handling of one still raises is that message's error too; the
broker's errors go their way, to a new connection.

A connection that is lost as soon as it was made (a server that answers, and
refuses) is made again after a moment, and any other within five seconds.

And Flower is told of tasks in batches: ten messages a second at most, not two
or three for each task. In a burst there is a task per commit. Celery sends what a
task did as soon as its event loop comes round, which was half of all that the
worker's main process did then. A batch is one ``task.multi`` message, which
Celery's event receivers, Flower among them, take apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from celery.app.amqp import AMQP
from celery.worker.consumer import Consumer
from kombu import Connection
from kombu.message import Message

from ferry.worker.broker.messages import check
from ferry.worker.observe.logs import log

_EVERY_S = 0.1
_PAUSE_S = 1.0
_LONGEST_WAIT_S = 5.0
_SHOWN = 500  # characters


class FerryConsumer(Consumer):  # type: ignore[misc]  # Celery ships no types
    """
    The consumer of ``celery -A ferry.worker worker``.
    """

    _next_at = 0.0
    _tried_at = -_PAUSE_S

    def __init__(self, *args: Any, worker_options: Mapping[str, Any] | None = None, **options: Any) -> None:
        # What workers of Celery tell each other (whose task was revoked, who leads) is of no use here, and to
        # ask for it takes a second of each start and of each new connection, in which no task runs.
        alone = {"without_mingle": True, "without_gossip": True}
        super().__init__(*args, worker_options={**(worker_options or {}), **alone}, **options)

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Message], Any]:
        """
        Return what Celery calls with each message of a task's.
        """
        handle = super().create_task_handler(*args, **options)
        # kombu counts KeyError among these, which a message may well cause.
        of_the_broker = tuple({*self.connection_errors, *self.channel_errors} - {KeyError})

        def on_task_received(message: Message) -> Any:
            try:
                check(message, self.app.tasks, self.app.amqp.queues)
                return handle(message)
            except of_the_broker:
                raise
            except Exception as exc:  # noqa: BLE001 - the worker must outlive whatever a message says
                self.on_decode_error(message, exc)

        return on_task_received

    def on_invalid_task(self, body: Any, message: Message, exc: Exception) -> None:
        """
        Log and acknowledge a message with a time that is none, or the like.
        """
        self.on_decode_error(message, exc)

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """
        Log and acknowledge a message that is none.
        """
        queue = (message.delivery_info or {}).get("routing_key")
        log().warning("message.discarded", origin=queue, error=f"{type(exc).__name__}: {exc}"[:_SHOWN])
        if not message.acknowledged:
            message.ack()

    def connect(self) -> Connection:
        """
        Connect to the broker; waits for as long as that takes.
        """
        try:
            return super().connect()  # type: ignore[no-any-return]
        finally:
            self._tried_at = time.monotonic()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """
        Get ready to connect again.
        """
        super().on_connection_error_after_connected(exc)
        self._pause()

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """
        Get ready to connect again.
        """
        super().on_connection_error_before_connected(exc)
        self._pause()

    def _pause(self) -> None:
        if time.monotonic() - self._tried_at < _PAUSE_S:
            time.sleep(_PAUSE_S)

    def on_send_event_buffered(self) -> None:
        """
        Have the events sent that were put into the buffer; Celery calls this for each.
        """
        now = time.monotonic()
        if self.hub and now >= self._next_at:
            self._next_at = now + _EVERY_S
            self.hub.call_later(_EVERY_S, self._flush_events)

    def shutdown(self) -> Any:
        """
        Send what is left, and shut down.
        """
        self._flush_events()
        return super().shutdown()


class _Connection(Connection):
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
        # Celery says nothing of the intervals, and kombu would wait for up to half a minute.
        interval_max = min(interval_max, _LONGEST_WAIT_S)
        return super()._ensure_connection(  # type: ignore[no-untyped-call]
            errback, max_retries, interval_start, interval_step, interval_max, *rest, **options
        )


class FerryAMQP(AMQP):  # type: ignore[misc]  # as above
    """
    Celery's dealings with brokers, in every process: none that is back is left waiting for over five seconds.
    """

    Connection = _Connection
