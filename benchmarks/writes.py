"""
Writing: one record by ``transact``, and many clients over HTTP.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import threading
import time

import psutil

from benchmarks.ground import Ground, Site, bare_write, cpu_s, timed_s
from benchmarks.table import Figure, against, in_turns_ms
from ferry.app.dev.stack import LOOPBACK, accepts, free_port
from ferry.worker.git import refs
from tests.parts import wait_until

_CLIENTS = 8
_EACH = 25
_TURNS = 10
_API_PROCESSES = 2


def by_transact(ground: Ground) -> list[Figure]:
    """
    One record in sheets of two sizes, with and without what makes it durable.
    """
    return [
        _by_transact(ground, 1_000),
        _without_disk(ground),
        _signed(ground),
        _by_transact(ground, 10_000),
    ]


def _signed(ground: Ground) -> Figure:
    """
    The first figure with a signature, beside the same without one.
    """
    plain = ground.site("transact-signed", records=1_000)
    key = ground.directory / "signing_key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=60)
    signing = ground.over(plain.data, plain.remote, CFP_DATA_SIGNING_KEY_PATH=str(key))
    numbers = iter(range(100_000))

    def write(site: Site) -> None:
        number = next(numbers)
        site.write(number % 1_000, name=f"Name {number}")

    taken = in_turns_ms(lambda: write(signing), lambda: write(plain), turns=8, each=15)
    return against("the same, signed (ed25519)", *taken, floor_is="unsigned", at_most=1.25)


def _by_transact(ground: Ground, records: int, *, what: str = "") -> Figure:
    name = f"transact-{records}{'-bare' if what else ''}"
    # One repository for both: where a directory lies on the disk decides how quickly files are made in it.
    site = ground.site(name, records=records)
    numbers = iter(range(100_000))

    def ours() -> None:
        number = next(numbers)
        site.write(number % records, name=f"Name {number}")

    def floor() -> None:
        number = next(numbers)
        bare_write(site.data, number % records, name=f"Name {number}")

    taken = in_turns_ms(ours, floor, turns=8, each=15)
    return against(f"transact of one record at {records:,}{what}", *taken, floor_is="gitsheets", at_most=1.25)


def _without_disk(ground: Ground) -> Figure:
    """
    What is left of the first figure without the flushes: gitsheets makes none.
    """
    sync, fsync = refs.flush_file_system, refs.flush_directory
    refs.flush_file_system, refs.flush_directory = lambda fd, path: None, lambda path: None
    try:
        return _by_transact(ground, 1_000, what=", not durable")
    finally:
        refs.flush_file_system, refs.flush_directory = sync, fsync


def over_http(ground: Ground) -> list[Figure]:
    """
    Eight clients against two API processes, and gitsheets alone in one.
    """
    site = ground.site("http")
    rates: dict[str, list[float]] = {"ours": [], "floor": []}
    port = free_port()
    log = ground.directory / "api.log"
    with log.open("wb") as output:
        api = subprocess.Popen(
            [
                sys.executable, "-m", "gunicorn", "--config", "python:ferry.app.production", "--bind",
                f"{LOOPBACK}:{port}", "--workers", str(_API_PROCESSES), "--threads", "8",
                "--log-level", "warning", "ferry.app:create_app(open_access=True)",
            ],
            cwd=ground.directory, env=site.env, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        wait_until(lambda: accepts(port), timeout_s=30, what="the API")
        _put(http.client.HTTPConnection(LOOPBACK, port), 0, "warm")
        family = psutil.Process(api.pid).children(recursive=True)
        busy_s = 0.0
        for turn in range(_TURNS):
            rates["floor"].append(_bare_rate(site, turn))
            before = cpu_s(family)
            rates["ours"].append(_rate(port, turn))
            busy_s += cpu_s(family) - before
    finally:
        api.terminate()
        api.wait(30)
    rate, floor = statistics.median(rates["ours"]), statistics.median(rates["floor"])
    return [
        Figure(
            name=f"writes over HTTP, {_CLIENTS} clients, {_API_PROCESSES} processes",
            unit="/s",
            value=rate,
            floor=floor,
            floor_is="gitsheets",
            target="≥ 0.7 ×",
            met=rate >= 0.7 * floor,
        ),
        Figure(
            name="the same: processor time of the API for one write",
            unit="ms",
            value=1000 * busy_s / (_TURNS * _CLIENTS * _EACH),
            floor=1000 / floor,
            floor_is="gitsheets, all of its time",
            target="stated",
            met=None,
        ),
    ]


def _bare_rate(site: Site, turn: int) -> float:
    writes = range(_CLIENTS * _EACH)
    return len(writes) / timed_s(
        lambda: [bare_write(site.data, number % 200, name=f"Turn {turn} {number}") for number in writes]
    )


def _rate(port: int, turn: int) -> float:
    def client(which: int) -> None:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=60)
        for number in range(_EACH):
            _put(connection, _CLIENTS * number + which, f"turn {turn}")

    threads = [threading.Thread(target=client, args=(which,)) for which in range(_CLIENTS)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _CLIENTS * _EACH / (time.perf_counter() - begun)


def _put(connection: http.client.HTTPConnection, number: int, name: str) -> None:
    slug = f"p{number % 200:06d}"
    body = json.dumps({"slug": slug, "name": f"{name} {number}"})
    connection.request(
        "PUT", f"/api/sheets/people/records/{slug}", body=body, headers={"Content-Type": "application/json"}
    )
    answer = connection.getresponse()
    answer.read()
    assert answer.status in (200, 201), answer.status
