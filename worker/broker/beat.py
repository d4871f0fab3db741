"""
Beat ends at once.

Celery ends beat by an exception in the signal handler
(https://github.com/celery/celery/blob/main/celery/apps/beat.py). Where that interrupts a message on its way
to Redis, the clean-up may raise another, which beat logs before it goes on for ever. Beat holds no state
that could be lost, so the process exits in the handler.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

from celery.signals import beat_init


def end_beat_at_once(arguments: Sequence[str]) -> None:
    """
    From now on, SIGTERM and SIGINT end beat at once, with status 0.

    Args:
        arguments: The command line, which says whether this process is beat.
    """
    if "beat" in arguments:
        from celery.apps.beat import Beat  # not imported in a worker

        # Celery's handler, set before the scheduler is made, ends beat with status 1 while that is made.
        Beat.install_sync_handler = _listen
        _listen()
    beat_init.connect(_listen)  # for a beat that was started in another way


def _listen(*_: Any, **__: Any) -> None:
    if threading.current_thread() is threading.main_thread():  # otherwise it is embedded in a worker
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end_now)


def _end_now(number: int, frame: Any) -> None:
    os._exit(0)
