"""
The time that extensions' code may hold the write lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context

from ferry.app.errors import ExtensionTooSlowError
from ferry.worker.observe.logs import log

LIMIT_S = 2.0
_LEAST_S = 0.01  # between two looks at the clock


class Limit:
    """
    The time that the code of all extensions together may take in one transaction.

    When it expires, the transaction loses its write turn at once, even while its thread runs on, and can no
    longer commit.

    Attributes:
        on_expiry: Gives up the write turn.

    Args:
        seconds: How long that code may take; default: two seconds.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.on_expiry: Callable[[], None] = lambda: None
        self._seconds = LIMIT_S if seconds is None else seconds
        self._mutex = threading.Lock()
        self._timer: threading.Timer | None = None
        self._who = ""
        self._spent_s = 0.0
        self._since: float | None = None
        self._is_over = self._is_settled = False

    @contextmanager
    def running(self, who: str) -> Iterator[None]:
        """
        Count the time of the block, which runs the code of the extension *who*.

        Raises:
            ExtensionTooSlowError: The time has expired; this replaces what the block raised.
        """
        self._who, outer = who, self._since
        if outer is None:
            self._since = time.monotonic()
            if self._timer is None:
                self._watch()
        try:
            yield
        finally:
            if outer is None:
                self._spent_s, self._since = self._spent(), None
            self.check()

    def check(self) -> None:
        """
        Raises:
            ExtensionTooSlowError: The time is over.
        """
        if not self._is_over and self._spent() >= self._seconds:
            self._expire()
        if self._is_over:
            raise ExtensionTooSlowError(
                f"{self._who} held the write lock for {self._seconds:g} s, the longest that extensions may."
            )

    def settle(self) -> bool:
        """
        Stop the clock; returns whether the transaction still has its write turn. If so, it can no longer lose
        it.
        """
        if self._timer is not None:
            self._timer.cancel()
        with self._mutex:
            self._is_settled = not self._is_over
        return self._is_settled

    def keep(self) -> None:
        """
        Stop the clock, and keep the write turn.

        Raises:
            ExtensionTooSlowError: The turn is lost.
        """
        if not self.settle():
            self.check()

    def _spent(self) -> float:
        since = self._since
        return self._spent_s + (0.0 if since is None else time.monotonic() - since)

    def _watch(self) -> None:
        if self._is_settled or self._is_over:
            return
        left_s = self._seconds - self._spent()
        if left_s <= 0:
            self._expire()
            return
        # In the context of the request, whose id the log names.
        self._timer = threading.Timer(max(left_s, _LEAST_S), copy_context().run, (self._watch,))
        self._timer.daemon = True
        self._timer.start()

    def _expire(self) -> None:
        with self._mutex:
            if self._is_settled or self._is_over:
                return
            self._is_over = True
        log().error("extension.too_slow", extension=self._who, limit_ms=round(self._seconds * 1000))
        self.on_expiry()
