"""
A relay that stands for a network: what passes it arrives so many milliseconds later.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator

_PIECE_BYTES = 64 * 1024


@contextlib.contextmanager
def relay(port: int, round_trip_ms: float) -> Iterator[int]:
    """
    Relay connections to *port* of this machine for the block; yields the relay's own port.

    Args:
        round_trip_ms: How much later an answer comes. The opening of a connection is not delayed.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server, port, round_trip_ms / 2000), daemon=True).start()
        try:
            yield server.getsockname()[1]
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)


def _accept(server: socket.socket, port: int, delay_s: float) -> None:
    with contextlib.suppress(OSError):
        while True:
            near, _ = server.accept()
            far = socket.create_connection(("127.0.0.1", port))
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, target in ((near, far), (far, near)):
                _carry(source, target, delay_s)


def _carry(source: socket.socket, target: socket.socket, delay_s: float) -> None:
    pieces: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def take() -> None:
        piece = b"-"
        while piece:
            try:
                piece = source.recv(_PIECE_BYTES)
            except OSError:
                piece = b""
            pieces.put((time.monotonic() + delay_s, piece))

    def give() -> None:
        with contextlib.suppress(OSError):
            while True:
                due, piece = pieces.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not piece:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(piece)

    for work in (take, give):
        threading.Thread(target=work, daemon=True).start()
