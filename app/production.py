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
    Let the API processes share the memory of gunicorn's main process: it imports the app once for all of
    them, and their garbage collectors do not write to its objects.
    """
    import ferry.app.factory  # noqa: F401 - reading this configuration needs no more than the logger

    gc.collect()
    gc.freeze()
