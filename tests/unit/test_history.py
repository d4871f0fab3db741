"""
That the history of landed pushes stays small, and that no push ever depends on it.
"""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from ferry.worker.ledger.landings import KEPT, Landing, recall, remember


def _landing(number: int) -> Landing:
    return Landing(at=1_800_000_000.5 + number, lag_s=0.25, duration_s=0.125, commits=number)


def test_what_is_remembered_is_recalled_in_order(tmp_path):
    path = tmp_path / "origin.history"
    assert recall(path) == []
    for number in range(3):
        remember(path, _landing(number))
    assert recall(path) == [_landing(number) for number in range(3)]


def test_it_stays_small_and_keeps_the_newest(tmp_path):
    path, sizes = tmp_path / "origin.history", set()
    for number in range(5 * KEPT):
        remember(path, _landing(number))
        sizes.add(path.stat().st_size)
    assert [landing.commits for landing in recall(path)] == list(range(4 * KEPT, 5 * KEPT))
    assert max(sizes) < 130_000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", [b'\n{"at": 1', b"\nnull", b"\n[]", b"\n\xff", b"\n", b'\n{"at": "x"}'])
def test_a_damaged_line_takes_no_other_with_it(tmp_path, damage):
    path = tmp_path / "origin.history"
    remember(path, _landing(1))
    with path.open("ab") as history:
        history.write(damage)
    remember(path, _landing(2))
    assert recall(path) == [_landing(1), _landing(2)]


def test_what_cannot_be_written_is_logged_and_nothing_else(tmp_path):
    path = tmp_path / "away" / "origin.history"
    with capture_logs() as logged:
        remember(path, _landing(1))
    assert [line["event"] for line in logged] == ["history.write_failed"]


def test_a_push_that_lands_is_in_the_history(deployment, data, remote):
    with deployment.ledger.claim("origin") as claim:
        claim.landed(_landing(7))
    assert deployment.ledger.history("origin") == [_landing(7)]
    assert deployment.ledger.history("other") == []
