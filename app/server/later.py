"""
What a view leaves to the server: to wait, or to go on sending, without a thread.

A view puts one of these into the request's WSGI environment where ``LATER`` stands
in it already, which says that the server can do so. Under another server it waits itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flask import request

LATER = "ferry.later"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """
    An answer that waits for something to happen.

    Attributes:
        happened: Whether it has; called in one thread for all that wait, each time something has moved.
        timeout_s: Seconds to wait at most.
        finish: Returns status and body of the answer, given whether it happened.
    """

    happened: Callable[[], bool]
    timeout_s: float
    finish: Callable[[bool], tuple[int, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Streaming:
    """
    An answer that goes on for as long as the client listens.

    Attributes:
        look: Returns what is to be sent now, or b""; called like ``Waiting.happened``.
        quiet: What is sent where there was nothing for ``quiet_s`` seconds.
    """

    look: Callable[[], bytes]
    quiet: bytes
    quiet_s: float


def leave(later: Waiting | Streaming) -> bool:
    """
    Leave the rest of this request's answer to the server; returns whether it takes that.
    """
    if LATER not in request.environ:
        return False
    request.environ[LATER] = later
    return True
