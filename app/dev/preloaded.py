"""
The nursery of a stack: it imports what worker, beat, Flower and API need.

The commands start it first. While it imports, they import what they need themselves and make a sample.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ferry.app.dev.nursery import Nursery

_IMPORTED = (
    *("celery.bin.celery", "celery.apps.worker", "celery.apps.beat", "celery.concurrency.prefork"),
    *("celery.worker.worker", "ferry.app.cli.processes", "ferry.worker.roles.worker"),
    *("ferry.worker.broker.connection", "ferry.worker.broker.consumer"),
    *("gunicorn.app.wsgiapp", "ferry.app.server.worker", "ferry.app.server.serving", "ferry.app.factory"),
    *("ferry.app.clients.neighbours", "ferry.worker.observe.flower", "ferry.worker.roles.beside"),
)


@contextmanager
def nursery() -> Iterator[Nursery]:
    """
    Run a nursery for the block.
    """
    made = Nursery(_IMPORTED, env=with_extensions(os.environ), directory=Path("/"))
    try:
        yield made
    finally:
        made.close()


def with_extensions(env: Mapping[str, str]) -> dict[str, str]:
    """
    Return *env* so that processes elsewhere find the modules of extensions, which may be in this directory.
    """
    if not env.get("CFP_API_EXTENSIONS"):
        return dict(env)
    return {**env, "PYTHONPATH": os.pathsep.join(filter(None, [os.getcwd(), env.get("PYTHONPATH", "")]))}
