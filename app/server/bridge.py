"""
Flask behind an event loop. A request takes a thread only while Flask works on it.

The loop reads a request's body before it takes a thread, and sends the answer after the thread is free again.
The loop also waits for pushes and streams events, see ``later``. Each read and each write has a deadline.
Clients take turns, see ``turns``. Health has threads of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from flask import Flask

from ferry.app.access import client_of
from ferry.app.problems import Problem
from ferry.app.server.answers import (
    PIECE_BYTES,
    Answer,
    ClientGoneError,
    Message,
    Receive,
    Send,
    Sender,
    Unsent,
)
from ferry.app.server.bodies import BODY_PAUSE_S, BODY_S, Bodies, BodyTooSlowError, has_body
from ferry.app.server.later import LATER, WAITED, Delay, Streaming, Waiting
from ferry.app.server.moves import Moves
from ferry.app.server.turns import TooManyWaitingError, Turns
from ferry.app.services import EXTENSION, Services
from ferry.worker.observe.logs import log

T = TypeVar("T")
_Ends = tuple[asyncio.Future[None], ...]

MAX_WAITING_REQUESTS = 1000
MAX_LATERS = 3072  # streams and waits; the remaining connections are for requests
_LOOK_AGAIN_S = 1.0
_HEALTH_THREADS = 2
_HEALTH = ("/api/health", "/api/health/ready")


class _Lane:
    """
    A few threads, and the clients' turns at them.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._turns = Turns(threads, MAX_WAITING_REQUESTS)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, job: _Job, function: Callable[..., T], *given: Any, is_under_way: bool = False) -> T:
        """
        Return what *function* returns, once it is the client's turn.

        Raises:
            ClientGoneError: The client has gone meanwhile.
            TooManyWaitingError: Too many requests wait.
        """
        async with self._turns.turn(job.client, is_under_way=is_under_way):
            job.sender.check()
            return await self.run_now(job, function, *given)

    async def run_now(self, job: _Job, function: Callable[..., T], *given: Any) -> T:
        """
        Return what *function* returns, in a free thread.
        """
        call = partial(job.context.run, function, *given)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """
    A request that is being answered.

    Attributes:
        client: The client's key, as the limits count.
        authorization: The request's header.
        context: The context variables of Flask and its extensions, shared by all threads that work on the
            request.
    """

    client: str
    authorization: str
    context: Context
    sender: Sender


