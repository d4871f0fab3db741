"""
The quick form of ``python -m tests.colleagues``.
"""

from __future__ import annotations

import pytest
import sentry_sdk

from tests.colleagues import Traffic, run


@pytest.fixture(autouse=True)
def _no_sentry_afterwards():
    yield
    sentry_sdk.init()


def test_writes_and_merges_of_other_records_meet_without_a_page(tmp_path, valkey_port):
    """
    With ``auto``, whatever meets whatever: nothing is lost, readers see one history, and no one is woken.
    """
    report = run(tmp_path, "auto", Traffic(writes=30, merges=12, nudges=8, packings=1), 4, port=valkey_port)
    assert report.is_clean, report.told()
    assert (len(report.ours), len(report.theirs)) == (30, 12)
    assert report.pages == [], report.told()


def test_with_manual_each_divergence_pages_once_and_nothing_is_lost(tmp_path, valkey_port):
    """
    One in five merges touches a record that the API writes; an operator joins what is paged.
    """
    traffic = Traffic(writes=25, merges=10, nudges=6, overlap=0.2, packings=0)
    report = run(tmp_path, "manual", traffic, 5, port=valkey_port)
    assert report.is_clean, report.told()
    assert (len(report.ours), len(report.theirs)) == (25, 10)
