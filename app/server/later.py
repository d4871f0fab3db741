"""
Work that a view leaves to the server: waiting, or streaming, without a thread.

A server that can do so puts the key ``LATER`` into the request's WSGI environment; the view sets its value.
Under any other server the view waits itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flask import request

LATER = "ferry.later"
WAITED = "ferry.waited"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """
    An answer that waits for something to happen.

    Attributes:
        happened: Whether it has happened. One thread calls it for all waiting requests, after each move of a
            ref.
        timeout_s: The most seconds to wait.
        finish: Returns status and body of the answer, given whether it happened.
    """

    happened: Callable[[], bool]
    timeout_s: float
    finish: Callable[[bool], tuple[int, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """
    An answer that continues until the client closes the connection.

    Attributes:
        look: Returns the bytes to send now, or b""; called like ``Waiting.happened``.
        quiet: Bytes to send after ``quiet_s`` seconds without any.
    """

    look: Callable[[], bytes]
    quiet: bytes
    quiet_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """
    A request that is answered afresh once something has happened: what is answered now is not sent.

    Attributes:
        happened: Whether it has happened; called like that of ``Waiting``.
        timeout_s: The most seconds to wait; the request is then answered in any case, see ``has_waited``.
        most: How many may wait in one process; beyond that, what is answered now is sent.
    """

    happened: Callable[[], bool]
    timeout_s: float
    most: int


Later = Waiting | Streaming | Delay


def leave(later: Later) -> bool:
    """
    Leave the rest of this request's answer to the server; returns whether the server can do it.
    """
    if LATER not in request.environ:
        return False
    request.environ[LATER] = later
    return True


def has_waited() -> bool:
    """
    Whether this request is answered after a ``Delay``.
    """
    return WAITED in request.environ


def is_delayed() -> bool:
    """
    Whether this request will be answered after a ``Delay``, and not now.
    """
    return isinstance(request.environ.get(LATER), Delay)
