"""
Whether gunicorn runs this process, and which process is its main one.
"""

from __future__ import annotations

import os
import signal

# gunicorn.arbiter.Arbiter.WORKER_BOOT_ERROR; a worker that ends with another status is started again.
GUNICORN_GIVES_UP = 3


def is_gunicorn() -> bool:
    """
    Whether gunicorn runs this process.
    """
    return os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn")


def gunicorn_main() -> int | None:
    """
    Return the id of gunicorn's main process, if this is one of its workers.

    Call it before the app installs its own signal handlers.
    """
    # A worker handles SIGTERM when it builds the app; under --preload the main process does not yet.
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(worker, "ppid", None) if is_gunicorn() else None
