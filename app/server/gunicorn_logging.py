"""
gunicorn's log lines in Ferry's format.

A configuration for gunicorn:

    gunicorn --config python:ferry.app.server.gunicorn_logging 'ferry.app:create_app()'

Without it the main process writes its few lines in gunicorn's format; the workers use Ferry's in any case.
"""

from __future__ import annotations

import logging
from typing import Any

from gunicorn.glogging import Logger

from ferry.worker.observe import logs

_LOGGERS = ("gunicorn.error", "gunicorn.access", "uvicorn.error", "uvicorn.access")


def take_over() -> None:
    """
    Route this process's gunicorn loggers through the root logger.
    """
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


class FerryLogger(Logger):  # type: ignore[misc]  # gunicorn ships no types
    """
    A gunicorn logger that writes through the root logger.
    """

    def setup(self, cfg: Any) -> None:
        """
        Set up logging in every gunicorn process.
        """
        super().setup(cfg)
        logs.configure()
        take_over()


logger_class = FerryLogger
control_socket_disable = True  # all gunicorns of one user would share it, whatever their repository
