"""
A Celery consumer that survives malformed messages and a broker that does not answer.

**Malformed messages.** Each message is checked before Celery reads it, see ``messages``. An exception that
Celery's own handling still raises is logged as that message's error, and the worker goes on
(https://github.com/celery/celery/issues/7975). Errors of the broker lead to a new connection.

**An absent broker.** A connection that is lost as soon as it is made (the server answers, and refuses) is
made again after a second.

**Batches of events.** The worker sends Flower at most ten messages a second, each with all events since the
last one (``task.multi``, which Celery's event receivers read). In a burst there is a task for each commit,
and Celery's two or three messages for each task were half of the work of the worker's main process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from celery.worker.consumer import Consumer
from kombu import Connection
from kombu.message import Message

from ferry.worker.broker.messages import check
from ferry.worker.observe.logs import log

_EVERY_S = 0.1
_PAUSE_S = 1.0
_SHOWN = 500  # characters


class FerryConsumer(Consumer):  # type: ignore[misc]  # Celery ships no types
    """
    The consumer of ``celery -A ferry.worker worker``.
    """

    _next_at = 0.0
    _tried_at = -_PAUSE_S

    def __init__(self, *args: Any, worker_options: Mapping[str, Any] | None = None, **options: Any) -> None:
        # Ferry does not need what Celery's workers exchange (revoked tasks, a leader). Asking for it delays
        # tasks by a second at each start and each new connection.
        alone = {"without_mingle": True, "without_gossip": True}
        super().__init__(*args, worker_options={**(worker_options or {}), **alone}, **options)

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Message], Any]:
        """
        Return the function that Celery calls with each task's message.
        """
        handle = super().create_task_handler(*args, **options)
        # kombu lists KeyError among the connection errors, but a message may cause one.
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
        Log and acknowledge a message that Celery cannot turn into a request, such as one with an invalid
        time.
        """
        self.on_decode_error(message, exc)

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        """
        Log and acknowledge a malformed message.
        """
        queue = (message.delivery_info or {}).get("routing_key")
        log().warning("message.discarded", origin=queue, error=f"{type(exc).__name__}: {exc}"[:_SHOWN])
        if not message.acknowledged:
            message.ack()

    def connect(self) -> Connection:
        """
        Connect to the broker; retries until that succeeds.
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
        Schedule the next batch of events; Celery calls this for each event that it buffers.
        """
        now = time.monotonic()
        if self.hub and now >= self._next_at:
            self._next_at = now + _EVERY_S
            self.hub.call_later(_EVERY_S, self._send_events)

    def _send_events(self) -> None:
        if self.event_dispatcher:  # there is no dispatcher without a connection
            self.event_dispatcher.flush()

    def shutdown(self) -> Any:
        """
        Send the remaining events, and shut down.
        """
        self._send_events()
        return super().shutdown()
