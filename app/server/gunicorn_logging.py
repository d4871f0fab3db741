"""
gunicorn's own lines in the form of all the others.

A configuration for gunicorn:

    gunicorn --config python:ferry.app.server.gunicorn_logging 'ferry.app:create_app()'

Without it the main process writes its few lines in gunicorn's form; the workers' are ours either way.
"""

from __future__ import annotations

import logging
from typing import Any

from gunicorn.glogging import Logger

from ferry.worker.observe import logs

_LOGGERS = ("gunicorn.error", "gunicorn.access", "uvicorn.error", "uvicorn.access")


def take_over() -> None:
    """
    Let gunicorn's loggers of this process write through the root logger.
    """
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


class FerryLogger(Logger):  # type: ignore[misc]  # gunicorn ships no types
    """
    A logger for gunicorn that leaves the writing to the root logger.
    """

    def setup(self, cfg: Any) -> None:
        """
        Set up logging, in every process of gunicorn's.
        """
        super().setup(cfg)
        logs.configure()
        take_over()


logger_class = FerryLogger
control_socket_disable = True  # one user's processes would share it, of whatever repository
