"""
gunicorn's configuration for the API in production.

    gunicorn --config python:ferry.app.production --bind 0.0.0.0:8000 'ferry.app:create_app()'

With this configuration waits and streams take no thread, every read and write has a deadline, and health
answers while other requests wait. ``gunicorn 'ferry.app:create_app()'`` alone gives none of that.
"""

from __future__ import annotations

import gc
from typing import Any

from ferry.app.server.gunicorn_logging import FerryLogger

logger_class = FerryLogger
worker_class = "ferry.app.server.worker.Worker"
threads = 8
keepalive = 5  # seconds an idle connection is kept
control_socket_disable = True  # all gunicorns of one user would share it, whatever their repository


def pre_fork(server: Any, worker: Any) -> None:
    """
    Let several API processes share the memory of gunicorn's main process: it imports the app once for all of
    them, and their garbage collectors do not write to its objects.

    A single API process imports the app itself: the main process does not need it.
    """
    if server.cfg.workers > 1:
        # Reading this configuration needs no more than the logger. The first enqueueing needs the connection.
        import ferry.app.factory
        import ferry.app.server.serving
        import ferry.worker.broker.connection  # noqa: F401

    gc.collect()
    gc.freeze()
