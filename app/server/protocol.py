"""
One connection of a client, with a deadline for its request's headers.

uvicorn parses HTTP and keeps a connection for as long as a client sends nothing more
of a request that it has begun. Here such a connection is closed after ten seconds,
and so is one that never begins; what a request's headers may hold is bounded, and so
is what is sent ahead of its turn.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ferry.app.problems import Problem
from ferry.app.server.answers import WRITE_S

HEADERS_S = 10.0
MAX_HEADER_BYTES = 64 * 1024
MAX_HEADERS = 100
MAX_AHEAD = 8  # requests that a client sends before it has the answer to the first
MAX_CONNECTIONS = 4096
# The kernel's own deadline for bytes that the client does not take (tcp(7)).
UNTAKEN_MS = 30_000
_NOT_HTTP = Problem(400, "bad-request", "This is no HTTP/1.1 request.", "Correct the request.")
_TOO_LARGE = Problem(
    431,
    "headers-too-large",
    f"The headers hold more than {MAX_HEADER_BYTES} bytes, or are more than {MAX_HEADERS}.",
    "Send fewer and shorter ones.",
)


class _RefusedError(Exception):
    """
    The parser is to stop: this request is not read further.
    """


class Connections:
    """
    The connections of a process, by client, so that a new one is always let in.

    Args:
        most: How many are kept.
    """

    def __init__(self, most: int = MAX_CONNECTIONS) -> None:
        self.most = most
        self._count = 0
        self._of: dict[str, OrderedDict[Protocol, None]] = {}

    def add(self, connection: Protocol) -> None:
        """
        Keep *connection*; where there are too many, end one of the client that has most of them.
        """
        if self._count >= self.most:
            greediest = max(self._of.values(), key=len)
            # The one that has waited longest without a request, or else the oldest.
            ended = next((each for each in greediest if each.is_silent), next(iter(greediest)))
            self.remove(ended)
            ended.transport.abort()
        self._of.setdefault(connection.address, OrderedDict())[connection] = None
        self._count += 1

    def remove(self, connection: Protocol) -> None:
        """
        Keep *connection* no longer.
        """
        kept = self._of.get(connection.address, OrderedDict())
        if connection in kept:
            del kept[connection]
            self._count -= 1
            if not kept:
                del self._of[connection.address]


CONNECTIONS = Connections()


class Protocol(HttpToolsProtocol):
    """
    uvicorn's HTTP/1.1 with bounds: for a request's headers, for those sent ahead, and for connections.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.access_log = self.config.access_log
        self.address = ""
        self._deadline: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._unread = 0  # bytes that the parser keeps, and has called nothing for
        self._too_large = False
        self._running: RequestResponseCycle | None = None

    @property
    def is_silent(self) -> bool:
        """
        Whether it has not sent a request to its end, and none is being answered.
        """
        return self._deadline is not None

    # --- The connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """
        Begin to wait for a request.
        """
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNTAKEN_MS)
        self._await_headers()
        CONNECTIONS.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """
        Tell the request that is being answered; those that were sent ahead are not begun.
        """
        CONNECTIONS.remove(self)
        self._stop_waiting()
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            # uvicorn tells the last request, and an earlier one may be running.
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """
        Parse *data*.
        """
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MAX_HEADER_BYTES and not self.transport.is_closing():
            self._too_large = True
            self.send_400_response("")
        is_answering = self._running is not None and not self._running.response_complete
        if self.timeout_keep_alive_task is None and not is_answering and not self.transport.is_closing():
            # What is no request, such as empty lines, does not keep a connection alive.
            self._await_headers()

    def send_400_response(self, msg: str) -> None:
        """
        Say that this is not HTTP, or too much of it, and close the connection.
        """
        self._stop_waiting()
        if self._running is not None and not self._running.response_complete:
            self.transport.abort()  # in the midst of another answer
        else:
            self.transport.write(_written(_TOO_LARGE if self._too_large else _NOT_HTTP))
            self.transport.close()
        self._end_soon()

    def shutdown(self) -> None:
        """
        End event streams and waits of the application too.
        """
        self.config.loaded_app.close()
        super().shutdown()

    # --- A request ---

    def on_message_begin(self) -> None:
        """
        Begin to wait for the headers of a request.
        """
        if len(self.pipeline) >= MAX_AHEAD:
            raise _RefusedError
        super().on_message_begin()
        # The application may give up on a client that takes nothing.
        self.scope["extensions"] = {
            "ferry.connection": {"abort": self.transport.abort, "is_gone": self.transport.is_closing}
        }
        self._header_bytes = self._unread = 0
        self._await_headers()

    def on_url(self, url: bytes) -> None:
        """
        Take a part of the address.
        """
        self._count_header(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """
        Take a header, or what follows a body in its place.
        """
        self._count_header(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """
        Hand the request to the application.
        """
        self._unread = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """
        Take a part of a body.
        """
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """
        Take the end of a request.
        """
        self._unread = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """
        Go on with the next request, or see that the last answer is taken.
        """
        super().on_response_complete()
        self._end_soon()

    def timeout_keep_alive_handler(self) -> None:
        """
        Close a connection that has had no request for a while.
        """
        super().timeout_keep_alive_handler()
        self._end_soon()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _count_header(self, size: int) -> None:
        self._unread = 0
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES or len(self.headers) >= MAX_HEADERS:
            self._too_large = True
            raise _RefusedError

    # --- Deadlines ---

    def _end_soon(self) -> None:
        """
        Give the client of a connection that is closed as long for the rest as for any other piece.
        """
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self.loop.call_later(WRITE_S, self.transport.abort)

    def _await_headers(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEADERS_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _written(problem: Problem) -> bytes:
    """
    Write an answer that is the last of its connection.
    """
    response = problem.response()
    lines = [f"HTTP/1.1 {response.status}", *(f"{name}: {value}" for name, value in response.headers)]
    head = "\r\n".join([*lines, "Connection: close", "", ""])
    return head.encode("latin-1") + response.get_data()
