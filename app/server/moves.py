"""
Checking, after the branch or a remote has moved, what that means for the waiting requests: in one thread for
all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ferry.app.arrivals import Arrivals

_Asked = list[tuple[Callable[[], Any], "asyncio.Future[Any]"]]


class Moves:
    """
    Notifies an event loop when the branch or a remote has moved.

    Args:
        arrivals: Notifies this object of the moves.
    """

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._looker = ThreadPoolExecutor(1, thread_name_prefix="looks")
        self._next: asyncio.Future[None] | None = None
        self._asked: _Asked = []

    def next(self) -> asyncio.Future[None]:
        """
        Return a future that is done at the next move.
        """
        if self._next is None or self._next.done():
            loop = asyncio.get_running_loop()
            self._next = loop.create_future()
            self._arrivals.call_at_next(lambda: _call(loop, self._wake))
        return self._next

    async def look(self, function: Callable[[], Any]) -> Any:
        """
        Return what *function* returns. Calls made in the same round of the loop share one run of the thread.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._asked.append((function, answer))
        if len(self._asked) == 1:
            loop.call_soon(self._look)
        return await answer

    def _wake(self) -> None:
        if self._next is not None and not self._next.done():
            self._next.set_result(None)

    def _look(self) -> None:
        asked, self._asked = self._asked, []
        loop = asyncio.get_running_loop()
        self._looker.submit(_look_for, asked, loop)


def _look_for(asked: _Asked, loop: asyncio.AbstractEventLoop) -> None:
    found = [_outcome(function) for function, _ in asked]
    _call(loop, _resolve, [(answer, each) for (_, answer), each in zip(asked, found, strict=True)])


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *given: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
        loop.call_soon_threadsafe(function, *given)


def _outcome(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as exc:  # noqa: BLE001 - look() raises it again
        return exc


def _resolve(outcomes: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for answer, outcome in outcomes:
        if answer.done():  # the request has ended
            continue
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)
