"""
gunicorn's worker class for the API.

    gunicorn --config python:ferry.app.production 'ferry.app:create_app()'

gunicorn starts, watches and stops the processes. In each, uvicorn reads and writes the connections in one
event loop, and the bridge lets Flask answer in ``--threads`` threads.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import sys
import threading
from types import FrameType
from typing import Any, ClassVar

import gitsheets
from flask import Flask
from uvicorn_worker import UvicornWorker

from ferry.app.server.bridge import Bridge
from ferry.app.server.protocol import CONNECTIONS, MAX_CONNECTIONS, Protocol
from ferry.app.services import EXTENSION, Services
from ferry.worker.errors import RepositoryError

_SWITCH_S = 0.001
_OTHER_FILES = 512  # for git, the broker and the logs


class Worker(UvicornWorker):  # type: ignore[misc]  # it ships no types
    """
    A gunicorn worker that serves Ferry's Flask app without a thread per connection.
    """

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "http": Protocol,
        "ws": "none",
        "interface": "asgi3",
        "lifespan": "off",
        "proxy_headers": False,
        "server_header": False,
        "date_header": True,
    }

    def init_signals(self) -> None:
        """
        Set up signals. Until uvicorn handles them, SIGTERM has gunicorn's handler, by which ``gunicorn_main``
        recognises a worker.
        """
        super().init_signals()
        signal.signal(signal.SIGTERM, self.handle_exit)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """
        End the process: called before uvicorn serves, when no request is running, and by uvicorn at its end.
        """
        sys.exit(0)

    def load_wsgi(self) -> None:
        """
        Build the app in this process, and put the bridge in front of it.
        """
        super().load_wsgi()
        app: Flask = self.wsgi
        self.wsgi: Any = Bridge(app, threads=self.cfg.threads)
        # A health request takes the interpreter lock some twenty times, each time after every working thread.
        sys.setswitchinterval(_SWITCH_S)
        built: Services = app.extensions[EXTENSION]
        threading.Thread(target=_warm, args=(built,), name="warming", daemon=True).start()
        self.config.access_log = bool(self.cfg.accesslog)
        # Shorter than the time after which gunicorn's main process kills this one.
        self.config.timeout_graceful_shutdown = max(1, self.cfg.graceful_timeout - 2)
        CONNECTIONS.most = max(
            1, min(MAX_CONNECTIONS, _allow_files(MAX_CONNECTIONS + _OTHER_FILES) - _OTHER_FILES)
        )


def _warm(built: Services) -> None:
    """
    Read the sheets, so that the first list of a large one is as fast as the next.
    """
    # Requests report what is wrong with the repository. RuntimeError: the process ends, and starts no thread.
    with contextlib.suppress(RepositoryError, gitsheets.GitsheetsError, RuntimeError):
        built.listing.warm(built.store.snapshot())


def _allow_files(wanted: int) -> int:
    """
    Raise this process's limit of open files to *wanted*, as far as the system allows; returns the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return most
        return soft
    return wanted
