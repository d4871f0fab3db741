"""
Where ``ferry verify --clone`` restores to.
"""

from __future__ import annotations

import os

import pytest

from ferry.worker.bootstrap import build
from ferry.worker.errors import RepositoryError
from ferry.worker.git import clone
from ferry.worker.git.credentials import Credentials
from ferry.worker.repair import verify


def test_a_remote_is_restored_on_the_volume_and_leftovers_of_killed_ones_go(env, monkeypatch):
    """
    Not under /tmp, which in a container is a small one in memory.
    """
    pipeline = build(env)
    credentials = Credentials.from_settings(pipeline.settings, env)
    state = pipeline.repository.path / "ferry"
    old, young = state / "restored-old", state / "restored-young"
    for left in (old, young):
        left.mkdir()
    os.utime(old, (0, 0))
    places = []

    def fetch_into(place, *_):
        places.append(place)
        raise RepositoryError("no further")

    monkeypatch.setattr(clone, "fetch_into", fetch_into)
    with pytest.raises(RepositoryError, match="no further"):
        verify.drill(pipeline.settings, credentials, pipeline.repository, "origin", read=str)

    assert [place.parent.parent for place in places] == [state]
    assert [left.name for left in state.glob("restored-*")] == ["restored-young"]
