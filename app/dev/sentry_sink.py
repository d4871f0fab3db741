"""
A server on loopback that receives what sentry-sdk sends; for the demo and the tests.

Implements the part of the envelope protocol that events need
(https://develop.sentry.dev/sdk/foundations/transport/envelopes/).
"""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Event = dict[str, Any]


class SentrySink(ThreadingHTTPServer):
    """
    Collects events. ``dsn`` is the value for ``SENTRY_DSN``.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _EnvelopeHandler)
        self.received: list[tuple[str, Event]] = []
        self.bodies: list[bytes] = []
        self.refused: list[tuple[str, Event]] = []
        # Returns the status and headers to answer with. Any status but 200 refuses the event.
        self.answer: Callable[[], tuple[int, dict[str, str]]] = lambda: (200, {})

    @property
    def events(self) -> list[Event]:
        """
        The events, including pages.
        """
        return self.items("event")

    def items(self, kind: str) -> list[Event]:
        """
        Return the items of *kind*, such as ``event``, ``transaction`` or ``check_in``.
        """
        return [item for received, item in self.received if received == kind]

    @property
    def dsn(self) -> str:
        """
        The DSN of this sink's one project.
        """
        return f"http://demo@127.0.0.1:{self.server_address[1]}/1"


class _EnvelopeHandler(BaseHTTPRequestHandler):
    server: SentrySink

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        encoding = self.headers.get("Content-Encoding")
        if encoding == "gzip":
            body = gzip.decompress(body)
        elif encoding == "deflate":
            body = zlib.decompress(body)
        status, headers = self.server.answer()
        items = self.server.received if status == 200 else self.server.refused
        items += _items(body)
        self.server.bodies.append(body)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _items(envelope: bytes) -> Iterator[tuple[str, Event]]:
    rest = envelope.partition(b"\n")[2]
    while rest.strip():
        header_line, _, rest = rest.partition(b"\n")
        header = json.loads(header_line)
        length = header.get("length", rest.find(b"\n"))
        payload, rest = rest[:length], rest[length:].removeprefix(b"\n")
        yield header["type"], json.loads(payload)


@contextmanager
def sentry_sink() -> Iterator[SentrySink]:
    """
    Run a sink for the block.
    """
    with SentrySink() as sink:
        thread = threading.Thread(target=sink.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield sink
        finally:
            sink.shutdown()
            thread.join(timeout=5)
