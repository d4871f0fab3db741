"""
gunicorn's worker class for the API.

    gunicorn --config python:ferry.app.production 'ferry.app:create_app()'

gunicorn starts, watches and stops the processes. In each, uvicorn reads and writes the connections in one
event loop, and the bridge lets Flask answer in ``--threads`` threads.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any, ClassVar

from uvicorn_worker import UvicornWorker

_SWITCH_S = 0.001


class Worker(UvicornWorker):  # type: ignore[misc]  # it ships no types
    """
    A gunicorn worker that serves Ferry's Flask app without a thread per connection.
    """

    CONFIG_KWARGS: ClassVar[dict[str, Any]] = {
        "http": "ferry.app.server.protocol:Protocol",
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
        from ferry.app.server.serving import in_front_of  # not imported in gunicorn's main process

        self.wsgi: Any = in_front_of(self.wsgi, threads=self.cfg.threads)
        # A health request takes the interpreter lock some twenty times, each time after every working thread.
        sys.setswitchinterval(_SWITCH_S)
        self.config.access_log = bool(self.cfg.accesslog)
        # Shorter than the time after which gunicorn's main process kills this one.
        self.config.timeout_graceful_shutdown = max(1, self.cfg.graceful_timeout - 2)
