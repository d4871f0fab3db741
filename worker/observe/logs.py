"""
Structured logs: static event names, data in keywords, one line each.

JSON, or readable lines on a terminal. Lines of Celery and other libraries have the same form.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any, TextIO

import structlog

from ferry.worker.observe.redaction import redact_all

LOGGER = "ferry"
NOTHING_TO_DO = "nothing to do"  # the result of a task that did nothing; its line has the level debug
TRACED = ("request_id", "traceparent")

_QUIET = (
    "kombu", "amqp", "urllib3", "git", "celery.utils.functional", "celery.bootsteps", "asyncio",
    "celery.worker.strategy",  # logs that a task was received; its end is logged anyway
)  # fmt: skip


_OF_TASKS = "celery.app.trace"


def log() -> structlog.stdlib.BoundLogger:
    """
    Return Ferry's logger.
    """
    return structlog.stdlib.get_logger(LOGGER)


def bound(**fields: str | None) -> contextlib.AbstractContextManager[None]:
    """
    Add *fields* to every line that is logged in the block, except those that are None.
    """
    known = {name: value for name, value in fields.items() if value is not None}
    return structlog.contextvars.bound_contextvars(**known)


def traced() -> dict[str, str]:
    """
    Return the bound fields that link this work to the request that caused it.
    """
    context = structlog.contextvars.get_contextvars()
    return {name: context[name] for name in TRACED if name in context}


def configure(level: int = logging.INFO, *, output: TextIO | None = None) -> None:
    """
    Send every log line of this process to *output*, in one format; default: standard error.
    """
    output = output or sys.stderr
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_values,
    ]
    readable = output.isatty()
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.dev.ConsoleRenderer() if readable else structlog.processors.JSONRenderer(default=str),
        ],
    )
    handler = _Handler(output)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger(_OF_TASKS).filters[:] = [_Uneventful()]
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


class _Uneventful(logging.Filter):
    """
    Lowers Celery's line about a task that did nothing, such as most sweeps, to level debug.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """
        Return whether *record* is written.
        """
        told = getattr(record, "data", None)
        if not isinstance(told, dict) or told.get("return_value") != repr(NOTHING_TO_DO):
            return True
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
        return logging.getLogger().isEnabledFor(logging.DEBUG)


class _Handler(logging.StreamHandler[Any]):
    """
    Writes log lines, and drops those that cannot be written.
    """

    def handleError(self, record: logging.LogRecord) -> None:
        """
        Drop a line that standard error does not accept, because it is full or closed.
        """


def _redact_values(logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    # structlog uses the two underscored keys to pass a record of the standard library on.
    return {name: value if name.startswith("_") else redact_all(value) for name, value in event.items()}
