"""
Reading requests' bodies, of clients that may send one, with deadlines and a bound in memory.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ferry.app.access import may_send
from ferry.app.problems import Problem
from ferry.app.server.answers import ClientGoneError, Message, Receive
from ferry.app.services import Services

BODY_S = 60.0  # for a whole body
BODY_PAUSE_S = 10.0  # between two pieces of one
_AT_ONCE = 8  # bodies of the largest size in memory at once
_OF_ONE_CLIENT = 6


class BodyTooSlowError(Exception):
    """
    A client did not send its body in time.
    """


class Bodies:
    """
    Reads the bodies of one process's requests.
    """

    def __init__(self, services: Services) -> None:
        settings = services.pipeline.settings
        self._services = services
        self._largest = max(settings.api_max_body_bytes, settings.api_max_attachment_bytes)
        self._room = _AT_ONCE * self._largest
        self._room_of_one = _OF_ONE_CLIENT * self._largest
        self._held: Counter[str] = Counter()  # bytes, by client

    @asynccontextmanager
    async def read(
        self, scope: Message, receive: Receive, authorization: str, client: str
    ) -> AsyncIterator[tuple[bytes, bool]]:
        """
        Hold a request's body for the block: the part that was read, and whether that is all of it.

        Reads nothing if the sender may not send a body, or declares one that is too large; Flask then answers
        why.

        Raises:
            BodyTooSlowError: It did not arrive in time.
            ClientGoneError: The client closed the connection.
            Problem: 503 if there is no room for it.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                is_all = await self._read(scope, receive, authorization, client, body)
        except TimeoutError:
            self._free(client, len(body))
            raise BodyTooSlowError from None
        except BaseException:
            self._free(client, len(body))
            raise
        whole = bytes(body)
        body.clear()
        try:
            yield whole, is_all
        finally:
            self._free(client, len(whole))

    async def _read(
        self, scope: Message, receive: Receive, authorization: str, client: str, body: bytearray
    ) -> bool:
        if not has_body(scope):
            return True
        limit = min(may_send(self._services, scope["path"], authorization), self._largest)
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if limit == 0 or (declared.isdigit() and int(declared) > self._largest):
            return False
        has_more = True
        while has_more and len(body) <= limit:
            piece, has_more = await _next_piece(receive)
            self._take(client, len(piece))
            body += piece
        return len(body) <= limit

    def _take(self, client: str, size: int) -> None:
        if size > min(self._room, self._room_of_one - self._held[client]):
            raise Problem(
                503,
                "too-busy",
                "The bodies of other requests take up all the memory for bodies.",
                "Repeat the request.",
                headers={"Retry-After": "1"},
            )
        self._room -= size
        self._held[client] += size

    def _free(self, client: str, size: int) -> None:
        self._room += size
        self._held[client] -= size
        if not self._held[client]:
            del self._held[client]


def has_body(scope: Message) -> bool:
    """
    Whether a request declares a body.
    """
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") not in (b"", b"0")


async def _next_piece(receive: Receive) -> tuple[bytes, bool]:
    """
    Return a piece of a request's body, and whether more follow.
    """
    async with asyncio.timeout(BODY_PAUSE_S):
        message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    return message.get("body", b""), message.get("more_body", False)
