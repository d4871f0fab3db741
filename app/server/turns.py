"""
The order in which requests get threads: clients take turns, however many requests each has sent.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TooManyWaitingError(Exception):
    """
    Too many requests wait for a thread.
    """


class Turns:
    """
    Gives *places* to clients in turn. Used in one event loop.

    Args:
        places: The most that are held at once.
        most_waiting: The most requests that may wait.
    """

    def __init__(self, places: int, most_waiting: int) -> None:
        self._free = places
        # One client leaves two places to the others.
        self._most_of_one = max(1, places - 2)
        self._most_waiting = most_waiting
        self._waiting = 0
        self._held: dict[str, int] = {}
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, client: str, *, is_under_way: bool = False) -> AsyncIterator[None]:
        """
        Hold a place for the block, once it is *client*'s turn.

        Args:
            is_under_way: Whether the request has begun already; then it is not refused.

        Raises:
            TooManyWaitingError: Too many requests wait, and no client has more of them than this one.
        """
        if not is_under_way and self._waiting >= self._most_waiting:
            self._refuse_one(client)
        await self._take(client)
        try:
            yield
        finally:
            self._give_back(client)

    async def _take(self, client: str) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.setdefault(client, deque()).append(mine)
        self._waiting += 1
        self._hand_out()
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.done() or mine.cancelled():
                self._forget(client, mine)
            elif mine.exception() is None:
                self._give_back(client)
            raise

    def _refuse_one(self, client: str) -> None:
        """
        Refuse the last request of the client with the most waiting requests, so that no client fills the
        queue.
        """
        greediest = max(self._queues, key=lambda each: len(self._queues[each]), default=client)
        if len(self._queues.get(greediest, ())) <= len(self._queues.get(client, ())) + 1:
            raise TooManyWaitingError
        last = self._queues[greediest][-1]
        self._forget(greediest, last)
        last.set_exception(TooManyWaitingError())

    def _give_back(self, client: str) -> None:
        self._free += 1
        self._held[client] -= 1
        if not self._held[client]:
            del self._held[client]
        self._hand_out()

    def _hand_out(self) -> None:
        while self._free and (client := self._next()) is not None:
            queue = self._queues[client]
            mine = queue.popleft()
            # The client's next request comes after those of the other clients.
            self._queues.move_to_end(client)
            if not queue:
                del self._queues[client]
            self._waiting -= 1
            self._free -= 1
            self._held[client] = self._held.get(client, 0) + 1
            mine.set_result(None)

    def _next(self) -> str | None:
        return next((each for each in self._queues if self._held.get(each, 0) < self._most_of_one), None)

    def _forget(self, client: str, mine: asyncio.Future[None]) -> None:
        queue = self._queues[client]
        queue.remove(mine)
        self._waiting -= 1
        if not queue:
            del self._queues[client]