class Bridge:
    """
    An ASGI application (https://asgi.readthedocs.io/en/latest/specs/www.html) around Ferry's Flask app.

    Args:
        app: The app.
        threads: How many requests Flask works on at once.
    """

    def __init__(self, app: Flask, *, threads: int) -> None:
        services: Services = app.extensions[EXTENSION]
        self._app = app
        self._services = services
        self._requests = _Lane("request", threads)
        self._health = {path: _Lane("health", _HEALTH_THREADS) for path in _HEALTH}
        self._bodies = Bodies(services)
        self._moves = Moves(services.arrivals)
        self._unsent = Unsent()
        self._laters = self._delayed = 0
        self._is_closing = False
        self._closed: asyncio.Future[None] | None = None

    def close(self) -> None:
        """
        End the streams and the waits for a push.
        """
        self._is_closing = True
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """
        Answer one request.
        """
        if scope["type"] != "http":
            return
        connection = scope["extensions"]["ferry.connection"]
        authorization = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        client = client_of(authorization, self._client_address(scope), self._services.tokens)
        is_head = scope["method"] == "HEAD"
        sender = Sender(send, receive, connection, self._unsent, client=client, is_head=is_head)
        job = _Job(client=client, authorization=authorization, context=copy_context(), sender=sender)
        try:
            await self._answer_or_refuse(scope, receive, job)
        except ClientGoneError:
            await sender.give_up()
        except Exception as exc:  # noqa: BLE001
            # The process's edge: errors that Flask did not answer, such as a stream that cannot read.
            log().error("api.unanswered", path=scope["path"], error=f"{type(exc).__name__}: {exc}")
            with contextlib.suppress(ClientGoneError):
                await sender.problem(_UNANSWERED)

    async def _answer_or_refuse(self, scope: Message, receive: Receive, job: _Job) -> None:
        sender = job.sender
        try:
            await self._answer(scope, receive, job)
        except TooManyWaitingError:
            await sender.problem(_BUSY)
        except Problem as problem:
            await sender.problem(problem)
        except BodyTooSlowError:
            await sender.problem(_TOO_SLOW, is_read=True)  # closes the connection at once

    async def _answer(self, scope: Message, receive: Receive, job: _Job) -> None:
        sender = job.sender
        if scope["path"] in self._health:
            is_read = not has_body(scope)
            answer = await self._health[scope["path"]].run(job, self._flask, scope, b"", is_read)
            await sender.whole(answer, is_read=is_read)
            return
        async with self._bodies.read(scope, receive, job.authorization, job.client) as (body, is_read):
            answer = await self._requests.run(job, self._flask, scope, body, is_read)
            del body
        if isinstance(answer.later, Delay) and is_read and self._delayed < answer.later.most:
            await self._delay(answer.later, receive)
            answer = await self._requests.run(job, self._flask, scope, b"", is_read, True, is_under_way=True)
        if isinstance(answer.later, Waiting | Streaming) and is_read:
            await self._later(answer, receive, sender)
        elif answer.rest is None:
            await sender.whole(answer, is_read=is_read)
        else:
            await self._stream(answer, answer.rest, job, is_read=is_read)

    def _client_address(self, scope: Message) -> str:
        """
        Return the client's address, as werkzeug's ProxyFix determines it for Flask.
        """
        hops = self._services.pipeline.settings.api_trusted_proxies
        forwarded = [v.decode("latin-1") for n, v in scope["headers"] if n == b"x-forwarded-for"]
        given = [part.strip() for part in ",".join(forwarded).split(",")]
        return given[-hops] if hops and len(given) >= hops and given[-hops] else _address(scope)

    def _flask(self, scope: Message, body: bytes, is_read: bool, has_waited: bool = False) -> Answer:
        """
        Let Flask answer; runs in a thread.
        """
        answer = Answer()

        def start(
            status: str, headers: list[tuple[str, str]], exc_info: object = None
        ) -> Callable[[bytes], None]:
            answer.status = int(status.split(" ", 1)[0])
            # The server adds the date itself.
            pairs = ((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers)
            answer.headers = [pair for pair in pairs if pair[0] != b"date"]
            return lambda data: None

        environ = _environ(scope, body, is_read)
        environ |= {LATER: None, **({WAITED: True} if has_waited else {})}
        pieces = self._app(environ, start)
        answer.later = environ[LATER]
        rest = iter(pieces)
        answer.body, is_all = _first(rest)
        close = getattr(pieces, "close", lambda: None)
        if is_all:
            close()
        else:
            answer.rest, answer.close = rest, close
        return answer

    # --- Sending ---

    async def _stream(self, answer: Answer, rest: Iterator[bytes], job: _Job, *, is_read: bool) -> None:
        """
        Send a long answer. Takes a thread to read each piece, and frees it before sending the piece.
        """
        sender = job.sender
        if not is_read:
            answer.headers.append((b"connection", b"close"))
        try:
            await sender.begin(answer)
            piece: bytes | None = answer.body
            while piece is not None:
                with sender.hold(len(piece)):
                    await sender.piece(piece)
                piece = await self._requests.run(job, next, rest, None, is_under_way=True)
            await sender.end()
        finally:
            await self._requests.run_now(job, answer.close)

    @contextlib.contextmanager
    def _ends(self, receive: Receive) -> Iterator[_Ends]:
        """
        Yield two futures that end a request's wait: its client has disconnected; the process is to end.
        """
        if self._closed is None:
            self._closed = asyncio.get_running_loop().create_future()
            if self._is_closing:
                self._closed.set_result(None)
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            yield gone, self._closed
        finally:
            gone.cancel()

    async def _delay(self, later: Delay, receive: Receive) -> None:
        self._delayed += 1
        try:
            with self._ends(receive) as ends:
                await self._has_happened(later, ends)
        finally:
            self._delayed -= 1

    async def _later(self, answer: Answer, receive: Receive, sender: Sender) -> None:
        self._laters += 1
        try:
            with self._ends(receive) as ends:
                if isinstance(answer.later, Waiting):
                    await self._wait(answer, answer.later, ends, sender)
                elif self._laters > MAX_LATERS:
                    await sender.problem(_TOO_MANY_STREAMS, is_read=True)
                elif isinstance(answer.later, Streaming):
                    await self._go_on(answer, answer.later, ends, sender)
        finally:
            self._laters -= 1

    async def _wait(self, answer: Answer, later: Waiting, ends: _Ends, sender: Sender) -> None:
        happened = self._laters <= MAX_LATERS and await self._has_happened(later, ends)
        answer.status, answer.body = await self._moves.look(partial(later.finish, happened))
        await sender.whole(answer)

    async def _has_happened(self, later: Waiting | Delay, ends: _Ends) -> bool:
        deadline = asyncio.get_running_loop().time() + later.timeout_s
        while True:
            moved = self._moves.next()
            if await self._moves.look(later.happened):
                return True
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or any(end.done() for end in ends):
                return False
            await _first_of((moved, *ends), min(left, _LOOK_AGAIN_S))

    async def _go_on(self, answer: Answer, later: Streaming, ends: _Ends, sender: Sender) -> None:
        loop = asyncio.get_running_loop()
        answer.headers = [pair for pair in answer.headers if pair[0] != b"content-length"]  # not known
        await sender.begin(answer)
        await sender.piece(answer.body)
        sent_at = loop.time()
        while not any(end.done() for end in ends):
            moved = self._moves.next()
            piece = await self._moves.look(later.look)
            if not piece and loop.time() - sent_at >= later.quiet_s:
                piece = later.quiet
            if piece:
                with sender.hold(len(piece)):
                    await sender.piece(piece)
                sent_at = loop.time()
            await _first_of((moved, *ends), _LOOK_AGAIN_S)
        await sender.end()


_BUSY = Problem(
    503,
    "too-busy",
    "Too many requests are waiting.",
    "Repeat the request.",
    headers={"Retry-After": "1"},
)
_UNANSWERED = Problem(500, "internal-error", "An error occurred in the server.", "Tell the operators.")
_TOO_MANY_STREAMS = Problem(
    503,
    "too-many-streams",
    "This process serves as many event streams as it can.",
    "Try again later, or ask an operator for more API processes.",
    headers={"Retry-After": "5"},
)
_TOO_SLOW = Problem(
    408,
    "body-too-slow",
    f"The body did not arrive within {BODY_S:g} s, or paused for {BODY_PAUSE_S:g} s.",
    "Send it again over a faster connection.",
)


def _environ(scope: Message, body: bytes, is_read: bool) -> dict[str, Any]:
    """
    Return the WSGI environment (https://peps.python.org/pep-3333/) of a request.
    """
    host, port = scope["server"] or ("localhost", None)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": host,
        "SERVER_PORT": str(port or 0),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": _address(scope),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        key = name.decode("latin-1").upper().replace("-", "_")
        if "_" in name.decode("latin-1") or key == "TRANSFER_ENCODING":
            continue  # X_Real_Name must not become X-Real-Name; the length is known by now
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        given = value.decode("latin-1")
        environ[key] = f"{environ[key]},{given}" if key in environ else given
    if is_read or "CONTENT_LENGTH" not in environ:
        environ["CONTENT_LENGTH"] = str(len(body))
    return environ


def _address(scope: Message) -> str:
    return scope["client"][0] if scope["client"] else ""


def _first(pieces: Iterator[bytes]) -> tuple[bytes, bool]:
    """
    Return the first pieces, joined, and whether they are all.
    """
    found, size = [], 0
    for piece in pieces:
        found.append(piece)
        size += len(piece)
        if len(found) > 1 and (size >= PIECE_BYTES or not piece):  # b"": the next one takes a while
            return b"".join(found), False
    return b"".join(found), True


async def _first_of(futures: _Ends, timeout_s: float) -> None:
    await asyncio.wait(futures, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
