"""
How the length of the history matters, where one remote was never reached.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from benchmarks.ground import Ground, git, path_of
from benchmarks.table import Figure, samples_ms
from ferry.worker.git.packs import Packs

_FEW, _MANY = 1_000, 50_000
_TURNS = 20


def answers(ground: Ground) -> list[Figure]:
    """
    Ask for what the history has behind it, at a thousand and at fifty thousand commits, in turns.
    """
    works = [_works(ground, commits) for commits in (_FEW, _MANY)]
    taken: list[dict[str, list[float]]] = [{what: [] for what in each} for each in works]
    for _ in range(_TURNS):
        for work, samples in zip(works, taken, strict=True):
            for what, do in work.items():
                samples[what] += samples_ms(do, 1, warm_up=0)
    few, many = ({what: statistics.median(each) for what, each in samples.items()} for samples in taken)
    return [
        Figure(
            name=f"{what} at {_MANY:,} commits",
            unit="ms",
            value=many[what],
            floor=few[what],
            floor_is=f"{_FEW:,}",
            target="< 100 ms",
            met=many[what] < 100,
        )
        for what in few
    ]


def _works(ground: Ground, commits: int) -> dict[str, Callable[[], object]]:
    site = ground.site(f"history-{commits}", commits=commits)
    git(site.data, "push", "--quiet", "origin", "main")
    site = ground.over(site.data, site.remote, CFP_DATA_MIRRORS="mirror=/nowhere/mirror.git")
    Packs(site.pipeline.repository.git).write_commit_graph(timeout_s=600)
    client = ground.client(site)
    records = "/api/sheets/people/records"
    numbers = iter(range(10**9))

    def get(address: str) -> Callable[[], object]:
        def ask() -> None:
            assert client.get(address).status_code == 200

        return ask

    def last_page() -> str:
        cursor = client.get("/api/commits?limit=1000").json["next_cursor"]
        for _ in range(min(commits // 1000 - 1, 45)):
            cursor = client.get(f"/api/commits?limit=1000&cursor={cursor}").json["next_cursor"] or cursor
        return f"/api/commits?cursor={cursor}" if cursor else "/api/commits"

    def write() -> None:
        site.write(next(numbers) % 200, name=f"Name {next(numbers)}")

    once = path_of(7, sharded=False)
    return {
        "a write": write,
        "the push status": get("/api/_internal/push"),
        "/metrics": get("/metrics"),
        "the first page of commits": get("/api/commits"),
        "the last page of commits": get(last_page()),
        "the history of a record with one commit": get(f"{records}/{once}/history"),
    }
