"""
Sending answers to clients that may be slow. Each piece has a deadline, and all unsent answers together a
bound in bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from ferry.app.problems import Problem
from ferry.app.server.later import Later

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]

WRITE_S = 30.0  # for the client to take a piece
PIECE_BYTES = 64 * 1024
DISCARD_S = 2.0  # for a client whose body is refused to read the answer
DISCARDED_BYTES = 64 * 1024 * 1024
MAX_UNSENT_BYTES = 256 * 1024 * 1024  # of one process's answers that wait for slow clients


class ClientGoneError(Exception):
    """
    The client closed the connection, or does not read its answer.
    """


@dataclass(slots=True)
class Answer:
    """
    Flask's answer: the first or only part of its body, an iterator over the rest, and what to call at its
    end.
    """

    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    rest: Iterator[bytes] | None = None
    close: Callable[[], None] = lambda: None
    later: Later | None = None


class Sender:
    """
    Sends one answer, piece by piece, each with a deadline.

    Args:
        send, receive: ASGI's.
        client: The client's key, as the limits count.
        connection: The protocol's functions ``abort`` and ``is_gone``.
    """

    def __init__(
        self,
        send: Send,
        receive: Receive,
        connection: dict[str, Callable[[], Any]],
        unsent: Unsent,
        *,
        client: str,
        is_head: bool,
    ) -> None:
        self._send = send
        self._receive = receive
        self._abort, self._is_gone = connection["abort"], connection["is_gone"]
        self._unsent = unsent
        self._client = client
        self._is_head = is_head
        self._has_begun = False

    def check(self) -> None:
        """
        Raises:
            ClientGoneError: The client has closed the connection.
        """
        if self._is_gone():
            raise ClientGoneError

    async def give_up(self) -> None:
        """
        Close the connection at once.
        """
        self._abort()
        await asyncio.sleep(0)  # the protocol learns of it in the loop's next round

    async def begin(self, answer: Answer) -> None:
        """
        Send status and headers.
        """
        self._has_begun = True
        await self._put({"type": "http.response.start", "status": answer.status, "headers": answer.headers})

    def hold(self, size: int) -> AbstractContextManager[None]:
        """
        Count *size* bytes as unsent, for the block.
        """
        return self._unsent.hold(self._client, self._abort, size)

    async def piece(self, data: bytes) -> None:
        """
        Send a part of the body.

        Raises:
            ClientGoneError: The client did not read it in time.
        """
        if self._is_head:
            return
        view = memoryview(data)
        for start in range(0, len(view), PIECE_BYTES):
            body = bytes(view[start : start + PIECE_BYTES])
            await self._put({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        """
        End the answer.
        """
        await self._put({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(self, answer: Answer, *, is_read: bool = True) -> None:
        """
        Send a complete answer.

        Args:
            is_read: Whether the whole request was read. If not, the connection is closed.
        """
        has_body = answer.status not in (204, 304)
        if not (self._is_head and has_body):
            answer.headers = [pair for pair in answer.headers if pair[0] != b"content-length"]
            if has_body:
                answer.headers.append((b"content-length", str(len(answer.body)).encode()))
        if not is_read:
            answer.headers.append((b"connection", b"close"))
        with self.hold(len(answer.body)):
            await self.begin(answer)
            await self.piece(answer.body if has_body else b"")
            if not is_read:
                await self._discard()
            await self.end()

    async def problem(self, problem: Problem, *, is_read: bool = False) -> None:
        """
        Answer with *problem*, or close the connection if an answer has begun already.
        """
        if self._has_begun:
            await self.give_up()
            return
        response = problem.response()
        headers = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in response.headers]
        await self.whole(Answer(problem.status, headers, response.get_data()), is_read=is_read)

    async def _put(self, message: Message) -> None:
        self.check()
        try:
            async with asyncio.timeout(WRITE_S):
                await self._send(message)
        except TimeoutError:
            self._abort()
            raise ClientGoneError from None

    async def _discard(self) -> None:
        """
        Read and discard the client's body for a moment: if the connection closed now, the client would not
        see the answer.
        """
        left = DISCARDED_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_S):
                while left > 0:
                    message = await self._receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body"):
                        return
                    left -= len(message.get("body", b""))


class Unsent:
    """
    Bounds the bytes of answers that wait for slow clients.

    Args:
        most: Bytes.
    """

    def __init__(self, most: int = MAX_UNSENT_BYTES) -> None:
        self._room = most
        self._held: dict[str, OrderedDict[object, tuple[Callable[[], None], int]]] = {}

    @contextmanager
    def hold(self, client: str, abort: Callable[[], None], size: int) -> Iterator[None]:
        """
        Count *size* bytes for the block. Beyond the bound, abort the oldest answer of the client with the
        most bytes.
        """
        mine = object()
        while self._room < size and self._held:
            greediest = max(self._held, key=self._bytes_of)
            self._drop(greediest, next(iter(self._held[greediest])))()
        self._held.setdefault(client, OrderedDict())[mine] = (abort, size)
        self._room -= size
        try:
            yield
        finally:
            if mine in self._held.get(client, ()):
                self._drop(client, mine)

    def _bytes_of(self, client: str) -> int:
        return sum(size for _, size in self._held[client].values())

    def _drop(self, client: str, which: object) -> Callable[[], None]:
        abort, size = self._held[client].pop(which)
        if not self._held[client]:
            del self._held[client]
        self._room += size
        return abort
