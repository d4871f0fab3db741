"""
The table of `make bench` says what was measured, and a measurement measures.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.table import against, in_turns_ms, p99, rendered

ROOT = Path(__file__).resolve().parents[2]


def test_the_99th_percentile_is_a_sample():
    assert p99([float(number) for number in range(1, 101)]) == 99
    assert p99([5.0]) == 5
    assert p99([1.0, 9.0, 2.0]) == 9


@pytest.mark.parametrize(
    ("ours", "met"),
    [([1.0] * 100, True), ([1.2] * 100, False), ([1.0] * 98 + [3.0] * 2, False), ([1.0] * 99 + [9.0], True)],
    ids=["as quick", "slower", "slow at times", "slow once in a hundred"],
)
def test_a_figure_is_held_against_its_floor(ours, met):
    figure = against("x", ours, [1.0, 1.0, 50.0], floor_is="git", at_most=1.15, p99_at_most=2.0)
    assert figure.met is met


def test_the_table_shows_figure_floor_and_ratio():
    figure = against("one push", [3.0], [2.0], floor_is="git push", at_most=1.25)
    row = [cell.strip() for cell in rendered([figure]).splitlines()[2].strip("|").split("|")]
    assert row == ["one push", "3 ms", "3", "2 (git push)", "1.50", "≤ 1.25 ×", "**no**"]


def test_both_are_measured_equally_often():
    done = []
    ours, floor = in_turns_ms(lambda: done.append("o"), lambda: done.append("f"), turns=3, each=4)
    assert (len(ours), len(floor)) == (12, 12)
    assert done.count("o") == done.count("f")
