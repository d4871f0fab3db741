"""
Whether a worker answers. The check never waits long for the broker.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Literal

from celery import Celery

_FRESH_S = 5.0
_KNOWN_FOR_S = 20.0
_ASK_S = 0.6  # seconds that the workers have to answer
_PATIENCE_S = 0.9
_SLOW_S = 10.0  # a question that lasts longer has met a broker that hangs


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """
    The state of this repository's workers.

    Attributes:
        state: ``alive``; ``none`` if no worker answers; ``unknown`` if the broker does not; ``asking`` until
            the first answer, which says nothing of either.
        names: The workers that answered.
    """

    state: Literal["alive", "none", "unknown", "asking"]
    names: tuple[str, ...] = ()


_UNKNOWN = Workers(state="unknown")
_ASKING = Workers(state="asking")


class Liveness:
    """
    Pings the workers now and then, in a thread beside the requests.

    Args:
        celery: An app that was built as a publisher.
    """

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._changed = threading.Condition()
        self._asking_since: float | None = None
        self._asked_at = float("-inf")
        self._answer = _UNKNOWN

    def look(self) -> Workers:
        """
        Return the last known state. Waits, less than a second, only if none is known.
        """
        with self._changed:
            if self._asking_since is None and self._age_s() > _FRESH_S:
                self._asking_since = time.monotonic()
                # A thread of its own: name look-ups and TLS handshakes have no timeout.
                threading.Thread(target=self._ask, name="liveness", daemon=True).start()
            self._changed.wait_for(lambda: self._age_s() <= _KNOWN_FOR_S, timeout=_PATIENCE_S)
            return self._answer if self._age_s() <= _KNOWN_FOR_S else self._unanswered()

    def _unanswered(self) -> Workers:
        # A busy machine takes longer than the looker waits, though the broker is well.
        is_slow = self._asking_since is not None and time.monotonic() - self._asking_since <= _SLOW_S
        return _ASKING if is_slow else _UNKNOWN

    def _age_s(self) -> float:
        return time.monotonic() - self._asked_at

    def _ask(self) -> None:
        try:
            answer = self._found()
        except Exception:  # noqa: BLE001 - every broker's library has errors of its own
            answer = _UNKNOWN
        with self._changed:
            self._asking_since, self._asked_at, self._answer = None, time.monotonic(), answer
            self._changed.notify_all()

    def _found(self) -> Workers:
        queue = self._celery.conf.task_default_queue
        with self._celery.connection_for_write() as connection:
            answers = self._celery.control.inspect(timeout=_ASK_S, connection=connection).active_queues()
        # Other repositories' workers may share the broker.
        ours = (name for name, taken in (answers or {}).items() if queue in {each["name"] for each in taken})
        found = tuple(sorted(ours))
        return Workers(state="alive" if found else "none", names=found)
