"""
Turns, senders and connections of the API's server, in one event loop.
"""

from __future__ import annotations

import asyncio

import pytest

from ferry.app.server import answers, protocol
from ferry.app.server.answers import Answer, ClientGoneError, Sender, Unsent
from ferry.app.server.turns import TooManyWaitingError, Turns


async def _settle():
    for _ in range(10):
        await asyncio.sleep(0)


class _Holder:
    """
    Holds turns until it is told to let go, and remembers whose came when.
    """

    def __init__(self, turns):
        self.turns, self.order, self.refused, self.go_on = turns, [], [], asyncio.Event()

    def ask(self, client, **how):
        return asyncio.ensure_future(self._hold(client, **how))

    async def _hold(self, client, **how):
        try:
            async with self.turns.turn(client, **how):
                self.order.append(client)
                await self.go_on.wait()
        except TooManyWaitingError:
            self.refused.append(client)


# --- Turns ---


def test_clients_take_turns_however_many_requests_each_has_sent():
    async def main():
        holder = _Holder(Turns(1, 100))
        tasks = [holder.ask(client) for client in ("ana", *["bob"] * 4, "cem")]
        await _settle()
        holder.go_on.set()
        await asyncio.gather(*tasks)
        assert holder.order == ["ana", "bob", "cem", "bob", "bob", "bob"]

    asyncio.run(main())


def test_one_client_leaves_two_places_to_the_others():
    async def main():
        holder = _Holder(Turns(8, 100))
        tasks = [holder.ask("bob") for _ in range(20)]
        await _settle()
        assert holder.order == ["bob"] * 6
        tasks += [holder.ask("ana"), holder.ask("cem")]
        await _settle()
        assert holder.order[6:] == ["ana", "cem"]
        holder.go_on.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_a_full_queue_refuses_whoever_filled_it():
    async def main():
        holder = _Holder(Turns(1, 5))
        tasks = [holder.ask("bob") for _ in range(6)]  # one at work, five wait
        await _settle()
        tasks.append(holder.ask("ana"))
        await _settle()
        assert holder.refused == ["bob"]
        tasks.append(holder.ask("bob"))
        await _settle()
        assert holder.refused == ["bob", "bob"]
        tasks.append(holder.ask("bob", is_under_way=True))  # what has begun goes on
        await _settle()
        assert len(holder.refused) == 2
        holder.go_on.set()
        await asyncio.gather(*tasks)
        assert holder.order.count("ana") == 1

    asyncio.run(main())


@pytest.mark.parametrize("at_work", [True, False], ids=["at work", "waiting"])
def test_a_request_that_is_cancelled_leaves_its_place(at_work):
    async def main():
        holder = _Holder(Turns(1, 2))
        first, second = holder.ask("ana"), holder.ask("ana")
        await _settle()
        (first if at_work else second).cancel()
        await _settle()
        tasks = [holder.ask("bob")]
        holder.go_on.set()
        await asyncio.gather(first, second, *tasks, return_exceptions=True)
        assert "bob" in holder.order
        assert vars(holder.turns)["_free"] == 1
        assert vars(holder.turns)["_waiting"] == 0
        assert not vars(holder.turns)["_queues"]
        assert not vars(holder.turns)["_held"]

    asyncio.run(main())


def test_a_request_that_is_cancelled_as_its_turn_comes_gives_it_back():
    async def main():
        turns = Turns(1, 2)
        holder = _Holder(turns)
        first, second = holder.ask("ana"), holder.ask("bob")
        await _settle()
        first.cancel()
        await asyncio.sleep(0)  # the place is bob's by now, and bob does not know
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert vars(turns)["_free"] == 1

    asyncio.run(main())


# --- Sending ---


