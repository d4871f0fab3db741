"""
Reading over HTTP, as far as the server's own time goes.
"""

from __future__ import annotations

import statistics

import gitsheets

from benchmarks.ground import Ground, Site
from benchmarks.table import Figure, p99, samples_ms

_RECORDS = 10_000


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


def _figure(
    site: Site, name: str, taken: list[float], template: str, where: dict[str, int], limit_ms: float
) -> Figure:
    head = site.pipeline.repository.head()
    floor = samples_ms(
        lambda: gitsheets.record_query(str(site.data), head, "people", template, where, ".toml"), 10
    )
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
