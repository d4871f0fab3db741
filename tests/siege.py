"""
Attacks on one API process that is served as in production: what they cost the others.

    make siege

Each row is an attack from one address; meanwhile a client at another asks for health and for a
record. The table says how long the slowest but one of a hundred of its requests took, how much memory the
API's processes held, and how the attackers' connections ended. All of it stays on this machine's loopback.
A row is out of its bound where health took longer than a second, or a request of the other client failed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gitsheets
import psutil

from ferry.app.dev.sample import make_sample_repository
from ferry.app.dev.stack import accepts, free_port
from ferry.worker.git.objects import Objects
from tests.parts import Bare, Process, wait_until
from tests.valkey_server import ValkeyServer

HEALTH_S = 1.0
_OTHER = ("127.0.0.2", 0)  # an address of its own, and so a client of its own
_PROBES = 100
PEOPLE = "/api/sheets/people/records"
_LARGE = f"{PEOPLE}/jane/attachments/large.bin"
_HISTORY = 5000  # commits
_BOMB_BYTES = 1 << 28  # a quarter of a MiB on the disk
_RUNAWAYS = 30  # sheets that never open
_Ends = Counter[str]


@dataclass
class Row:
    """
    What one attack did.
    """

    attack: str
    clients: int
    health_s: list[float] = field(default_factory=list)
    read_s: list[float] = field(default_factory=list)
    failed: _Ends = field(default_factory=Counter)
    memory_mib: float = 0.0
    ends: _Ends = field(default_factory=Counter)

    @property
    def is_within_bound(self) -> bool:
        """
        Whether the other client noticed nothing that counts.
        """
        return not self.failed and _p99(self.health_s) < HEALTH_S

    def line(self) -> str:
        """
        Return the row of the table.
        """
        ends = ", ".join(f"{count} {end}" for end, count in self.ends.most_common())
        failed = f"; the other client: {dict(self.failed)}" if self.failed else ""
        return (
            f"{self.attack:<34} {self.clients:>7} {_p99(self.health_s) * 1e3:>8.0f} "
            f"{_p99(self.read_s) * 1e3:>8.0f} {self.memory_mib:>7.0f}  {ends}{failed}"
        )


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99) - 1] if seconds else 0.0


class Siege:
    """
    An API and those who attack it.
    """

    def __init__(self, port: int, process: Process, seconds: float) -> None:
        self._port, self._process, self._seconds = port, process, seconds
        self._is_over = asyncio.Event()  # the other client is done

    async def prepare(self) -> None:
        """
        Make what the attacks ask for.
        """
        large = os.urandom(12 << 20)
        for path, sent in ((f"{PEOPLE}/jane", b'{"slug": "jane", "name": "Jane"}'), (_LARGE, large)):
            assert (await self._send(request_of("PUT", path, sent, closes=True))) in ("200", "201")

    async def row(self, attack: str, clients: int, one: Callable[[int], Awaitable[str]]) -> Row:
        """
        Have *clients* attack at once, and measure what another client sees.
        """
        row = Row(attack, clients)
        self._is_over.clear()
        attackers = [asyncio.ensure_future(self._attack(one, number)) for number in range(clients)]
        await asyncio.sleep(min(2.0, self._seconds))
        for _ in range(_PROBES):
            row.health_s.append(await self._probe("/api/health", row))
            row.read_s.append(await self._probe(f"{PEOPLE}/jane", row))
        row.memory_mib = self._memory_mib()
        self._is_over.set()
        _, late = await asyncio.wait(attackers, timeout=self._seconds)
        for attacker in late:
            attacker.cancel()
        for end in await asyncio.gather(*attackers, return_exceptions=True):
            row.ends[end if isinstance(end, str) else "held to the end"] += 1
        return row

    # --- Attacks; each returns how it ended ---

    async def nothing(self, number: int) -> str:
        return "none"

    async def mute(self, number: int) -> str:
        return await self._send(b"")

    async def half_a_header(self, number: int) -> str:
        return await self._send(b"GET /api/sheets HTTP/1.1\r\nHost: localhost\r\nX-A: ")

    async def slow_body(self, number: int) -> str:
        return await self._send(request_of("PUT", f"{PEOPLE}/slow", b"{", length=1000))

    async def large_body(self, number: int) -> str:
        return await self._send(request_of("PUT", f"{PEOPLE}/large", b"x" * (1 << 20), length=12 << 20))

    async def slow_reader(self, number: int) -> str:
        return await self._send(request_of("GET", _LARGE), reads=False)

    async def stream(self, number: int) -> str:
        return await self._send(request_of("GET", "/api/events"))

    async def waiter(self, number: int) -> str:
        body = json.dumps({"slug": f"w{number}", "name": "W"}).encode()
        return await self._send(request_of("PUT", f"{PEOPLE}/w{number}", body, prefer="wait=5"))

    async def rush(self, number: int) -> str:
        return await self._send(request_of("GET", f"{PEOPLE}?limit=100"))

    async def ahead(self, number: int) -> str:
        return await self._send(request_of("GET", f"{PEOPLE}?limit=100") * 1000)

    # --- Greedy ones: each asks again and again, until the other client is done ---

    async def sorting(self, number: int) -> str:
        return await self._insist(request_of("GET", f"{PEOPLE}?sort={','.join(['name'] * 950)}"))

    async def bombs(self, number: int) -> str:
        return await self._insist(request_of("GET", f"{PEOPLE}?limit=1000"))

    async def histories(self, number: int) -> str:
        return await self._insist(request_of("GET", f"{PEOPLE}/visitor-1/history?limit=1000"))

    async def logs(self, number: int) -> str:
        return await self._insist(request_of("GET", "/api/commits?limit=1000"))

    async def ranges(self, number: int) -> str:
        return await self._insist(request_of("GET", _LARGE, extra=["Range: bytes=-1"]))

    async def odd_methods(self, number: int) -> str:
        numbers = itertools.count()
        requests = (request_of(f"M{next(numbers)}X{number}", f"/{number}/{next(numbers)}") for _ in numbers)
        return await self._insist(*itertools.islice(requests, 1000))

    async def keys(self, number: int) -> str:
        body = json.dumps({"slug": f"k{number}", "name": "K"}).encode()
        keys = (f"Idempotency-Key: {number}-{each}" for each in range(1000))
        return await self._insist(
            *(request_of("PUT", f"{PEOPLE}/k{number}", body, extra=[each]) for each in keys)
        )

    async def runaway_write(self, number: int) -> str:
        body = json.dumps({"slug": f"r{number}"}).encode()
        return await self._send(request_of("PUT", f"/api/sheets/wild/records/r{number}", body, closes=True))

    async def runaway_read(self, number: int) -> str:
        sheet = f"/api/sheets/wild{number % _RUNAWAYS}/records"
        return await self._send(request_of("GET", sheet, closes=True))

    async def deep_markdown(self, number: int) -> str:
        body = json.dumps({"slug": f"d{number}", "text": ">" * 100_000}).encode()
        return await self._send(request_of("PUT", f"/api/sheets/pages/records/d{number}", body, closes=True))

    # --- Clients ---

    async def _attack(self, one: Callable[[int], Awaitable[str]], number: int) -> str:
        try:
            return await one(number)
        except OSError:
            return "reset"

    async def _send(self, data: bytes, *, reads: bool = True) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1024)
        try:
            writer.write(data)
            await writer.drain()
            if not reads:
                await asyncio.sleep(self._seconds)
            first = await reader.read(12)
            while await reader.read(1 << 16):
                pass
            return first[9:].decode("latin-1") or "closed"
        finally:
            writer.close()

    async def _insist(self, *requests: bytes) -> str:
        """
        Send one request after the other, over and over; returns how many were answered in which way.
        """
        ends: _Ends = Counter()
        for request in itertools.cycle(requests):
            if self._is_over.is_set():
                break
            try:
                ends[await self._send(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))] += 1
            except OSError:
                ends["reset"] += 1
        return ends.most_common(1)[0][0] if ends else "none"

    async def _probe(self, path: str, row: Row) -> float:
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(30):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port, local_addr=_OTHER)
                writer.write(request_of("GET", path, closes=True))
                answer = await reader.read()
                writer.close()
            if answer[9:12] != b"200":
                row.failed[answer[9:12].decode("latin-1") or "closed"] += 1
        except OSError as exc:  # TimeoutError too
            row.failed[type(exc).__name__] += 1
        return time.perf_counter() - begun

    def _memory_mib(self) -> float:
        main = psutil.Process(self._process.pid)
        return sum(each.memory_info().rss for each in (main, *main.children())) / (1 << 20)


def request_of(
    method: str,
    path: str,
    body: bytes = b"",
    *,
    length: int | None = None,
    prefer: str = "",
    closes: bool = False,
    extra: Sequence[str] = (),
) -> bytes:
    """
    Return an HTTP request as it goes over the wire.
    """
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *extra]
    if body:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    if prefer:
        lines.append(f"Prefer: {prefer}")
    if closes:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + body


def _plant(data: Bare) -> None:
    """
    Put a history and a file into the repository that would be dear if they were read whole.
    """
    data.grow(_HISTORY, files=2)
    bomb = Objects(data.path).write("blob", b'slug = "bomb"\nname = "' + bytes(_BOMB_BYTES))
    data.git("read-tree", "main")
    data.git("update-index", "--add", "--cacheinfo", f"100644,{bomb},people/bomb.toml")
    commit = data.git("commit-tree", "-p", "main", "-m", "a bomb", data.git("write-tree"))
    data.git("update-ref", "refs/heads/main", commit)


def _declare_runaways(repository: Path) -> None:
    """
    Declare sheets that take all they are given, as one who may push to the remote can.
    """
    loop = "(function () { for (;;) ; } )()"
    when_opened = f"1) }} }}, {loop}, () => {{ with ({{ }} ) {{ (1"
    declared = {
        "wild": "path = '${{ " + loop + " }}'",
        "pages": "path = '${{ slug }}'\n[gitsheet.format]\ntype = 'markdown'\nbody = 'text'",
        **{f"wild{number}": "path = '${{ " + when_opened + " }}'" for number in range(_RUNAWAYS)},
    }
    head, author = Bare(repository).head(), ("A", "a@example.org")
    with gitsheets.transact(
        str(repository), "Run away", int(time.time()), parent=head, branch="refs/heads/main", author=author
    ) as transaction:
        for name, text in declared.items():
            transaction.write_file(f".gitsheets/{name}.toml", f"[gitsheet]\nroot = '{name}'\n{text}\n")


@contextlib.contextmanager
def served(directory: Path) -> Iterator[tuple[int, Process]]:
    """
    Serve a sample repository, whose remote is not there, from one API process.
    """
    data = Bare(directory / "data.git")
    make_sample_repository(data.path)
    _plant(data)
    _declare_runaways(data.path)
    port = free_port()
    with ValkeyServer() as valkey:
        env = {
            "CFP_DATA_REPO_PATH": str(directory / "data.git"),
            "CFP_DATA_REMOTE": str(directory / "away.git"),
            "CFP_REDIS_URL": f"redis://127.0.0.1:{valkey.port}/0",
        }
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "--config",
            "python:ferry.app.production",
            "--bind",
            f"127.0.0.1:{port}",
        ]
        process = Process([*command, "ferry.app:create_app(open_access=True)"], env, directory / "api.log")
        process.spawn()
        try:
            wait_until(lambda: accepts(port), timeout_s=60, what="the API")
            yield port, process
        finally:
            process.kill()


async def _besiege(siege: Siege, scale: float) -> list[Row]:
    await siege.prepare()
    rows = []
    sys.stdout.write(
        f"{'attack':<34} {'clients':>7} {'health':>8} {'read':>8} {'MiB':>7}  how the attackers ended\n"
    )
    sys.stdout.write(f"{'':<34} {'':>7} {'p99 ms':>8} {'p99 ms':>8}\n")
    attacks = [
        ("none", 1, siege.nothing),
        ("connections that say nothing", 500, siege.mute),
        ("half a header", 500, siege.half_a_header),
        ("slow bodies", 200, siege.slow_body),
        ("bodies of a MiB that stop there", 200, siege.large_body),
        ("readers that read nothing", 100, siege.slow_reader),
        ("event streams", 1000, siege.stream),
        ("waiting writers, the remote away", 200, siege.waiter),
        ("writes to a sheet that never ends", 100, siege.runaway_write),
        ("reads of sheets that never open", 100, siege.runaway_read),
        ("markdown that ends its renderer", 50, siege.deep_markdown),
        ("reads, all at once", 1000, siege.rush),
        ("a thousand reads sent ahead", 50, siege.ahead),
        ("sorts by 950 fields", 50, siege.sorting),
        ("lists with a file that inflates", 50, siege.bombs),
        ("histories of a thousand commits", 50, siege.histories),
        ("logs of a thousand commits", 50, siege.logs),
        ("the last byte of a large file", 50, siege.ranges),
        ("methods and addresses of their own", 50, siege.odd_methods),
        ("idempotency keys", 20, siege.keys),
    ]
    for attack, clients, one in attacks:
        row = await siege.row(attack, max(1, int(clients * scale)), one)
        sys.stdout.write(f"{row.line()}\n")
        sys.stdout.flush()
        rows.append(row)
    return rows


def main() -> int:
    """
    Attack, and print the table.
    """
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "--seconds", type=float, default=40, help="how long a row waits for the attackers' ends"
    )
    arguments.add_argument("--scale", type=float, default=1, help="of the number of clients")
    given = arguments.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with (
        tempfile.TemporaryDirectory(prefix="ferry-siege-") as directory,
        served(Path(directory)) as (port, process),
    ):
        rows = asyncio.run(_besiege(Siege(port, process, given.seconds), given.scale))
        errors = process.text().count('"level": "error"')
    out = [row.attack for row in rows if not row.is_within_bound]
    sys.stdout.write(f"{errors} lines of errors in the API's log\n")
    sys.stdout.write(f"out of their bound: {', '.join(out)}\n" if out else "every row is within its bound\n")
    return 1 if out else 0


if __name__ == "__main__":
    sys.exit(main())
