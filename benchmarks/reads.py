"""
Reading over HTTP, as far as the server's own time goes.
"""

from __future__ import annotations

import statistics

import gitsheets
from flask.testing import FlaskClient

from benchmarks.ground import Ground, Site, record, timed_s
from benchmarks.table import Figure, p99, samples_ms
from ferry.app.services import EXTENSION
from ferry.app.store.listing import MOST_BYTES

_RECORDS = 10_000
_MANY_RECORDS = 100_000
_PEOPLE = "/api/sheets/people/records"
# One of each kind: filters, searches and orders, alone and together.
_QUERIES = (
    "age=42",
    "age[gte]=18&age[lt]=65",
    "name[contains]=99",
    "name[startswith]=Person 9",
    "name[gte]=Person 5",
    "or[0][age][lt]=18&or[1][name][startswith]=Person 9",
    "not[age][lt]=50",
    "age[exists]=false",
    "q=pers\u00f6n 99",
    "sort=name",
    "age[gte]=18&sort=-age,name",
)


def one_and_many(ground: Ground) -> list[Figure]:
    """
    One record, and a filtered list, of a flat sheet of ten thousand; the sheet was asked for before.
    """
    site = ground.site("reads", records=_RECORDS)
    client = ground.client(site)
    numbers = iter(range(1, 100_000, 7))

    def get(path: str) -> None:
        answer = client.get(path)
        assert answer.status_code == 200, answer.text

    one = samples_ms(lambda: get(f"/api/sheets/people/records/p{next(numbers) % _RECORDS:06d}"), 300)
    filtered = "/api/sheets/people/records?age=42&limit=100"
    many = samples_ms(lambda: get(filtered), 60)
    return [
        _figure(site, f"GET of one record of {_RECORDS:,}", one, "p000500", {}, 1.0),
        _figure(site, f"GET of a filtered list of {_RECORDS:,}", many, "${{ slug }}", {"age": 42}, 10.0),
    ]


def finding(ground: Ground) -> list[Figure]:
    """
    Lists of flat sheets of ten thousand and a hundred thousand records: the slowest of several queries.
    """
    small, large = (ground.site(f"find-{count}", records=count) for count in (_RECORDS, _MANY_RECORDS))
    slowest = _slowest(ground.client(small))
    client = ground.client(large)
    first = timed_s(lambda: _list(client))
    by_gitsheets = timed_s(lambda: _query(large, "${{ slug }}", {}))
    listing = client.application.extensions[EXTENSION].listing
    plain = listing.held_bytes
    warm = _slowest(client)
    after = []
    for number in range(20):
        sent = client.put(f"{_PEOPLE}/p{5000 * number:06d}", json=record(5000 * number, name=f"New {number}"))
        assert sent.status_code == 200, sent.text
        after.append(1000 * timed_s(lambda: _list(client)))
    memory = f"{MOST_BYTES >> 20} MiB for all lists"
    return [
        _within(f"the slowest of {len(_QUERIES)} queries of {_RECORDS:,}", slowest, 10),
        _within(f"the slowest of {len(_QUERIES)} queries of {_MANY_RECORDS:,}", warm, 100),
        _within(f"the first list of {_MANY_RECORDS:,}", [1000 * first], 1000, floor_ms=1000 * by_gitsheets),
        _within(f"the list of {_MANY_RECORDS:,} after a write", after, 20),
        _memory(f"memory of {_MANY_RECORDS:,} records", plain, memory),
        _memory("the same, with what those queries and 20 writes have left", listing.held_bytes, memory),
    ]


def _list(client: FlaskClient, query: str = "") -> None:
    answer = client.get(f"{_PEOPLE}?{query}")
    assert answer.status_code == 200, answer.text


def _query(site: Site, template: str, where: dict[str, int]) -> None:
    head = site.pipeline.repository.head()
    gitsheets.record_query(str(site.data), head, "people", template, where, ".toml")


def _slowest(client: FlaskClient) -> list[float]:
    """
    Return the samples of the query with the largest median, in milliseconds.
    """
    taken = [samples_ms(lambda query=query: _list(client, query), 11, warm_up=2) for query in _QUERIES]
    return max(taken, key=statistics.median)


def _within(name: str, taken: list[float], limit_ms: float, *, floor_ms: float | None = None) -> Figure:
    value = statistics.median(taken)
    return Figure(
        name=name,
        unit="ms",
        value=value,
        floor=floor_ms,
        floor_is="gitsheets",
        target=f"≤ {limit_ms:g} ms",
        met=value <= limit_ms,
    )


def _memory(name: str, size: int, target: str) -> Figure:
    return Figure(name=name, unit="MiB", value=size / (1 << 20), target=target, met=size <= MOST_BYTES)


def _figure(
    site: Site, name: str, taken: list[float], template: str, where: dict[str, int], limit_ms: float
) -> Figure:
    floor = samples_ms(lambda: _query(site, template, where), 10)
    return Figure(
        name=name,
        unit="ms",
        value=statistics.median(taken),
        p99=p99(taken),
        floor=statistics.median(floor),
        floor_is="gitsheets",
        target=f"≤ {limit_ms:g} ms",
        met=statistics.median(taken) <= limit_ms,
    )
