"""
Flower's configuration: columns about pushes, no idle sweeps, and a history that survives a restart.

``ferry dev``, the image, the chart and the systemd unit start ``celery -A ferry.worker flower``, which comes
here first. Flower reads ``FLOWER_*`` variables and its command line later, so they override this.
"""

from __future__ import annotations

import ast
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from celery.events.state import Task
from flower.events import EventsState
from flower.options import options
from flower.views.tasks import TASK_COLUMNS

from ferry.worker.observe.logs import NOTHING_TO_DO, log

HISTORY = "FLOWER_DB"
_OWN_COLUMNS = {"remote": "Remote", "commit": "Commit", "occasion": "Occasion"}
_COLUMNS = ("name", "state", *_OWN_COLUMNS, "result", "received", "runtime", "uuid")
_MOST_TASKS = 10_000  # about 100 MiB; Flower's default of 100,000 tasks needs more than 512 MiB
_SAVE_EVERY_MS = 300_000


def configure(environ: MutableMapping[str, str]) -> None:
    """
    Set Flower's options in *environ* unless they are set already, and register Ferry's columns.
    """
    environ.setdefault("FLOWER_MAX_TASKS", str(_MOST_TASKS))
    environ.setdefault("FLOWER_TASKS_COLUMNS", ",".join(_COLUMNS))
    if environ.get(HISTORY):
        is_kept = _is_writable(Path(environ[HISTORY]).parent)
        environ.setdefault("FLOWER_PERSISTENT", str(is_kept).lower())
        environ.setdefault("FLOWER_STATE_SAVE_INTERVAL", str(_SAVE_EVERY_MS if is_kept else 0))
    TASK_COLUMNS.update(_OWN_COLUMNS)
    options.format_task = told
    _forget_idle_sweeps()


def told(task: Task) -> Task:
    """
    Return a copy of a *task* with the fields of Ferry's columns, before Flower shows it.
    """
    arguments: tuple[Any, ...] = _literal(task.args, ())
    task.remote, task.commit, *_ = (*arguments, "", "")
    task.occasion = _literal(task.kwargs, {}).get("occasion", "")
    task.result = _literal(task.result, "") or _failure(task.exception or "")
    task._fields = (*task._fields, *_OWN_COLUMNS)
    return task


def _failure(exception: str) -> str:
    """
    Return reason and detail of a push's failure from Celery's text ``Class(remote, reason, detail, hint)``.
    """
    _, bracket, rest = exception.partition("(")
    arguments: tuple[Any, ...] = _literal(bracket + rest, ())
    return f"{arguments[1]}: {arguments[2]}" if len(arguments) == 4 else exception


def _literal(text: object, default: Any) -> Any:
    """
    Parse a value that a worker wrote as *text*; *default* if it has another type, or was cut.
    """
    try:
        value = ast.literal_eval(str(text))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return default
    return value if isinstance(value, type(default)) else default


def _forget_idle_sweeps() -> None:
    """
    Drop sweeps that queued nothing or expired: there are hundreds in an hour.
    """
    heard = EventsState.event

    def event(state: EventsState, event: dict[str, Any]) -> None:
        heard(state, event)
        if event.get("expired") or event.get("result") == repr(NOTHING_TO_DO):
            state.search_engine.remove(event["uuid"])
            state.tasks.pop(event["uuid"], None)

    EventsState.event = event


def _is_writable(directory: Path) -> bool:
    if os.access(directory, os.W_OK):
        return True
    log().warning("flower.history_lost", path=str(directory), error="the directory cannot be written")
    return False
