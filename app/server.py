"""
What runs the API's process.
"""

from __future__ import annotations

import os

# gunicorn.arbiter.Arbiter.WORKER_BOOT_ERROR; a worker that ends with another status is started again.
GUNICORN_GIVES_UP = 3


def is_gunicorn() -> bool:
    """
    Whether gunicorn runs this process.
    """
    return os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn")
