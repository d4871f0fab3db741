"""
A real Valkey server of a test's own, to be hung, killed and emptied.
"""

from __future__ import annotations

import atexit
import contextlib
import subprocess
import tempfile
from functools import cache

import redis

from ferry.app.dev.stack import accepts, free_port
from ferry.app.dev.valkey import ENVIRONMENT, LOOPBACK, server_command, valkey_server
from tests.parts import wait_until

_executable = cache(lambda: valkey_server()[0])


class ValkeyServer:
    """
    A server on loopback that is empty at each start.

    Attributes:
        port: Where it listens; the same at each start.
    """

    def __init__(self, port: int | None = None) -> None:
        self.port = free_port() if port is None else port
        self._process: subprocess.Popen[bytes] | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    @property
    def pid(self) -> int:
        """
        The process id of the server that was started last.
        """
        assert self._process, "it was not started"
        return self._process.pid

    def is_running(self) -> bool:
        """
        Whether the process is there, hung or not.
        """
        return self._process is not None and self._process.poll() is None

    def client(self) -> redis.Redis:
        """
        Return a client of this server.
        """
        return redis.Redis(host=LOOPBACK, port=self.port)

    def start(self) -> None:
        """
        Start the server and wait until it answers.
        """
        self._directory = tempfile.TemporaryDirectory(prefix="valkey-", ignore_cleanup_errors=True)
        self._process = subprocess.Popen(
            server_command(_executable(), self.port),
            cwd=self._directory.name,
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # A Ctrl-C in the terminal is for the tests, which end their servers.
            start_new_session=True,
        )
        atexit.register(self.stop)
        wait_until(self._answers, timeout_s=60, what="a Valkey server")

    def stop(self) -> None:
        """
        End the server, hung or not.
        """
        atexit.unregister(self.stop)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()  # it keeps nothing that is worth the saving
            self._process.wait(30)
        if self._directory is not None:
            self._directory.cleanup()

    def _answers(self) -> bool:
        assert self.is_running(), "the Valkey server ended at its start"
        if not accepts(self.port):
            return False
        with contextlib.closing(self.client()) as client, contextlib.suppress(redis.RedisError):
            return bool(client.ping())
        return False

    def __enter__(self) -> ValkeyServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
