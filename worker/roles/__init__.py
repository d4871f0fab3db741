"""
The processes that ``celery -A ferry.worker`` runs, for one repository or several.

``worker`` is the one that pushes. ``beside`` is beat and Flower, which import none of that.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from celery import Celery
from celery.signals import setup_logging

from ferry.worker.broker.beat import end_beat_at_once
from ferry.worker.observe import logs

_BESIDE = ("beat", "flower")
# Celery's global options that take a value (https://docs.celeryq.dev/en/stable/reference/cli.html).
_WITH_VALUE = frozenset({
    "-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir",
})  # fmt: skip


def start() -> Celery:
    """
    Build the app of this process, which its command line names: a worker, beat, or Flower.

    Raises:
        SettingsError, RepositoryError: The environment or a repository is wrong.
    """
    end_beat_at_once(sys.argv)
    # Otherwise Celery sets its own format on the root logger.
    setup_logging.connect(_configure_logging)
    logs.configure()
    if (command := subcommand(sys.argv)) in _BESIDE:
        from ferry.worker.roles import beside

        return beside.start(command)
    from ferry.worker.roles import worker

    return worker.start()


def subcommand(arguments: Sequence[str]) -> str:
    """
    Return the Celery subcommand of a command line, such as ``beat``; "" if there is none.
    """
    words = iter(arguments[1:])
    for word in words:
        if word in _WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return ""


def _configure_logging(loglevel: int | None = None, **_: object) -> None:
    # By default Celery logs only warnings; a requested level may be more verbose.
    logs.configure(min(logging.INFO, loglevel or logging.INFO))
