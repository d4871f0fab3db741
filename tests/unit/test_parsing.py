"""
git reads many records at once, and this process a few.
"""

from __future__ import annotations

import pytest

from ferry.app.store import parsing
from ferry.app.store.store import Store
from ferry.worker.git import inventory
from ferry.worker.git.packs import Packs
from tests.line import Deployment
from tests.parts import Bare


@pytest.mark.parametrize(
    ("records", "is_packed", "by_git"),
    [(8, True, 0), (9, True, 9), (9, False, 0), (30, False, 0), (31, False, 31)],
)
def test_git_is_started_where_it_is_faster(
    deployment: Deployment, data: Bare, monkeypatch, records: int, is_packed: bool, by_git: int
):
    paths = [f"people/visitor-{number}.toml" for number in range(records)]
    data.edit({path: f'slug = "visitor-{number}"\n' for number, path in enumerate(paths)})
    blobs = data.git("rev-parse", *[f"main:{path}" for path in paths]).split()
    if is_packed:
        Packs(deployment.repository.git).pack_loose_objects(timeout_s=20)
        Packs(deployment.repository.git).prune_packed()
    read, asked = inventory.read, []

    def read_and_note(git, names, **options):
        asked.extend(names)
        return read(git, names, **options)

    monkeypatch.setattr(inventory, "read", read_and_note)
    sheet = Store(deployment.repository).snapshot().sheet("people")

    found: dict = {}
    for some in parsing.parsed(deployment.repository, blobs, sheet):
        found |= some

    assert [found[blob]["slug"] for blob in blobs] == [f"visitor-{number}" for number in range(records)]
    assert len(asked) == by_git
