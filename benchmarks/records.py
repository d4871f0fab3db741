"""
How the number of records matters where the path template spreads them over directories.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks.ground import MAIN, Ground, git, path_of, settle
from benchmarks.table import Figure, samples_ms
from tests.parts import Bare

_FEW, _MANY = 1_000, 100_000
_TURNS, _WARM_UP = 45, 5
_BARE_PUSH, _CHECK = "a bare git push", "the remote's own check of a push"
_FLOORS = {_BARE_PUSH, _CHECK}


def growth(ground: Ground) -> list[Figure]:
    """
    Write, push and read at a thousand and at a hundred thousand records, in turns, and what git does there.
    """
    works = [_works(ground, records) for records in (_FEW, _MANY)]
    taken: list[dict[str, list[float]]] = [{what: [] for what in each} for each in works]
    for turn in range(_TURNS):
        for work, samples in zip(works, taken, strict=True):
            for what, do in work.items():
                sample = samples_ms(do, 1, warm_up=0)
                samples[what] += sample if turn >= _WARM_UP else []
    few, many = ({what: statistics.median(each) for what, each in samples.items()} for samples in taken)
    return [
        Figure(
            name=f"{what} at {_MANY:,} records, sharded",
            unit="ms",
            value=many[what],
            floor=few[what],
            floor_is=f"{_FEW:,}",
            target="stated" if what in _FLOORS else "< 1.5 ×",
            met=None if what in _FLOORS else many[what] < 1.5 * few[what],
        )
        for what in few
    ]


def _works(ground: Ground, records: int) -> dict[str, Callable[[], object]]:
    site = ground.site(f"sharded-{records}", records=records, sharded=True)
    plain = Bare.init(site.data.parent / "plain.git").path
    for remote in ("origin", str(plain)):
        git(site.data, "push", "--quiet", remote, MAIN)
    client = ground.client(site)
    ground.worker(site)
    settle(site)
    commits: list[str] = []
    # All over the sheet, and never the same one twice.
    numbers = iter(range(7, 10**9, 7919))

    def write() -> None:
        number = next(numbers)
        commits.append(site.write(number % records, sharded=True, name=f"Name {number}"))

    def push() -> None:
        site.queue.enqueue_push(commits[-1])
        site.await_arrival(commits[-1])

    def bare_push() -> None:
        git(site.data, "push", "--quiet", str(plain), MAIN)

    def check() -> None:
        # What receive-pack does before it takes a push: does it have all that the new commits name?
        git(site.remote, "rev-list", "--objects", "--quiet", MAIN, f"^{MAIN}~1")

    def read() -> None:
        path = path_of(next(numbers) % records, sharded=True)
        assert client.get(f"/api/sheets/people/records/{path}").status_code == 200

    return {"a write": write, "a push": push, _BARE_PUSH: bare_push, _CHECK: check, "a read": read}
