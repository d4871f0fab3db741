"""
A client's connection, with a deadline for the headers of a request.

uvicorn parses HTTP, and keeps a connection open while a client pauses within a request. This class closes a
connection whose request does not begin, or whose headers are incomplete, after ten seconds. It also bounds
the size of the headers and the number of pipelined requests.
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
MAX_AHEAD = 8  # pipelined requests of one connection
MAX_CONNECTIONS = 4096
# The kernel's deadline for bytes that the client does not acknowledge (tcp(7)).
UNTAKEN_MS = 30_000
_NOT_HTTP = Problem(400, "bad-request", "This is not an HTTP/1.1 request.", "Correct the request.")
_TOO_LARGE = Problem(
    431,
    "headers-too-large",
    f"The headers have more than {MAX_HEADER_BYTES} bytes, or are more than {MAX_HEADERS}.",
    "Send fewer or shorter headers.",
)


class _RefusedError(Exception):
    """
    Stops the parser: the request is not read further.
    """


class Connections:
    """
    The connections of a process, by client. A new connection is always accepted.

    Args:
        most: The most connections.
    """

    def __init__(self, most: int = MAX_CONNECTIONS) -> None:
        self.most = most
        self._count = 0
        self._of: dict[str, OrderedDict[Protocol, None]] = {}

    def add(self, connection: Protocol) -> None:
        """
        Add *connection*. If there are too many, close one of the client that has the most.
        """
        if self._count >= self.most:
            greediest = max(self._of.values(), key=len)
            # The one that has been idle longest, or else the oldest.
            ended = next((each for each in greediest if each.is_silent), next(iter(greediest)))
            self.remove(ended)
            ended.transport.abort()
        self._of.setdefault(connection.address, OrderedDict())[connection] = None
        self._count += 1

    def remove(self, connection: Protocol) -> None:
        """
        Remove *connection*.
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
    uvicorn's HTTP/1.1 with bounds for headers, pipelined requests and connections.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.access_log = self.config.access_log
        self.address = ""
        self._deadline: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        self._unread = 0  # bytes that the parser holds without having called a method
        self._too_large = False
        self._running: RequestResponseCycle | None = None

    @property
    def is_silent(self) -> bool:
        """
        Whether no request is complete, and none is being answered.
        """
        return self._deadline is not None

    # --- The connection ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """
        Start the deadline for the first request.
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
        Notify the running request, and drop the pipelined ones.
        """
        CONNECTIONS.remove(self)
        self._stop_waiting()
        self.pipeline.clear()
        if self._running is not None and not self._running.response_complete:
            # uvicorn notifies the last request, but an earlier one may be running.
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
            # Data that is not a request, such as empty lines, does not keep a connection alive.
            self._await_headers()

    def send_400_response(self, msg: str) -> None:
        """
        Answer that this is not HTTP, or too large, and close the connection.
        """
        self._stop_waiting()
        if self._running is not None and not self._running.response_complete:
            self.transport.abort()  # another answer is incomplete
        else:
            self.transport.write(_written(_TOO_LARGE if self._too_large else _NOT_HTTP))
            self.transport.close()
        self._end_soon()

    def shutdown(self) -> None:
        """
        Also end the application's event streams and waits.
        """
        self.config.loaded_app.close()
        super().shutdown()

    # --- A request ---

    def on_message_begin(self) -> None:
        """
        Start the deadline for the headers of a request.
        """
        if len(self.pipeline) >= MAX_AHEAD:
            raise _RefusedError
        super().on_message_begin()
        # The application may abort a client that does not read.
        self.scope["extensions"] = {
            "ferry.connection": {"abort": self.transport.abort, "is_gone": self.transport.is_closing}
        }
        self._header_bytes = self._unread = 0
        self._await_headers()

    def on_url(self, url: bytes) -> None:
        """
        Count a part of the address.
        """
        self._count_header(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """
        Count a header or a trailer.
        """
        self._count_header(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """
        Stop the deadline, and pass the request to the application.
        """
        self._unread = 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """
        Note a part of a body.
        """
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """
        Note the end of a request.
        """
        self._unread = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """
        Continue with the next request, or set a deadline for the last answer.
        """
        super().on_response_complete()
        self._end_soon()

    def timeout_keep_alive_handler(self) -> None:
        """
        Close an idle connection.
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
        Set the usual deadline for the rest of the answer on a closing connection.
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
    Return an answer that closes the connection.
    """
    response = problem.response()
    lines = [f"HTTP/1.1 {response.status}", *(f"{name}: {value}" for name, value in response.headers)]
    head = "\r\n".join([*lines, "Connection: close", "", ""])
    return head.encode("latin-1") + response.get_data()
