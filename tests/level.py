"""
A long run, compressed: after its caches are full an API process stays as it is, however many requests come.

    python -m tests.level --seconds 600

A few clients write, list, read, follow and ask for metrics as fast as they are answered. Every so often the
table has a line of what the API's processes hold by then. A quantity is level where in the last third of the
run it is not higher than in the third before, but for a tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import psutil

from tests.parts import Process
from tests.siege import PEOPLE, request_of, served

_LINES = 24
_SLACK = 1.1
_RECORDS = 1000  # whose directory has 40 kB, so that the cache of trees is full soon


@dataclass(frozen=True)
class Held:
    """
    What the API's processes hold at one moment.
    """

    memory_mib: float
    files: float
    threads: float
    processes: float
    state_files: float  # of Ferry's in the repository, but for keys and their answers
    temporary_files: float

    @classmethod
    def now(cls, api: Process, directory: Path) -> Held:
        main = psutil.Process(api.pid)
        family = [main, *main.children(recursive=True)]
        state = directory / "data.git" / "ferry"
        kept = [path for path in state.rglob("*") if "idempotency" not in path.parts]
        ours = list(Path(tempfile.gettempdir()).glob("ferry-metrics-*/*"))
        memory = files = threads = 0.0
        for each in family:
            with contextlib.suppress(psutil.Error):  # git, which has ended meanwhile
                if each.name() != "git":
                    memory += each.memory_info().rss / (1 << 20)
                    files, threads = files + each.num_fds(), threads + each.num_threads()
        return cls(memory, files, threads, len(main.children()) + 1, len(kept), len(ours))


def _requests(number: int) -> Iterator[bytes]:
    """
    Yield what one client asks for, without end.
    """
    chance = random.Random(number)  # noqa: S311 - the same at each run
    for step in itertools.count():
        slug = f"p{chance.randrange(_RECORDS):04}"
        body = json.dumps({"slug": slug, "name": "N" * chance.randrange(1, 200)}).encode()
        yield request_of(
            "PUT", f"{PEOPLE}/{slug}", body, closes=True, extra=[f"Idempotency-Key: {number}-{step}"]
        )
        yield request_of("GET", f"{PEOPLE}/{slug}", closes=True)
        yield request_of("GET", f"{PEOPLE}/none-{step}", closes=True)
        if step % 5 == 0:
            yield request_of("GET", f"{PEOPLE}?limit=100&sort=name", closes=True)
            yield request_of("GET", "/api/commits", closes=True)
        if step % 20 == 0:
            yield request_of("PUT", f"{PEOPLE}/{slug}/attachments/a.bin", body * 100, closes=True)
            yield request_of("GET", f"{PEOPLE}/{slug}/attachments/a.bin", closes=True)
            yield request_of("GET", f"{PEOPLE}/{slug}/history", closes=True)
            yield request_of("GET", "/metrics", closes=True)
            yield request_of("GET", "/api/_internal/push", closes=True)


async def _client(port: int, number: int, done: list[int], until: float) -> None:
    for request in _requests(number):
        if time.monotonic() > until:
            return
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            await reader.read(-1)
            writer.close()
            done[0] += 1


async def _run(port: int, api: Process, directory: Path, seconds: float, clients: int) -> list[Held]:
    until, done, seen = time.monotonic() + seconds, [0], []
    names = [field.name for field in fields(Held)]
    sys.stdout.write(f"{'requests':>10}" + "".join(f"{name:>17}" for name in names) + "\n")
    running = [asyncio.ensure_future(_client(port, number, done, until)) for number in range(clients)]
    for _ in range(_LINES):
        await asyncio.sleep(seconds / _LINES)
        seen.append(Held.now(api, directory))
        sys.stdout.write(f"{done[0]:>10}" + "".join(f"{v:>17.0f}" for v in asdict(seen[-1]).values()) + "\n")
        sys.stdout.flush()
    await asyncio.gather(*running)
    return seen


def rising(seen: list[Held]) -> list[str]:
    """
    Return the quantities that were higher in the last third of what was *seen* than in the one before.
    """
    third = len(seen) // 3
    before, after = seen[-2 * third : -third], seen[-third:]
    return [
        field.name
        for field in fields(Held)
        if max(getattr(each, field.name) for each in after)
        > _SLACK * max(getattr(each, field.name) for each in before) + 1
    ]


def main() -> int:
    """
    Run, and print the table.
    """
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--seconds", type=float, default=600)
    arguments.add_argument("--clients", type=int, default=6)
    given, _ = arguments.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="ferry-level-") as name, served(Path(name)) as (port, api):
        seen = asyncio.run(_run(port, api, Path(name), given.seconds, given.clients))
    rose = rising(seen)
    sys.stdout.write(f"still rising: {', '.join(rose)}\n" if rose else "every quantity is level\n")
    return 1 if rose else 0


if __name__ == "__main__":
    sys.exit(main())
