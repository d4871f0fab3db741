"""
A Redis server inside the tests' process, which misbehaves on demand. No program has to be started for it.

Clients reach it over a real socket, so what they run is Ferry's own transport with its own time limits.
What a worker process does with a broker, the tests of a real server show.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import redis
from fakeredis import TcpFakeServer
from fakeredis._clients._tcp_server import TCPFakeRequestHandler
from fakeredis._helpers import SimpleError


@dataclass
class FakeBroker:
    """
    A running server.

    Attributes:
        port: Where it listens.
        refusal: What it answers to each command instead of a result, such as ``READONLY ...``.
        commands: The names of the commands that it has answered.
    """

    port: int
    refusal: str | None = None
    commands: list[str] = field(default_factory=list)
    _answers: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, protocol=2, socket_timeout=5)

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """
        Take connections and commands during the block, and answer none.
        """
        self._answers.clear()
        try:
            yield
        finally:
            self._answers.set()


def _instead(keys: bytes, key: bytes, *rest: bytes) -> list[bytes]:
    """
    Return the command that stands in for a script of kombu's, since there is no Lua here.

    One script binds a queue, one frees a lock, and one removes bindings that have expired.
    """
    if keys == b"2":
        return [b"SADD", key, rest[1]]
    return [b"DEL" if key.endswith(b"mutex") else b"EXISTS", key]


class _Handler(TCPFakeRequestHandler):
    # An answer is written in pieces, and each would wait for the client's late acknowledgement of another.
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        broker: FakeBroker = self.server.broker  # type: ignore[attr-defined]
        fake = self.current_client.get_socket()
        run = fake._process_command

        def run_or_refuse(words: list[bytes]) -> None:
            name = words[0].decode().upper()
            broker._answers.wait(30)
            if broker.refusal is not None:
                fake.put_response(SimpleError(broker.refusal))
            elif name == "SCRIPT":
                fake.put_response([1] * len(words[2:]))
            elif name == "EVALSHA":
                run(_instead(*words[2:]))
            else:
                run(words)
            broker.commands.append(name)

        fake._process_command = run_or_refuse


@contextlib.contextmanager
def fake_broker(port: int = 0) -> Iterator[FakeBroker]:
    """
    Run such a server; at the end its connections are closed and its port is free.
    """
    with TcpFakeServer(("127.0.0.1", port)) as server:
        server.RequestHandlerClass = _Handler
        broker = FakeBroker(server.server_address[1])
        broker._answers.set()
        server.broker = broker  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield broker
        finally:
            broker._answers.set()
            server.shutdown()
            thread.join(10)
