"""
What the sweep finds, and when it counts as late.
"""

from __future__ import annotations

import json

import pytest
from structlog.testing import capture_logs

from ferry.worker.files import moments
from tests.line import Line
from tests.parts import Bare


@pytest.fixture
def uptime(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """
    The machine's own clock, which stands still.
    """
    now = [1000.0]
    monkeypatch.setattr(moments, "_uptime_s", lambda: now[0])
    return now


@pytest.mark.parametrize("step_s", [-3600, 0, 3600])
def test_a_clock_that_is_set_does_not_hide_that_sweeps_are_late(line: Line, uptime, step_s: int):
    line.sweeper.sweep()
    line.clock.wind(step_s)
    assert not line.sweeper.is_late()
    uptime[0] += 46
    assert line.sweeper.is_late()


def test_a_sweep_before_the_machine_started_is_measured_by_the_clock(line: Line, uptime, monkeypatch):
    line.sweeper.sweep()
    monkeypatch.setattr(moments, "_boot", lambda: "another start")
    assert not line.sweeper.is_late()
    line.clock.wind(46)
    assert line.sweeper.is_late()


@pytest.mark.parametrize("content", [{}, {"at": "soon"}, {"at": None}, {"at": 1, "uptime_s": "x"}])
def test_a_record_of_another_version_counts_as_late(line: Line, data: Bare, content):
    (data.path / "ferry" / "sweep.json").write_text(json.dumps(content))
    assert line.sweeper.is_late()


def test_a_damaged_ref_of_a_mirror_ends_no_sweep(line_with, data: Bare, tmp_path):
    """
    Each remote is looked at by itself, and all that want something are found.
    """
    line = line_with(CFP_DATA_MIRRORS=f"backup={tmp_path}/mirror.git")
    damaged = data.path / "refs" / "remotes" / "backup" / "main"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("damaged")
    (data.path / "ferry" / "remotes" / "origin.json").unlink(missing_ok=True)

    with capture_logs():
        assert line.wanting() == {"origin": data.head(), "backup": data.head()}
        assert line.sweeper.unseen() == ["origin", "backup"]
