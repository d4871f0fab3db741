"""
The quick form of ``make soak``.
"""

from __future__ import annotations

from tests.storm import Storm


def test_nothing_acknowledged_is_lost_while_everything_is_killed(tmp_path):
    """
    Writes while API, worker, pool, beat, Redis, git and the remote are killed,
    hung, emptied and taken away, people read, reload, reconcile, push and run git, and the clock jumps:
    each acknowledged commit is on the branch and on the remote, in order, once, both repositories are
    whole, and no page is false.
    """
    report = Storm(tmp_path, seed=20261123).run(8, faults=6, commits=100)

    assert report.is_clean, report.table()
    # A slow machine can keep every worker from trying for as long as makes a push stalled, and what is no
    # page of Ferry's (the words of Celery and kombu) has tests of its own.
    false = [page for page in report.false_pages if not page.startswith(("stalled", "no reason"))]
    assert false == [], report.table()
    assert report.acknowledged >= 100, report.table()