class _Client:
    """
    A client that takes messages, or none.
    """

    def __init__(self, *, takes=True):
        self.got, self.is_gone, self.takes = [], False, takes

    async def send(self, message):
        if not self.takes:
            await asyncio.Event().wait()
        self.got.append(message)

    async def receive(self):
        return {"type": "http.disconnect"}

    def abort(self):
        self.is_gone = True

    def sender(self, unsent, *, client="ana", is_head=False):
        connection = {"abort": self.abort, "is_gone": lambda: self.is_gone}
        return Sender(self.send, self.receive, connection, unsent, client=client, is_head=is_head)


def _length(message):
    return dict(message["headers"]).get(b"content-length")


def test_an_answer_is_sent_in_pieces_with_its_length():
    async def main():
        client, body = _Client(), b"x" * (answers.PIECE_BYTES * 2 + 1)
        await client.sender(Unsent()).whole(Answer(200, [(b"content-length", b"7")], body))
        start, *pieces = client.got
        assert _length(start) == str(len(body)).encode()
        assert b"".join(piece["body"] for piece in pieces) == body
        assert [piece["more_body"] for piece in pieces] == [True, True, True, False]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("status", "is_head", "length"), [(200, True, b"7"), (204, False, None), (304, False, None)]
)
def test_an_answer_without_a_body_has_the_length_that_it_may_have(status, is_head, length):
    async def main():
        client = _Client()
        sender = client.sender(Unsent(), is_head=is_head)
        await sender.whole(Answer(status, [(b"content-length", b"7")], b""))
        start, *pieces = client.got
        assert _length(start) == length
        assert b"".join(piece["body"] for piece in pieces) == b""

    asyncio.run(main())


def test_a_client_that_takes_nothing_is_cut_off(monkeypatch):
    monkeypatch.setattr(answers, "WRITE_S", 0.05)

    async def main():
        client, unsent = _Client(takes=False), Unsent()
        with pytest.raises(ClientGoneError):
            await client.sender(unsent).whole(Answer(200, [], b"x"))
        assert client.is_gone
        assert not vars(unsent)["_held"]

    asyncio.run(main())


def test_answers_that_wait_for_slow_clients_are_bounded_in_bytes():
    """
    The client that has most of them pays, by the one that waits longest; what an answer held is free again.
    """

    async def main():
        unsent = Unsent(100)
        slow = [_Client(takes=False) for _ in range(3)]
        patient, late, large = _Client(takes=False), _Client(takes=False), _Client()

        def begin(client, size, name):
            return asyncio.ensure_future(
                client.sender(unsent, client=name).whole(Answer(200, [], b"x" * size))
            )

        tasks = [begin(patient, 30, "ana"), *(begin(each, 30, "bob") for each in slow[:2])]
        await _settle()
        tasks += [begin(slow[2], 30, "bob"), begin(late, 30, "cem")]
        await _settle()
        assert [each.is_gone for each in slow] == [True, True, False]
        assert not patient.is_gone
        assert not late.is_gone
        await large.sender(unsent, client="dan").whole(
            Answer(200, [], b"x" * 1000)
        )  # larger than all the room
        assert not large.is_gone
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert vars(unsent) == {"_room": 100, "_held": {}}

    asyncio.run(main())


# --- Connections ---


class _Connection:
    def __init__(self, address, *, is_silent=False):
        self.address, self.is_silent, self.ended, self.transport = address, is_silent, False, self

    def abort(self):
        self.ended = True


def test_a_new_client_is_let_in_and_the_greediest_pays():
    kept = protocol.Connections(4)
    stream = _Connection("ana")
    greedy = [_Connection("bob"), _Connection("bob", is_silent=True), _Connection("bob")]
    for each in (stream, *greedy, _Connection("cem")):
        kept.add(each)
    assert [each.ended for each in greedy] == [False, True, False]  # the one without a request
    kept.add(_Connection("dan"))
    assert [each.ended for each in greedy] == [True, True, False]
    kept.remove(greedy[0])  # as its protocol does when it learns of it
    assert not stream.ended
    assert vars(kept)["_count"] == 4
