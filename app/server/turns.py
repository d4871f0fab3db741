"""
Who has a request thread next: clients in turn, however many requests each has sent.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TooManyWaitingError(Exception):
    """
    So many requests wait for a thread that one more would only wait.
    """


class Turns:
    """
    Hands out *places* to clients, one each in turn; used in one event loop.

    Args:
        places: How many may be held at once.
        most_waiting: How many requests may wait for one.
    """

    def __init__(self, places: int, most_waiting: int) -> None:
        self._free = places
        # So that two slow requests of one client leave a place to the others.
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
            is_under_way: It goes on with what has begun, and is not refused.

        Raises:
            TooManyWaitingError: Too many wait, and no client has more of them than this one.
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
        Refuse the last request of whoever has the most that wait: no client fills the queue for the others.
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
            # Its next request comes after the other clients'.
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
