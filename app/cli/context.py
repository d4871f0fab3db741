"""
What the commands share: the pipeline from the environment, one-line errors, and queueing a push.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ferry.app.dev import running
from ferry.worker.after.calling import registered_in
from ferry.worker.bootstrap import build
from ferry.worker.enqueue import PushQueue
from ferry.worker.errors import WorkerError
from ferry.worker.files.ownership import refused
from ferry.worker.observe import logs
from ferry.worker.pipeline import Pipeline
from ferry.worker.turns.turn import Occasion

if TYPE_CHECKING:
    from ferry.app.services import Services

REASON = click.option("--reason", metavar="TEXT", help="Why, for the log and the history.")
_ENQUEUE_BUDGET_S = 5.0  # no request waits for a command


@contextmanager
def open_pipeline() -> Iterator[Pipeline]:
    """
    Build the pipeline from the environment; an error ends the command with one line and status 1.

    If the environment names no repository, the command uses that of the running ``ferry dev``.
    """
    configure_logs()
    with one_line_errors():
        if not os.environ.get("CFP_DATA_REPO_PATH"):
            os.environ.update(running.find())
        yield build(os.environ, publisher=True, is_brief=True)


@contextmanager
def open_services() -> Iterator[Services]:
    """
    Build the parts of an API process from the environment, for a command that reads or writes records.

    Errors and the environment are as for ``open_pipeline``.
    """
    from ferry.app.services import build_services  # with Flask, which no other command needs

    configure_logs()
    with one_line_errors():
        if not os.environ.get("CFP_DATA_REPO_PATH"):
            os.environ.update(running.find())
        yield build_services(os.environ, open_access=False)


def configure_logs() -> None:
    """
    Log as every process does; on a terminal only warnings, since the command's sentences tell the rest.
    """
    logs.configure(logging.WARNING if sys.stderr.isatty() else logging.INFO)


def with_hooks(pipeline: Pipeline) -> None:
    """
    Let *pipeline* know the functions of extensions, which a process of its own imports.

    Raises:
        SettingsError: A module cannot be used.
    """
    pipeline.after.serve(registered_in(pipeline.settings, os.environ).hooks)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """
    Turn an error that an operator can correct into one line and exit status 1.
    """
    try:
        yield
    except WorkerError as exc:
        sys.exit(f"ferry: {exc}")
    except PermissionError as exc:
        sys.exit(f"ferry: {refused(exc, Path(os.environ.get('CFP_DATA_REPO_PATH', '/')))}")


def enqueue(
    pipeline: Pipeline, remotes: Sequence[str] | None = None, occasion: Occasion = "operator"
) -> bool:
    """
    Queue a push of the branch's tip to *remotes*, or to all; returns whether the broker accepted it.
    """
    head = pipeline.repository.head()
    names = pipeline.settings.remotes if remotes is None else remotes
    queue = PushQueue(pipeline.celery, list(names), budget_s=_ENQUEUE_BUDGET_S)
    return head is None or queue.enqueue_push(head, occasion)


def configured(pipeline: Pipeline, remote: str | None) -> list[str]:
    """
    Return the remotes that a command is for: *remote*, or all of them if it is None.

    Ends the command if no such remote is configured.
    """
    if remote is None:
        return list(pipeline.settings.remotes)
    if remote not in pipeline.settings.remotes:
        known = ", ".join(pipeline.settings.remotes) or "none; set CFP_DATA_REMOTE"
        sys.exit(f"ferry: no remote {remote!r} is configured; configured: {known}")
    return [remote]
