"""
gunicorn's configuration for the API in production.

    gunicorn --config python:ferry.app.production --bind 0.0.0.0:8000 'ferry.app:create_app()'

With this configuration waits and streams take no thread, every read and write has a deadline, and health
answers while other requests wait. ``gunicorn 'ferry.app:create_app()'`` alone gives none of that.
"""

from __future__ import annotations

from ferry.app.server.gunicorn_logging import FerryLogger

logger_class = FerryLogger
worker_class = "ferry.app.server.worker.Worker"
threads = 8
keepalive = 5  # seconds an idle connection is kept
control_socket_disable = True  # all gunicorns of one user would share it, whatever their repository
