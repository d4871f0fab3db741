"""
Beat and Flower: what runs beside the worker.
"""

from __future__ import annotations

import os
from contextlib import suppress

from celery import Celery

from ferry.worker import paging
from ferry.worker.broker.celery_app import build_celery
from ferry.worker.errors import RepositoryError
from ferry.worker.fleet import Environments, environments, queue_of, queues_of, settings_of
from ferry.worker.git.command import run_git
from ferry.worker.git.environment import stay_here
from ferry.worker.settings import Settings


def start(command: str) -> Celery:
    """
    Build the app of this process.

    Args:
        command: ``beat`` or ``flower``.
    """
    if command == "flower":
        from ferry.worker.observe import flower  # imported here, because only Flower runs a web server

        flower.configure(os.environ)
    return build(command, environments(os.environ))


def build(command: str, environments: Environments) -> Celery:
    """
    Build the Celery app of a process that runs no task: beat, or Flower.

    Beat reads the names of the queues from the repositories, and writes nothing there. Flower opens no
    repository: it learns the queues from the workers.

    Args:
        command: Celery's name of it.

    Raises:
        SettingsError, RepositoryError: As for ``ferry.worker.bootstrap.build``.
    """
    stay_here(os.environ)
    found = settings_of(environments)
    paging.configure(next(iter(found.values())), "celery")
    if command == "flower":
        queues = {queue_of(name or "repository"): name for name in found}
    else:
        queues = queues_of(found, _identity)
    return build_celery({queue: found[name] for queue, name in queues.items()}, publisher=False)


def _identity(settings: Settings) -> str:
    """
    Return the identity of the data repository, which an API or a worker has made; makes it otherwise.

    Raises:
        RepositoryError: It has no identity yet, and cannot be prepared.
    """
    with suppress(RepositoryError):  # git cannot be started
        found = run_git(settings.data_repo_path, "config", "--local", "--get", "ferry.id")
        if identity := found.stdout.strip():
            return identity
    # Imports all that reads and writes the repository, which beat does not need otherwise.
    from ferry.worker.git.prepare import prepare

    return prepare(settings)
