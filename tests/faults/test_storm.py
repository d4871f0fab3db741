"""
The quick form of ``make soak``.
"""

from __future__ import annotations

from tests.storm import Storm


def test_nothing_acknowledged_is_lost_while_everything_is_killed(tmp_path):
    """
    Some twenty seconds of writes while API, worker, pool, beat, Redis, git and the remote are killed,
    hung, emptied and taken away: each acknowledged commit is on the branch and on the remote, in order,
    once, and both repositories are whole.
    """
    report = Storm(tmp_path, seed=20261123).run(20)

    assert report.is_clean, report.table()
    assert report.acknowledged > 100, report.table()
    assert sum(report.faults.values()) > 4, report.table()
