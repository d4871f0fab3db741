"""
How the number of records matters where the path template spreads them over directories.
"""

from __future__ import annotations

import statistics

from app import create_app
from benchmarks.ground import MAIN, Ground, git, path_of
from benchmarks.table import Figure, samples_ms

_FEW, _MANY = 1_000, 100_000
_CHECK = "the remote's own check of that push"


def growth(ground: Ground) -> list[Figure]:
    """
    Write, push and read at a thousand and at a hundred thousand records.
    """
    few, many = (_medians(ground, records) for records in (_FEW, _MANY))
    return [
        Figure(
            name=f"{what} at {_MANY:,} records, sharded",
            unit="ms",
            value=many[what],
            floor=few[what],
            floor_is=f"{_FEW:,}",
            target="stated" if what == _CHECK else "< 1.5 ×",
            met=None if what == _CHECK else many[what] < 1.5 * few[what],
        )
        for what in few
    ]


def _medians(ground: Ground, records: int) -> dict[str, float]:
    site = ground.site(f"sharded-{records}", records=records, sharded=True)
    git(site.data, "push", "--quiet", str(site.remote), MAIN)
    client = create_app(site.env, open_access=True).test_client()
    # All over the sheet, and never the same one twice.
    numbers = iter(range(7, 10**9, 7919))

    def write() -> None:
        number = next(numbers)
        site.write(number % records, sharded=True, name=f"Name {number}")

    def push() -> None:
        git(site.data, "push", "--quiet", str(site.remote), MAIN)

    def read() -> None:
        path = path_of(next(numbers) % records, sharded=True)
        assert client.get(f"/api/sheets/people/records/{path}").status_code == 200

    def check() -> None:
        # What receive-pack does before it takes a push: does it have all that the new commits name?
        git(site.remote, "rev-list", "--objects", "--quiet", MAIN, f"^{MAIN}~1")

    taken: dict[str, list[float]] = {}
    for turn in range(40):
        for what, work in {"a write": write, "a push": push, _CHECK: check, "a read": read}.items():
            sample = samples_ms(work, 1, warm_up=0)
            taken.setdefault(what, []).extend(sample if turn > 4 else [])
    return {what: statistics.median(samples) for what, samples in taken.items()}
