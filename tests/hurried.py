"""
``ferry.app.production`` for tests: the same server, with deadlines that a test can wait for.
"""

from __future__ import annotations

from ferry.app.production import control_socket_disable, keepalive, logger_class, threads, worker_class

__all__ = ["control_socket_disable", "keepalive", "logger_class", "threads", "worker_class"]


def _hurry() -> None:
    from ferry.app.api import reading
    from ferry.app.server import (
        answers,
        bodies,
        protocol,  # here, because gunicorn has a setting `protocol`
    )

    reading.MAX_DELAY_S = 20.0  # but for this one, in which a machine that is busy has to do something
    protocol.HEADERS_S = 1.0
    protocol.MAX_HEADER_BYTES = 8 * 1024
    bodies.BODY_S, bodies.BODY_PAUSE_S = 3.0, 1.0
    answers.WRITE_S, answers.DISCARD_S = 1.0, 0.5


_hurry()
