"""
Checking messages: a message that is not for a task of Ferry is logged and acknowledged.

A message only wakes a worker, and git knows what is pending, so a malformed message can be dropped. Celery
5.7 ends the worker on some malformed messages ("Unrecoverable error"), and again on the same message after
each restart. So each message is checked before Celery parses it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, get_type_hints

from celery import Task
from kombu.message import Message

from ferry.worker.errors import WorkerError

_TEXT, _MAYBE_TEXT = (str,), (str, type(None))
# The headers that the worker reads, and that Flower reads in the task's events.
_HEADERS: Mapping[str, tuple[type, ...]] = {
    "task": _TEXT, "id": _TEXT, "root_id": _MAYBE_TEXT, "parent_id": _MAYBE_TEXT, "group": _MAYBE_TEXT,
    "shadow": _MAYBE_TEXT, "eta": _MAYBE_TEXT, "expires": _MAYBE_TEXT, "origin": _MAYBE_TEXT,
    "argsrepr": _MAYBE_TEXT, "kwargsrepr": _MAYBE_TEXT, "retries": (int, type(None)),
}  # fmt: skip
_CODING = ("application/json", "utf-8")


class MessageError(WorkerError):
    """
    A message in a queue is not for a task of Ferry.
    """


def check(message: Message, tasks: Mapping[str, Task], queues: Mapping[str, Any]) -> None:
    """
    Refuse *message* unless it asks for one of *tasks* with arguments that it takes, in one of *queues*.

    Raises:
        MessageError: The message is malformed. The text does not repeat its body.
    """
    headers = _headers(message)
    task = tasks.get(headers["task"])
    if task is None or task.name.startswith("celery."):
        raise MessageError(f"there is no task {headers['task'][:100]!r}")
    if (queue := (message.delivery_info or {}).get("routing_key")) not in queues:
        raise MessageError(f"its routing key {queue!r} is not a queue of this worker")
    if (message.content_type, message.content_encoding) != _CODING:
        raise MessageError(
            f"it is {message.content_type!r} in {message.content_encoding!r}, not JSON in UTF-8"
        )
    try:
        body = message.payload
    except Exception as exc:  # each codec raises its own errors
        raise MessageError(f"its body cannot be read: {type(exc).__name__}") from exc
    match body:
        case [list() as args, dict() as kwargs, dict() as embedded] if not any(embedded.values()):
            _bind(task, args, kwargs)
        case _:
            raise MessageError("its body is not [arguments, keyword arguments, nothing else to run]")


def _headers(message: Message) -> dict[str, Any]:
    headers = message.headers
    if not isinstance(headers, dict):
        raise MessageError("its headers are not an object")
    for name, kinds in _HEADERS.items():
        if not isinstance(headers.get(name), kinds) or isinstance(headers.get(name), bool):
            raise MessageError(f"its header {name!r} is missing or of the wrong type")
    if any(headers.get("timelimit") or ()):
        raise MessageError("no task has a time limit")
    return headers


def _bind(task: Task, args: list[Any], kwargs: dict[str, Any]) -> None:
    signature, hints = _expected(task.__class__)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as exc:
        raise MessageError(f"{task.name}: {exc}") from exc
    for name, value in bound.arguments.items():
        wanted = (int, float) if hints[name] is float else hints[name]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise MessageError(f"{task.name}: the argument {name!r} is of the wrong type")


@cache
def _expected(kind: Any) -> tuple[inspect.Signature, dict[str, Any]]:
    run = kind.run
    signature = inspect.signature(run)
    _task, *others = signature.parameters.values()
    return signature.replace(parameters=others), get_type_hints(run)
