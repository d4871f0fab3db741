"""
The REST API over a gitsheets data repository.

The path of a write: ``api.records`` parses, authorises and answers; ``transact`` makes one commit and queues
one push; ``store.transaction`` turns records into git objects, and ``store.store``, the only writer, moves
the branch. From there ``ferry.worker`` takes over.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask


def create_app(env: Mapping[str, str] | None = None, *, open_access: bool = False) -> Flask:
    """
    Build the API, and queue a push of the commits that a remote lacks.

    Args:
        env: Environment variables; default: the process's own.
        open_access: Require no token. Only for a server that listens on loopback alone, as under
            ``ferry dev``.

    Raises:
        SystemExit: After one line that names what is wrong with the environment
            or the data repository; with status 1, or 3 under gunicorn.
    """
    from ferry.app.factory import build_app
    from ferry.app.gunicorn import GUNICORN_GIVES_UP, is_gunicorn
    from ferry.worker.errors import WorkerError

    try:
        return build_app(os.environ if env is None else env, open_access=open_access)
    except WorkerError as exc:
        # A traceback would bury the one line that names the wrong variable.
        sys.stderr.write(f"ferry: {exc}\n")
        sys.exit(GUNICORN_GIVES_UP if is_gunicorn() else 1)
