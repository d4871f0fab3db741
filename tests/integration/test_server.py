"""
The API in production, with clients that are slow, many, greedy or gone: a real gunicorn, and raw sockets.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import os
import signal
import socket
import sys
import time

import pytest

from ferry.app import create_app
from ferry.app.dev.stack import accepts, free_port
from ferry.app.server import bodies, bridge
from tests.parts import Process, sample, wait_until

PEOPLE = "/api/sheets/people/records"
TOKEN = "t" * 20
SOON_S = 10.0  # for an answer that waits for nobody; the machine may be busy


class _Server:
    def __init__(self, process, port):
        self.process, self.port, self.clients = process, port, []

    def end(self):
        for client in self.clients:
            client.close()
        self.process.kill()

    def ask(self, path, *, method="GET", body=None, timeout_s=SOON_S, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def put(self, slug, **headers):
        headers["Authorization"] = f"Bearer {TOKEN}"
        return self.ask(f"{PEOPLE}/{slug}", method="PUT", body=_person(slug), **headers)

    def is_well(self):
        return all(self.ask(path)[0] == 200 for path in ("/api/health", f"{PEOPLE}?limit=1"))

    def raw(self, data, *, buffer=None):
        client = socket.socket()
        self.clients.append(client)
        client.settimeout(SOON_S * 2)
        if buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.connect(("127.0.0.1", self.port))
        client.sendall(data)
        return client


def _person(slug):
    return json.dumps({"slug": slug, "name": "Ann"}).encode()


def _read(client):
    """
    Return what comes until the connection ends.
    """
    found = bytearray()
    try:
        while data := client.recv(1 << 20):
            found += data
    except ConnectionResetError:
        pass
    return bytes(found)


def _start(env, tmp_path, *options, **more):
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--config", "python:tests.hurried", *options]
    tokens = f"ana:{hashlib.sha256(TOKEN.encode()).hexdigest()}"
    process = Process(
        [*command, "--bind", f"127.0.0.1:{port}", "ferry.app:create_app()"],
        {**env, "CFP_API_TOKENS": tokens, **more},
        tmp_path / "api.log",
    )
    process.spawn()
    server = _Server(process, port)
    try:
        wait_until(lambda: accepts(port), timeout_s=60, what="the API")
        server.ask("/api/health", timeout_s=60)
    except (AssertionError, OSError):
        server.end()
        raise
    return server


@pytest.fixture
def server(env, tmp_path):
    started = _start(env, tmp_path)
    yield started
    started.end()


def _header(method, path, *lines, token=TOKEN):
    known = [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join(
        [f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *known, *lines, "", ""]
    ).encode()


# --- Slow and many ---


def test_slow_clients_are_closed_and_stop_nobody(server):
    """
    Half a header, a body of which one byte comes, empty lines, and a body that comes in drops.
    """
    put = f"{PEOPLE}/slow"
    half = [server.raw(b"GET /api/sheets HTTP/1.1\r\nHost: x\r\nX-A: ") for _ in range(30)]
    mute = [server.raw(b"") for _ in range(30)]
    slow = [server.raw(_header("PUT", put, "Content-Length: 1000") + b"{") for _ in range(30)]
    assert server.is_well()
    for client in (*half, *mute):
        assert _read(client) == b""
    for client in slow:
        answer = _read(client)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"body-too-slow" in answer
    assert server.is_well()
    assert not server.process.logged("Traceback")
    assert not server.process.logged("ASGI callable")


def test_a_body_that_comes_in_drops_has_an_end(server):
    client = server.raw(_header("PUT", f"{PEOPLE}/drops", "Content-Length: 1000"))
    client.settimeout(0.3)
    answer = b""
    for _ in range(100):
        try:
            client.sendall(b" ")
            answer = client.recv(1000)
            break
        except TimeoutError:
            continue
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_what_is_no_request_keeps_no_connection_alive(server):
    """
    Empty lines, half a header, and what is left of a body that is not read.
    """
    for drop in (b"\r\n", b"G"):
        client = server.raw(_header("GET", "/api/health"))
        assert client.recv(12) == b"HTTP/1.1 200"
        client.sendall(drop)
        assert _read(client).endswith(b"}\n")
    client = server.raw(_header("GET", "/api/health", "Content-Length: 100") + b"x")
    assert b" 200 " in _read(client)


def test_slow_readers_are_cut_off(server):
    """
    Of an attachment that is sent piece by piece, and of one answer in a whole.
    """
    large = os.urandom(1 << 20) * 12
    assert server.put("jane")[0] in (200, 201)
    status, _ = server.ask(
        f"{PEOPLE}/jane/attachments/large.bin", method="PUT", body=large, timeout_s=30,
        Authorization=f"Bearer {TOKEN}",
    )  # fmt: skip
    assert status in (200, 201)
    get = _header("GET", f"{PEOPLE}/jane/attachments/large.bin")
    readers = [server.raw(get, buffer=4096) for _ in range(20)]
    assert server.is_well()
    main = server.process.pid
    wait_until(lambda: _connections(main, server.port) == 0, what="the end of slow readers")
    for reader in readers:
        assert len(_read(reader)) < len(large)
    whole = _read(server.raw(_header("GET", f"{PEOPLE}/jane/attachments/large.bin", "Connection: close")))
    assert whole.endswith(large[-1000:])
    some = _header("GET", f"{PEOPLE}/jane/attachments/large.bin", "Range: bytes=5-9", "Connection: close")
    part = _read(server.raw(some))
    assert part.startswith(b"HTTP/1.1 206 ")
    assert part.endswith(large[5:10])
    assert not server.process.logged("Traceback")
    assert not server.process.logged("ASGI callable")


def _connections(main, port):
    import psutil

    return sum(
        each.status == "ESTABLISHED" and each.laddr.port == port
        for process in psutil.Process(main).children()
        for each in process.net_connections("tcp")
    )


def test_streams_and_waiting_writers_leave_the_others_alone(env, tmp_path, server, remote, worker):
    """
    120 streams see a commit, and 120 writers wait for a remote that is down; health and reads go on.
    When the remote is back, each is answered that its commit has arrived.
    """
    away = remote.path.rename(tmp_path / "away.git")

    async def main():
        streams = [await _open(server, _header("GET", "/api/events", token=None)) for _ in range(120)]
        assert await asyncio.to_thread(server.is_well)
        assert (await asyncio.to_thread(server.put, "first"))[0] == 201
        await asyncio.wait_for(asyncio.gather(*(_until(each, b"event: commit") for each in streams)), 30)
        waits = []
        for number in range(120):
            body = _person(f"w{number}")
            lines = (f"Content-Length: {len(body)}", "Prefer: wait=50", "Connection: close")
            head = _header("PUT", f"{PEOPLE}/w{number}", *lines)
            waits.append(await _open(server, head + body))
        answers = [asyncio.ensure_future(each[0].read()) for each in waits]
        assert await asyncio.to_thread(server.is_well)
        assert (await asyncio.to_thread(server.ask, f"{PEOPLE}/first"))[0] == 200
        assert (await asyncio.to_thread(server.put, "second"))[0] == 201
        assert not any(answer.done() for answer in answers)
        away.rename(remote.path)
        worker()
        statuses = {(await asyncio.wait_for(answer, 60))[9:12] for answer in answers}
        assert statuses == {b"201"}
        for _, writer in (*streams, *waits):
            writer.close()

    asyncio.run(main())


async def _open(server, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    return reader, writer


async def _until(stream, words):
    while line := await stream[0].readline():
        if line.startswith(words):
            return
    raise AssertionError("the stream has ended")


def test_sigterm_ends_streams_and_waits(env, tmp_path):
    started = _start(env, tmp_path, "--graceful-timeout", "25")
    try:
        streams = [started.raw(_header("GET", "/api/events")) for _ in range(10)]
        body = _person("waiter")
        lines = (f"Content-Length: {len(body)}", "Prefer: wait=50")
        waiter = started.raw(_header("PUT", f"{PEOPLE}/waiter", *lines) + body)
        half = started.raw(b"GET / HT")
        for stream in streams:
            assert stream.recv(12) == b"HTTP/1.1 200"
        wait_until(lambda: started.ask(f"{PEOPLE}/waiter")[0] == 200, what="the commit")
        begun = time.monotonic()
        started.process.signal(signal.SIGTERM)
        assert all(_read(stream).endswith(b"0\r\n\r\n") for stream in streams)
        assert _read(waiter).startswith(b"HTTP/1.1 202 ")
        assert _read(half) == b""
        assert started.process.wait() == 0
        assert time.monotonic() - begun < 20  # the graceful timeout was not what ended them
        assert not started.process.logged("Traceback")
    finally:
        started.end()


def test_a_client_that_goes_away_leaves_nothing_behind(server):
    """
    In the midst of a stream, with a request sent ahead of its turn, of a wait and of a body.
    """
    stream = server.raw(_header("GET", "/api/events") + _header("GET", "/api/health"))
    body = _person("gone")
    lines = (f"Content-Length: {len(body)}", "Prefer: wait=50")
    waiter = server.raw(_header("PUT", f"{PEOPLE}/gone", *lines) + body)
    sender = server.raw(_header("PUT", f"{PEOPLE}/half", "Content-Length: 100") + b"{")
    assert stream.recv(12) == b"HTTP/1.1 200"
    wait_until(lambda: server.ask(f"{PEOPLE}/gone")[0] == 200, what="the commit")
    for client in (stream, waiter, sender):
        client.close()
    server.process.signal(signal.SIGTERM)  # what was left would go on until gunicorn ends it by force
    begun = time.monotonic()
    assert server.process.wait() == 0
    assert time.monotonic() - begun < 20
    assert not server.process.logged("Traceback")


# --- What is read, and what is not ---


def test_a_strangers_body_is_not_read(server):
    """
    A stranger is answered at once, told nothing by 100-continue, and its connection ends.
    """
    lines = ("Content-Length: 500000", "Expect: 100-continue")
    for head in (
        _header("PUT", f"{PEOPLE}/x", *lines, token=None),
        _header("PUT", f"{PEOPLE}/x", *lines, token="no"),
    ):
        assert _read(server.raw(head)).startswith(b"HTTP/1.1 401 ")
    client = server.raw(
        _header("PUT", f"{PEOPLE}/x", "Transfer-Encoding: chunked", token=None) + b"5\r\n12345\r\n"
    )
    assert _read(client).startswith(b"HTTP/1.1 401 ")


def test_who_may_send_is_told_to_go_on(server):
    body = _person("go-on")
    client = server.raw(
        _header(
            "PUT",
            f"{PEOPLE}/go-on",
            f"Content-Length: {len(body)}",
            "Expect: 100-continue",
            "Connection: close",
        )
    )
    assert client.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(body)
    assert _read(client).startswith(b"HTTP/1.1 201 ")


def test_a_chunked_body_is_stored_whole_or_refused(env, tmp_path):
    """
    Exactly as large as the limit, one byte more, and much more.
    """
    limit = 200_000
    server = _start(env, tmp_path, CFP_API_MAX_BODY=str(limit), CFP_API_MAX_ATTACHMENT=str(limit))
    try:
        assert server.put("jane")[0] in (200, 201)
        for number, over in enumerate((0, 1, 3_000_000)):
            path, body = f"{PEOPLE}/jane/attachments/{number}.bin", b"x" * (limit + over)
            client = server.raw(_header("PUT", path, "Transfer-Encoding: chunked"))
            for start in range(0, len(body), 50_000):
                piece = body[start : start + 50_000]
                client.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            client.sendall(b"0\r\n\r\n")
            assert client.recv(12)[9:] == (b"413" if over else b"201")
            status, kept = server.ask(path)
            assert (status, kept == body) == ((404, False) if over else (200, True))
    finally:
        server.end()


def test_requests_that_are_sent_ahead_are_answered_in_turn(server):
    ahead = [_header("GET", f"/api/nothing/{number}") for number in range(4)]
    last = _header("GET", "/api/health", "Connection: close")
    answer = _read(server.raw(b"".join(ahead) + last))
    assert answer.count(b"HTTP/1.1 404 ") == 4
    assert answer.rindex(b"HTTP/1.1 404 ") < answer.rindex(b"HTTP/1.1 200 ")


NONSENSE = {
    "sent ahead": b"GET /api/events HTTP/1.1\r\nHost: x\r\n\r\n" * 500,
    "headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 200,
    "a header": b"GET / HTTP/1.1\r\nHost: x\r\na: " + b"b" * 100_000,
    "a path": b"GET /" + b"a" * 100_000,
    "an extension": b"GET /api/health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 100_000,
    "no HTTP": b"\0\1\2\r\n\r\n",
    "bytes": b"GET /caf\xc3\xa9 HTTP/1.1\r\n\r\n",
    "a tunnel": b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\n\r\n",
    "a host": b"GET http://x HTTP/1.1\r\n\r\n",
}


def test_too_much_and_nonsense_end_a_connection(server):
    for name, sent in NONSENSE.items():
        try:
            answer = _read(server.raw(sent))
        except OSError:
            answer = b""  # it was closed while we sent
        assert b" 500 " not in answer, name
        heads = [head.lower() for head in answer.split(b"\r\n\r\n") if head.startswith(b"HTTP/1.1 ")]
        assert all(b"x-content-type-options: nosniff" in head for head in heads), name
    assert server.is_well()
    assert not server.process.logged("Traceback")


def test_answers_without_a_body_leave_the_connection_in_order(server):
    for method in ("HEAD", "OPTIONS"):
        data = _header(method, "/api/sheets") + _header("GET", "/api/health", "Connection: close")
        answer = _read(server.raw(data))
        assert answer.count(b"HTTP/1.1 200 ") == 2
        assert json.loads(answer.rpartition(b"\r\n\r\n")[2])


def test_the_api_answers_at_a_socket_in_the_file_system(env, short_directory, tmp_path):
    path = short_directory / "api"
    server = _start(env, tmp_path, "--bind", f"unix:{path}")
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SOON_S)
            client.connect(str(path))
            client.sendall(_header("GET", "/api/sheets", "Connection: close"))
            assert _read(client).startswith(b"HTTP/1.1 200 ")
    finally:
        server.end()


# --- Several processes ---


def test_lines_are_json_and_metrics_are_those_of_all_processes(env, tmp_path):
    server = _start(env, tmp_path, "--workers", "3", "--access-logfile", "-", TMPDIR=str(tmp_path))
    try:
        for _ in range(20):
            assert server.ask("/api/sheets")[0] == 200
        _read(server.raw(b"\0\r\n\r\n"))
        for _ in range(6):
            metrics = server.ask("/metrics")[1].decode()
            assert sample(metrics, "ferry_http_requests_total", endpoint="sheets.index", status="200") == 20
    finally:
        server.process.signal(signal.SIGTERM)
        assert server.process.wait() == 0
        server.end()
    lines = [json.loads(line) for line in server.process.text().splitlines()]
    assert {"gunicorn.error", "uvicorn.error", "uvicorn.access"} <= {line.get("logger") for line in lines}
    assert any("/api/sheets" in line["event"] for line in lines)


# --- In this process ---


class _Request:
    """
    A request to a bridge, whose body comes in *pieces*; None: nothing more comes.
    """

    def __init__(self, *pieces, path=f"{PEOPLE}/x", method="PUT"):
        self.pieces, self.sent, self.is_aborted = list(pieces), [], False
        self.scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "http_version": "1.1", "scheme": "http", "server": ("localhost", 80), "client": ("192.0.2.1", 9),
            "headers": [(b"transfer-encoding", b"chunked"), (b"content-type", b"application/json")]
            if pieces else [],
            "extensions": {"ferry.connection": {"abort": self.abort, "is_gone": lambda: self.is_aborted}},
        }  # fmt: skip

    def abort(self):
        self.is_aborted = True

    async def receive(self):
        if not self.pieces or self.pieces[0] is None:
            await asyncio.Event().wait()
        piece = self.pieces.pop(0)
        if piece == "gone":
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": bool(self.pieces)}

    async def send(self, message):
        self.sent.append(message)

    @property
    def status(self):
        return self.sent[0]["status"] if self.sent else None


def test_the_room_for_bodies_is_free_again_however_a_request_ends(env, monkeypatch):
    monkeypatch.setattr(bodies, "BODY_PAUSE_S", 0.05)
    env = {**env, "CFP_API_MAX_BODY": "1000", "CFP_API_MAX_ATTACHMENT": "1000"}

    async def main():
        served = bridge.Bridge(create_app(env, open_access=True), threads=2)
        kept = vars(served)["_bodies"]
        room = vars(kept)["_room"]
        cases = [
            (_Request(b'{"slug": "x", ', b'"name": "X"}'), 201),
            (_Request(b"{", "gone"), None),
            (_Request(b"{", None), 408),
            (_Request(b"x" * 900, b"x" * 900, b"x"), 413),
            (_Request(b"x" * (room + 1), b"x"), 503),
        ]
        for request, status in cases:
            await asyncio.wait_for(served(request.scope, request.receive, request.send), 30)
            assert request.status == status
            assert (vars(kept)["_room"], vars(kept)["_held"]) == (room, {})
        cancelled = _Request(b"{", None)
        monkeypatch.setattr(bodies, "BODY_PAUSE_S", 60.0)
        task = asyncio.ensure_future(served(cancelled.scope, cancelled.receive, cancelled.send))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (vars(kept)["_room"], vars(kept)["_held"]) == (room, {})

    asyncio.run(main())


def test_a_stream_that_cannot_look_is_cut_off_and_the_others_go_on(env, monkeypatch, capsys):
    def fail(_):
        raise OSError("no such repository")

    async def main():
        served = bridge.Bridge(create_app(env, open_access=True), threads=2)
        request = _Request(path="/api/events", method="GET")
        monkeypatch.setattr("ferry.app.api.events._look", fail)
        await asyncio.wait_for(served(request.scope, request.receive, request.send), 30)
        assert request.status == 200
        assert request.is_aborted
        other = _Request(path="/api/health", method="GET")
        await asyncio.wait_for(served(other.scope, other.receive, other.send), 30)
        assert other.status == 200

    asyncio.run(main())
    assert "api.unanswered" in capsys.readouterr().err


def test_a_stream_that_begins_while_the_process_ends_is_ended(env):
    async def main():
        served = bridge.Bridge(create_app(env, open_access=True), threads=2)
        served.close()
        request = _Request(path="/api/events", method="GET")
        await asyncio.wait_for(served(request.scope, request.receive, request.send), 30)
        assert request.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}

    asyncio.run(main())


def test_a_stream_too_many_is_refused_and_a_wait_is_not_waited(env, monkeypatch):
    monkeypatch.setattr(bridge, "MAX_LATERS", 0)

    async def main():
        served = bridge.Bridge(create_app(env, open_access=True), threads=2)
        stream = _Request(path="/api/events", method="GET")
        await asyncio.wait_for(served(stream.scope, stream.receive, stream.send), 30)
        assert stream.status == 503
        write = _Request(b'{"slug": "x", "name": "X"}')
        write.scope["headers"].append((b"prefer", b"wait=60"))
        await asyncio.wait_for(served(write.scope, write.receive, write.send), 30)
        assert write.status == 202

    asyncio.run(main())
