"""
Tells Flower of tasks in batches: ten messages a second at most, and not two or three for each task.

In a burst there is a task per commit. Celery sends what a task did as soon as
its event loop comes round, which was half of all that the worker's main process
did then. A batch is one ``task.multi`` message, which Celery's event receivers,
Flower among them, take apart.
"""

from __future__ import annotations

import time
from typing import Any

from celery.worker.consumer import Consumer

_EVERY_S = 0.1


class BatchingConsumer(Consumer):  # type: ignore[misc]  # Celery ships no types
    """
    Celery's consumer, with events held back for a tenth of a second.
    """

    _next_at = 0.0

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
