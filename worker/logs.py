"""
Structured logs: static event names, data in keywords, one line each.

JSON where nobody watches, readable in a terminal. Celery's and other libraries'
own lines come out in the same form.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from worker.redaction import redact_all

LOGGER = "ferry"

_QUIET = ("kombu", "amqp", "urllib3", "git", "celery.utils.functional", "celery.bootsteps", "asyncio")


def log() -> structlog.stdlib.BoundLogger:
    """
    Return Ferry's logger.
    """
    return structlog.stdlib.get_logger(LOGGER)


def configure(level: int = logging.INFO) -> None:
    """
    Send every log line of this process to standard error, in one form.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_values,
    ]
    readable = sys.stderr.isatty()
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.dev.ConsoleRenderer() if readable else structlog.processors.JSONRenderer(default=str),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _redact_values(logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    # The two underscored ones are how structlog and logging hand a foreign record on.
    return {name: value if name.startswith("_") else redact_all(value) for name, value in event.items()}
