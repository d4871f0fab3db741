"""
The quick form of ``python -m tests.colleagues``.
"""

from __future__ import annotations

import pytest

from tests.colleagues import Traffic, run


@pytest.mark.parametrize("mode", ["boot", "auto"])
def test_programs_write_while_people_merge(tmp_path, valkey_port, mode):
    """
    One in four merges touches what the API writes, and an operator solves what pages as a person would.
    Nothing is lost, readers see one history, and each divergence pages once; with ``auto``, only a conflict.
    """
    traffic = Traffic(writes=20, merges=8, nudges=5, overlap=0.25, packings=1)
    report = run(tmp_path, mode, traffic, 4, port=valkey_port)
    assert report.is_clean, report.told()
    assert len(report.ours) >= 20
    assert len(report.theirs) == 8
