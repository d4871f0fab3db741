"""
Getting commits from the data repository to its remotes.

Read the modules in the order a commit meets them: ``enqueue`` is the API's only
door into the worker, ``tasks`` is what Celery runs, ``push`` decides with ``turns``
whether to push now, ``attempt`` makes one attempt, ``git.remote`` runs the one
command that leaves the machine, and ``failures`` names what went wrong. ``episodes``
records it in the ``ledger``, and ``paging`` wakes a person.
``sweep`` and ``watchdog`` find what was missed. ``bootstrap`` puts all parts
together, once for each process, and ``roles`` are the processes beside the API's.

Each subpackage has one subject: ``git`` the data repository, ``files`` Ferry's own files in it, ``ledger``
the record of each remote, ``turns`` who acts next, ``episodes`` what follows a failure, ``broker`` Celery and
Redis, ``repair`` the operator's commands, ``process`` child processes, ``observe`` logs and traces.

``celery -A ferry.worker`` reads this package's ``app``, which is built then, and not when the package is
imported. No module here imports ``ferry.app``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

    app: Celery


def __getattr__(name: str) -> Any:
    """
    Build the Celery app when ``app`` is first read (PEP 562).
    """
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ferry.worker import roles
    from ferry.worker.errors import WorkerError

    try:
        built = roles.start()
    except WorkerError as exc:
        # A traceback would bury the one line that names the wrong variable.
        sys.exit(f"ferry: {exc}")
    globals()["app"] = built
    return built
